"""P0, the instructions of weight programs: encoding, assembler, disassembler.

A program makes rows of int8 numbers, one a column: weights, and the records of requantisation constants.
`kolmogate.isa.INSTRUCTION` fixes its bits, `kolmogate.programs.reader` says what it makes, and
`kolmogate_hw.lanes` how long that takes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..isa import (
    HISTORY_ROWS,
    INSTRUCTION,
    NEW_BITS,
    NO_PREDICTION,
    P0,
    RECORD_WORDS,
    SEEK_WORDS,
    WITHOUT_ARGUMENT,
)
from .entropy import Coder, Reference
from .generate import find

__all__ = [
    "MAXIMUM_ROWS",
    "RECORD_KINDS",
    "RECORD_REFERENCES",
    "SEEK_REACH",
    "Instruction",
    "Program",
    "ProgramEnd",
    "assemble",
    "bits_needed",
    "check_rows",
    "code_words",
    "coded",
    "execute",
    "generate",
    "literal",
    "literal_places",
    "loop",
    "predict",
    "records",
    "seek",
    "skip",
    "walk",
    "zero",
]

Int8Array = npt.NDArray[np.int8]

MAXIMUM_ROWS = 1 << INSTRUCTION.widths["count"]
"""Rows that one instruction makes at most."""

EIGHTHS = 8
"""Parts of the columns that CODED counts in."""

SEEK_REACH = 8 * SEEK_WORDS * (MAXIMUM_ROWS << INSTRUCTION.widths["argument"]) - 8 * SEEK_WORDS
"""The last bit of a lane's literals that SEEK goes to."""

RECORD_KINDS = ("literal", "coded", "coded differences", "coded differences of heads")
"""How records are stored, by the argument of RECORDS."""

RECORD_REFERENCES = {
    1: (Reference(), Reference()),
    2: (Reference(1, 0), Reference()),
    3: (Reference(), Reference(1, 0)),
}
"""How coded records are predicted, by the argument of RECORDS."""

