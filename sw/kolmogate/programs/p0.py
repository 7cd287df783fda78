"""P0, the programs of the generator lanes: encoding, golden decoder, disassembler and encoder.

A program makes rows of int8 weights, one weight a column; `kolmogate.isa.INSTRUCTION` fixes its bits.
Rows per cycle of the decoder are in `kolmogate_hw.lanes`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..isa import INSTRUCTION, P0

__all__ = [
    "MAXIMUM_ROWS",
    "Instruction",
    "Program",
    "assemble",
    "count_rows",
    "decode",
    "disassemble",
    "literal_program",
    "literal_rows",
]

Int8Array = npt.NDArray[np.int8]

MAXIMUM_ROWS = 1 << INSTRUCTION.widths["count"]
"""Rows that one instruction makes at most."""

INSTRUCTION_BYTES = INSTRUCTION.bits // 8


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``rows`` rows whose weights take ``bits`` bits each of the literal stream."""

    op: P0
    rows: int = 1
    bits: int = 0

    def __post_init__(self) -> None:
        widths = range(1, 9) if self.op == P0.LITERAL else range(1)
        if not 1 <= self.rows <= MAXIMUM_ROWS or self.bits not in widths:
            raise InputError(
                f"{self.op.name} of {self.bits} bits x {self.rows} rows is no instruction: rows must be 1 to"
                f" {MAXIMUM_ROWS}, bits {widths[0]} to {widths[-1]}"
            )

    def __str__(self) -> str:
        match self.op:
            case P0.ZERO:
                return f"ZERO     {self.rows} rows"
            case P0.LITERAL:
                return f"LITERAL  {self.bits} bits x {self.rows} rows"
            case P0.END:
                return "END"

    def encode(self) -> int:
        """The instruction as it is stored."""
        return INSTRUCTION.pack(op=self.op, argument=max(self.bits - 1, 0), count=self.rows - 1)

    @classmethod
    def of(cls, word: int) -> "Instruction":
        """From its stored form; raises `InputError` if there is no such operation."""
        fields = INSTRUCTION.unpack(word)
        try:
            op = P0(fields["op"])
        except ValueError:
            raise InputError(f"there is no weight instruction {fields['op']}") from None
        if op == P0.END:
            return cls(op)
        return cls(op, fields["count"] + 1, fields["argument"] + 1 if op == P0.LITERAL else 0)


@dataclass(frozen=True)
class Program:
    """The two streams of a program, whole scratchpad words each."""

    code: bytes
    literals: bytes


def assemble(instructions: Sequence[Instruction], weights: Int8Array, columns: int) -> Program:
    """The program of ``instructions`` and an END, for ``weights`` of shape (rows, columns).

    Raises `InputError` if the instructions make other rows than these.
    """
    _check_rows(weights, columns)
    made = sum(instruction.rows for instruction in instructions)
    if made != len(weights):
        raise InputError(f"the instructions make {made} rows, but there are {len(weights)}")
    needed = _bits_needed(weights)
    literals = [np.zeros((0, columns), np.uint8)]
    row = 0
    for instruction in instructions:
        if instruction.op == P0.END:
            raise InputError("END is added by the assembler and cannot be among the instructions")
        block = slice(row, row + instruction.rows)
        if needed[block].max() > instruction.bits:
            raise InputError(
                f"{instruction} cannot make rows {row} to {block.stop - 1}: a weight there takes"
                f" {needed[block].max()} bits"
            )
        # (rows, columns) to (rows, bits, columns), bits from the least significant up.
        bits = weights[block, np.newaxis].view(np.uint8) >> np.arange(instruction.bits)[:, np.newaxis] & 1
        literals.append(bits.reshape(-1, columns).astype(np.uint8))
        row = block.stop
    words = [instruction.encode() for instruction in (*instructions, Instruction(P0.END))]
    code = np.array(words, f"<u{INSTRUCTION_BYTES}").tobytes()
    return Program(
        code + bytes(-len(code) % columns),
        np.packbits(np.concatenate(literals), axis=0, bitorder="little").tobytes(),
    )


def decode(program: Program, columns: int) -> Int8Array:
    """The weights that a program makes, (rows, columns).

    Raises `InputError` if it holds an unknown instruction, has no END, or reads beyond its literals.
    """
    if len(program.literals) % columns:
        raise InputError(f"the literals are {len(program.literals)} bytes, no whole words of {columns}")
    words = np.frombuffer(program.literals, np.uint8).reshape(-1, columns)
    bits = np.unpackbits(words, axis=0, bitorder="little").view(np.int8)
    blocks = [np.zeros((0, columns), np.int8)]
    position = 0
    for index, instruction in enumerate(_instructions(program)):
        rows, width = instruction.rows, instruction.bits
        end = position + rows * width
        if end > len(bits):
            raise InputError(
                f"instruction {index}, {instruction}, reads {end} bits a lane of {len(bits)}: the literals"
                " are cut short or belong to another program"
            )
        blocks.append(literal_rows(bits[position:end].reshape(rows, width, columns)))
        position = end
    return np.concatenate(blocks)


def literal_rows(bits: Int8Array) -> Int8Array:
    """Rows (rows, columns) of literals (rows, width, columns): two's complement, lowest bit first.

    Literals of no bits, those of ZERO, are zeros.
    """
    places = 1 << np.arange(bits.shape[1])
    places[-1:] *= -1
    return np.einsum("rbc,b->rc", bits, places).astype(np.int8)


def count_rows(program: Program) -> int:
    """How many rows a program makes, without making them. Raises `InputError` as `disassemble` does."""
    return sum(instruction.rows for instruction in _instructions(program))


def disassemble(program: Program) -> list[str]:
    """One line an instruction, END included, with the number of the first row it makes."""
    lines = []
    row = 0
    for instruction in _instructions(program):
        lines.append(f"{row:8}  {instruction}")
        row += instruction.rows
    return [*lines, f"{row:8}  {Instruction(P0.END)}"]


def literal_program(weights: Int8Array, overhead: int = INSTRUCTION.bits) -> list[Instruction]:
    """The cheapest ZERO and LITERAL instructions for ``weights`` of shape (rows, columns), without END.

    ``overhead`` are the bits that an instruction is taken to cost: its own, or more where short instructions
    cost time.

    Dynamic programming over the rows: the cheapest program of the first j rows ends with an instruction of
    b bits for rows i to j, for some b and i. For each b the best i is the least of a window that slides
    with j, kept in a queue whose costs ascend. Time is linear in the rows.
    """
    _check_rows(weights, weights.shape[-1])
    rows, columns = weights.shape
    # Per width b: candidates (cost of the first i rows - i * b * columns, i), best first.
    queues: list[deque[tuple[int, int]]] = [deque() for _ in range(9)]
    costs = [0]
    choices = [(0, 0)]
    for j, needed in enumerate(_bits_needed(weights).tolist(), start=1):
        best = None
        for bits in range(9):
            queue = queues[bits]
            if bits < needed:
                queue.clear()
                continue
            slope = bits * columns
            key = costs[j - 1] - (j - 1) * slope
            while queue and queue[-1][0] > key:
                queue.pop()
            queue.append((key, j - 1))
            if queue[0][1] < j - MAXIMUM_ROWS:
                queue.popleft()
            cost = queue[0][0] + j * slope
            if best is None or cost < best:
                best, choice = cost, (queue[0][1], bits)
        assert best is not None
        costs.append(best + overhead)
        choices.append(choice)
    instructions = []
    j = rows
    while j:
        i, bits = choices[j]
        instructions.append(Instruction(P0.LITERAL if bits else P0.ZERO, j - i, bits))
        j = i
    return instructions[::-1]


def _check_rows(weights: Int8Array, columns: int) -> None:
    if weights.dtype != np.int8 or weights.ndim != 2 or weights.shape[1] != columns:
        raise InputError(
            f"weights must be int8 of shape (rows, {columns}), not {weights.dtype} of shape {weights.shape}"
        )


def _bits_needed(weights: Int8Array) -> npt.NDArray[np.int64]:
    """Bits of two's complement that each row's widest weight takes, 0 for a row of zeros."""
    # ~w has the magnitude bits of a negative w; OR keeps the widest. The sign is one bit more.
    magnitude = np.bitwise_or.reduce(weights ^ (weights >> 7), axis=1, initial=0)
    bits = np.searchsorted(1 << np.arange(8), magnitude, side="right") + 1
    return np.where((weights == 0).all(axis=1), 0, bits)


def _instructions(program: Program) -> Iterator[Instruction]:
    """The instructions before END; raises `InputError` if there is none, or one that is unknown."""
    whole = len(program.code) // INSTRUCTION_BYTES * INSTRUCTION_BYTES
    for word in np.frombuffer(program.code[:whole], f"<u{INSTRUCTION_BYTES}"):
        instruction = Instruction.of(int(word))
        if instruction.op == P0.END:
            return
        yield instruction
    raise InputError("the weight program has no END: it is cut short or not a program")