_ROWS = range(1, MAXIMUM_ROWS + 1)
_COUNTS = {
    P0.RECORDS: range(1, RECORD_WORDS + 1),
    P0.PREDICT: range(HISTORY_ROWS),
    P0.SEEK: range(MAXIMUM_ROWS),
    P0.END: range(1, 2),
}
_ARGUMENTS = {
    P0.GENERATE: NEW_BITS,
    P0.LITERAL: range(1, 9),
    P0.SEEK: range(8),
    P0.CODED: range(1, EIGHTHS + 1),
    P0.RECORDS: range(4),
    P0.PREDICT: range(2 * NO_PREDICTION + 2),
    P0.LOOP: range(1, 9),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction; `generate`, `literal`, `zero`, `skip`, `seek`, `coded`, `records`, `predict` and
    `loop` make them.

    Parameters
    ----------
    op : P0
    count : int
        Rows that it makes; of PREDICT the distance, of LOOP how often the body runs again, of SKIP the bits,
        of SEEK the lower bits of where to.
    argument : int
        Of GENERATE the new bits of a weight, of LITERAL all of them, of CODED the eighths of the columns that
        are coded, of RECORDS how they are stored (0 as literals, 1 coded, 2 coded as differences to the row
        above, 3 with such differences in the bytes of `isa.RECORD_HEADS` only), of PREDICT twice the shift
        plus the term's index, of LOOP the instructions of its body, of SEEK the upper bits.
    """

    op: P0
    count: int = 1
    argument: int = 0

    def __post_init__(self) -> None:
        counts = _COUNTS.get(self.op, _ROWS)
        arguments = _ARGUMENTS.get(self.op, range(1))
        if self.count not in counts or self.argument not in arguments:
            raise InputError(
                f"{self.op.name} with count {self.count} and argument {self.argument} is no instruction: the"
                f" count must be {counts[0]} to {counts[-1]}, the argument {arguments[0]} to {arguments[-1]}"
            )

    @property
    def rows(self) -> int:
        """Rows that it makes each time it runs."""
        makers = (P0.GENERATE, P0.ZERO, P0.LITERAL, P0.CODED, P0.RECORDS)
        return self.count if self.op in makers else 0

    @property
    def literal_bits(self) -> int:
        """Bits that a lane passes of the literal stream for each row."""
        if self.op == P0.RECORDS:
            return 0 if self.argument else 8
        return self.argument if self.op in (P0.LITERAL, P0.GENERATE) else 0

    @property
    def passed_bits(self) -> int:
        """Bits that a lane passes of the literal stream in all."""
        return self.count if self.op == P0.SKIP else self.rows * self.literal_bits

    @property
    def reads_literals(self) -> bool:
        """Whether its rows depend on the literal stream."""
        return self.op == P0.GENERATE or self.literal_bits > 0

    @property
    def is_coded(self) -> bool:
        """Whether the entropy engine makes its rows."""
        return self.op == P0.CODED or (self.op == P0.RECORDS and self.argument > 0)

    @property
    def place(self) -> int:
        """Of SEEK: the bit of each lane's literals to go on at."""
        return 8 * SEEK_WORDS * (self.count + MAXIMUM_ROWS * self.argument)

    def live(self, columns: int) -> int:
        """Columns that the entropy engine makes of each row."""
        return columns * (self.argument if self.op == P0.CODED else EIGHTHS) // EIGHTHS

    def __str__(self) -> str:
        match self.op:
            case P0.GENERATE:
                return f"GENERATE {self.argument} new bits x {self.count} rows"
            case P0.LITERAL:
                return f"LITERAL  {self.argument} bits x {self.count} rows"
            case P0.CODED:
                return f"CODED    {self.argument}/8 columns x {self.count} rows"
            case P0.RECORDS:
                return f"RECORDS  {RECORD_KINDS[self.argument]} x {self.count} rows"
            case P0.PREDICT:
                term, shift = self.argument & 1, self.argument >> 1
                if shift == NO_PREDICTION:
                    return f"PREDICT  term {term} nothing"
                source = f"{self.count} rows back" if self.count else "left"
                return f"PREDICT  term {term} 1/{1 << shift} of {source}"
            case P0.LOOP:
                return f"LOOP     {self.argument} instructions x {self.count} more"
            case P0.SEEK:
                return f"SEEK     literal word {self.place // 8}"
            case P0.SKIP:
                return f"SKIP     {self.count} bits"
            case P0.ZERO:
                return f"ZERO     {self.count} rows"
        return self.op.name

    def encode(self) -> int:
        """The instruction as it is stored."""
        count = self.count - _COUNTS.get(self.op, _ROWS)[0]
        if self.op in WITHOUT_ARGUMENT:
            return INSTRUCTION.pack(op=P0.GENERATE, argument=WITHOUT_ARGUMENT[self.op], count=count)
        argument = self.argument - _ARGUMENTS.get(self.op, range(1))[0]
        return INSTRUCTION.pack(op=self.op, argument=argument, count=count)

    @classmethod
    def of(cls, word: int) -> "Instruction":
        """From its stored form, as the device reads it."""
        fields = INSTRUCTION.unpack(word)
        op = P0(fields["op"])
        if op == P0.GENERATE and fields["argument"] not in NEW_BITS:
            (op,) = (other for other, argument in WITHOUT_ARGUMENT.items() if argument == fields["argument"])
        counts, arguments = _COUNTS.get(op, _ROWS), _ARGUMENTS.get(op, range(1))
        # The device does not look at bits that have no meaning: all ranges are powers of two.
        count = counts[fields["count"] % len(counts)]
        argument = arguments[fields["argument"] % len(arguments)]
        return cls(op, count, argument)


def zero(rows: int) -> Instruction:
    return Instruction(P0.ZERO, rows)


def generate(k: int, rows: int) -> Instruction:
    return Instruction(P0.GENERATE, rows, k)


def skip(bits: int) -> Instruction:
    return Instruction(P0.SKIP, bits)


def literal(bits: int, rows: int) -> Instruction:
    return Instruction(P0.LITERAL, rows, bits)


def seek(bit: int) -> Instruction:
    """SEEK to the first place at or behind a bit of each lane's literals, at most `SEEK_REACH`."""
    upper, lower = divmod(-(-bit // (8 * SEEK_WORDS)), MAXIMUM_ROWS)
    return Instruction(P0.SEEK, lower, upper)


def coded(rows: int, eighths: int = EIGHTHS) -> Instruction:
    return Instruction(P0.CODED, rows, eighths)


def records(rows: int, kind: int = 0) -> Instruction:
    return Instruction(P0.RECORDS, rows, kind)


def predict(term: int, reference: Reference) -> Instruction:
    return Instruction(P0.PREDICT, reference.distance, 2 * reference.shift + term)


def loop(instructions: int, times: int) -> Instruction:
    return Instruction(P0.LOOP, times, instructions)


class ProgramEnd(InputError):
    """The program makes no more rows."""


@dataclass(frozen=True)
class Program:
    """The three streams of a program, whole scratchpad words each, in ascending addresses.

    ``coded`` lies just below ``literals`` in memory.
    """

    code: bytes
    coded: bytes
    literals: bytes


def walk(words: npt.NDArray[np.uint16]) -> Iterator[tuple[int, Instruction]]:
    """The instructions in the order in which they run, LOOP among them, to END and with it, and their places.

    Raises `InputError` if one is unknown, `ProgramEnd` if there is no END. It may never end: whoever takes
    instructions counts them.
    """
    # A loop may begin before the first instruction, at the end of a memory that wraps: places below 0.
    place, looping = 0, 0
    while place < len(words):
        instruction = Instruction.of(int(words[place]))
        yield place % len(words), instruction
        if instruction.op == P0.END:
            return
        place += 1
        if instruction.op == P0.LOOP:
            looping = looping - 1 if looping else instruction.count
            if looping:
                place -= instruction.argument + 1
                place += len(words) if place < -len(words) else 0
    raise ProgramEnd("the weight program has no END: it is cut short or not a program")


def execute(words: npt.NDArray[np.uint16]) -> Iterator[Instruction]:
    """The instructions of `walk` alone."""
    return (instruction for _, instruction in walk(words))


def code_words(program: Program) -> npt.NDArray[np.uint16]:
    """The stored instructions."""
    return np.frombuffer(program.code[: len(program.code) // 2 * 2], "<u2")


def assemble(instructions: Sequence[Instruction], rows: Int8Array, columns: int) -> Program:
    """The program of ``instructions`` and an END, for all the ``rows`` (n, columns) that they make in turn.

    Raises `InputError` if they do not make these rows.
    """
    check_rows(rows, columns)
    if any(instruction.op == P0.END for instruction in instructions):
        raise InputError("END is added by the assembler and cannot be among the instructions")
    words = np.array([one.encode() for one in (*instructions, Instruction(P0.END))], "<u2")
    literals = _LiteralStream(columns)
    coder = Coder(columns)
    references = [Reference(), Reference()]
    row = 0
    for instruction in execute(words):
        block = rows[row : row + instruction.rows]
        if len(block) < instruction.rows:
            break
        row += instruction.rows
        if instruction.op == P0.PREDICT:
            references[instruction.argument & 1] = Reference(instruction.count, instruction.argument >> 1)
        elif instruction.op == P0.GENERATE:
            literals.generate(block, instruction)
        elif instruction.op == P0.SKIP:
            literals.finish()
            literals.place += instruction.count
        elif instruction.op == P0.SEEK:
            literals.finish()
            literals.place = instruction.place
        elif instruction.is_coded:
            live = instruction.live(columns)
            if block[:, live:].any():
                raise InputError(f"{instruction} cannot make a row with other columns that are not 0")
            if instruction.op == P0.RECORDS:
                coder.write(block, live, RECORD_REFERENCES[instruction.argument], records=True)
            else:
                coder.write(block, live, references)
        elif instruction.rows:
            width = instruction.literal_bits
            needed = int(bits_needed(block).max())
            if needed > width:
                raise InputError(
                    f"{instruction} cannot make rows {row - len(block)} to {row - 1}: a weight there takes"
                    f" {needed} bits"
                )
            if width:
                bits = block.view(np.uint8)[:, np.newaxis] >> literal_places(width)[:, np.newaxis] & 1
                literals.write(bits.astype(np.uint8))
    else:
        if row == len(rows):
            literals.finish()
            stream = coder.finish()[::-1]
            code = words.tobytes()
            return Program(
                code + bytes(-len(code) % columns),
                bytes(-len(stream) % columns) + stream,
                np.packbits(literals.bits, axis=0, bitorder="little").tobytes(),
            )
    made = sum(instruction.rows for instruction in execute(words))
    raise InputError(f"the instructions make {made} rows, but there are {len(rows)}")


def literal_places(bits: int) -> npt.NDArray[np.int64]:
    """Which bits of a number its literal holds, in the order in which they are read: the sign, then from the
    lowest up."""
    return np.array([bits - 1, *range(bits - 1)][:bits], np.int64)


class _LiteralStream:
    """The bits of each lane's literals, (bits, columns), written from ``place`` on."""

    def __init__(self, columns: int) -> None:
        self.place = 0
        self._bits = np.zeros((1 << 10, columns), np.uint8)
        self._written = np.zeros(1 << 10, np.bool_)
        # What GENERATE instructions make one after the other has one path through the windows.
        self._instructions: list[tuple[int, int]] = []
        self._generated: list[Int8Array] = []

    @property
    def bits(self) -> npt.NDArray[np.uint8]:
        return self._bits[: self._written.nonzero()[0].max(initial=-1) + 1]

    def generate(self, rows: Int8Array, instruction: Instruction) -> None:
        """Rows that GENERATE is to make; `finish` writes their bits."""
        self._instructions.append((instruction.argument, instruction.rows))
        self._generated.append(rows)

    def write(self, bits: npt.NDArray[np.uint8]) -> None:
        """``bits`` (..., columns), in the order in which they are read."""
        self.finish()
        stream = bits.reshape(-1, bits.shape[-1])
        self._put(stream, "a LITERAL")
        self.place += len(stream)

    def finish(self) -> None:
        """Write the bits of what was generated."""
        if not self._instructions:
            return
        rows, instructions = np.concatenate(self._generated), self._instructions
        self._instructions, self._generated = [], []
        lanes = []
        for lane in rows.T:
            bits = find(lane, instructions)
            if bits is None:
                raise InputError(
                    f"GENERATE cannot make the {len(rows)} rows that it is to make one after the other: their"
                    " weights are no path through its windows; choose another instruction"
                )
            lanes.append(bits)
        self._put(np.stack(lanes, axis=1), "a GENERATE")
        self.place += sum(k * count for k, count in instructions)

    def _put(self, bits: npt.NDArray[np.uint8], what: str) -> None:
        """Raises `InputError` if other bits were written there."""
        end = self.place + len(bits)
        while end > len(self._bits):
            self._bits = np.concatenate([self._bits, np.zeros_like(self._bits)])
            self._written = np.concatenate([self._written, np.zeros_like(self._written)])
        span = slice(self.place, end)
        written = self._written[span]
        if not np.array_equal(self._bits[span][written], bits[written]):
            raise InputError(
                f"{what} reads bits of other weights: a SEEK leads there, or a SKIP is missing behind"
                " GENERATE"
            )
        self._bits[span] = bits
        self._written[span] = True


def check_rows(rows: Int8Array, columns: int) -> None:
    """Raise `InputError` unless ``rows`` are int8 (n, columns)."""
    if rows.dtype != np.int8 or rows.ndim != 2 or rows.shape[1] != columns:
        raise InputError(f"rows must be int8 of shape (n, {columns}), not {rows.dtype} of shape {rows.shape}")


def bits_needed(rows: Int8Array) -> npt.NDArray[np.int64]:
    """Bits of two's complement that each row's widest number takes, 0 for a row of zeros."""
    # ~w has the magnitude bits of a negative w; OR keeps the widest. The sign is one bit more.
    magnitude = np.bitwise_or.reduce(rows ^ (rows >> 7), axis=1, initial=0)
    bits = np.searchsorted(1 << np.arange(8), magnitude, side="right") + 1
    return np.where((rows == 0).all(axis=1), 0, bits)
