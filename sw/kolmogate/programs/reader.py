"""What a weight program makes: the golden meaning of its instructions, on a scratchpad or by itself."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..isa import INSTRUCTION, P0, WINDOW_BITS
from .entropy import Decoder, Reference
from .generate import weights_of
from .p0 import (
    RECORD_REFERENCES,
    Instruction,
    Program,
    ProgramEnd,
    code_words,
    execute,
    literal_places,
    walk,
)

__all__ = ["Reader", "count_rows", "decode", "disassemble", "instruction_bytes", "steps"]

Int8Array = npt.NDArray[np.int8]

LONGEST = 1 << 20
"""Instructions after which a program is taken for one that never ends."""

FETCH_CYCLES = 4
"""The least that the device takes to fetch an instruction."""


class Reader:
    """Runs a program as far as its rows are taken.

    ``words`` are its instructions and all that follows them; ``memory`` is a whole scratchpad whose bytes
    just below ``base`` are the coded stream, and from there on the literals. Addresses wrap; ``streamed``,
    the streams end where they end, and SEEK does nothing. A program of more instructions than can be fetched
    in ``cycles`` ends there, and so does one that the decoder cannot go on with: ``depth`` rows of weights
    wait in the column buffers and constants of two column groups, the present one's among them; what follows
    waits for room. None: there is room for all.
    """

    def __init__(
        self,
        words: npt.NDArray[np.uint16],
        memory: npt.NDArray[np.uint8],
        base: int,
        columns: int,
        *,
        entropy_engine: bool = True,
        streamed: bool = False,
        generator: bool = True,
        cycles: int = FETCH_CYCLES * LONGEST,
        depth: int | None = None,
    ) -> None:
        self._depth = depth
        self._instructions = walk(words)
        self._left = cycles // FETCH_CYCLES
        self._columns = columns
        self._entropy_engine = entropy_engine
        self._streamed = streamed
        self._ends = 8 * base, 8 * (len(memory) - base) // columns
        self._generator = generator
        literals = np.roll(memory, -base).reshape(-1, columns)
        self._bits = np.unpackbits(literals, axis=0, bitorder="little").view(np.int8)
        self._decoder = Decoder(memory, base, columns)
        self._references = [Reference(), Reference()]
        self._weights: deque[Int8Array] = deque()
        self._records: deque[Int8Array] = deque()
        self.place = 0
        """Number of the instruction that ran last."""
        self._literal_place = 0
        self.literal_bits = 0
        """Bits a lane up to where the literals were read furthest."""

    @property
    def coded_bits(self) -> int:
        """Bits that were read of the coded stream."""
        return self._decoder.bits

    def weights(self, count: int) -> Int8Array:
        """The next rows of weights, (count, columns).

        Raises `ProgramEnd` if there are not as many, and `InputError` at an unknown instruction.
        """
        blocks = [np.zeros((0, self._columns), np.int8)]
        while count:
            while not self._weights:
                if self._depth is not None and len(self._records) > 1:
                    raise ProgramEnd("constants of three column groups come before the weights of the first")
                self.step()
            block = self._weights.popleft()
            if len(block) > count:
                self._weights.appendleft(block[count:])
                block = block[:count]
            blocks.append(block)
            count -= len(block)
        return np.concatenate(blocks)

    def give_back(self, rows: Int8Array) -> None:
        """Let rows of weights be the next again."""
        if len(rows):
            self._weights.appendleft(rows)

    def records(self) -> Int8Array:
        """The rows of the next column group's records; raises as `weights` does."""
        while not self._records:
            self.step()
            if self._depth is not None and sum(map(len, self._weights)) > self._depth:
                raise ProgramEnd("more weights than the column buffers hold come before constants")
        return self._records.popleft()

    @property
    def engine_cycles(self) -> int:
        """Cycles that the entropy engine took for what was read."""
        return self._decoder.cycles

    @property
    def row_ends(self) -> npt.NDArray[np.int64]:
        """The engine's cycle in which each coded row so far ended, if it did not have to wait."""
        return np.concatenate([np.zeros(0, np.int64), *self._decoder.row_ends])

    @property
    def byte_times(self) -> npt.NDArray[np.int64]:
        """As `Decoder.byte_times`."""
        return self._decoder.byte_times

    def step(self) -> Instruction:
        """Run the next instruction that makes rows, which are then there to be taken; raises as `weights`."""
        while self._left > 0:
            self._left -= 1
            self.place, instruction = next(self._instructions)
            if instruction.op == P0.END:
                raise ProgramEnd("the weight program ends before the last layer")
            if instruction.op == P0.PREDICT:
                reference = Reference(instruction.count, instruction.argument >> 1)
                self._references[instruction.argument & 1] = reference
            elif instruction.op == P0.SEEK:
                if not self._streamed:
                    self._literal_place = instruction.place
            elif instruction.op == P0.SKIP:
                self._check_generator(instruction)
                self._literal_place += instruction.count
            elif instruction.rows:
                rows = self._rows(instruction)
                if self._streamed:
                    rows = self._before_end(instruction, rows)
                (self._records if instruction.op == P0.RECORDS else self._weights).append(rows)
                return instruction
        raise ProgramEnd("the weight program takes too long: compile the image again")

    def _before_end(self, instruction: Instruction, rows: Int8Array) -> Int8Array:
        """The rows of weights for which the streams suffice; raises `ProgramEnd` if there is none."""
        coded_end, literal_end = self._ends
        missing = self._literal_place - literal_end
        if missing > 0 and instruction.op != P0.RECORDS and instruction.literal_bits:
            rows = rows[: max(len(rows) - -(-missing // instruction.literal_bits), 0)]
            missing = 0 if len(rows) else missing
        if missing > 0 or self._decoder.bits_taken > coded_end:
            raise ProgramEnd("a stream of the weight program ends before the last layer")
        return rows

    def _rows(self, instruction: Instruction) -> Int8Array:
        if instruction.is_coded:
            if not self._entropy_engine:
                raise InputError(f"{instruction}: this machine has no entropy engine")
            live = instruction.live(self._columns)
            if instruction.op == P0.RECORDS:
                references = RECORD_REFERENCES[instruction.argument]
                return self._decoder.read(instruction.rows, live, references, records=True)
            return self._decoder.read(instruction.rows, live, self._references)
        width = instruction.literal_bits
        if instruction.op == P0.GENERATE:
            self._check_generator(instruction)
            bits = self._read(instruction.rows, width, WINDOW_BITS)
            factors = 1 << np.arange(WINDOW_BITS)[::-1]
            return weights_of(np.einsum("rbc,b->rc", bits, factors, dtype=np.int64), width)
        bits = self._read(instruction.rows, width, width)
        # Two's complement; no bits are a zero.
        factors = 1 << literal_places(width)
        factors[:1] *= -1
        return np.einsum("rbc,b->rc", bits, factors).astype(np.int8)

    def _check_generator(self, instruction: Instruction) -> None:
        if not self._generator:
            raise InputError(f"{instruction}: this machine has no generator")

    def _read(self, rows: int, passed: int, seen: int) -> Int8Array:
        """Bits of the literals, (rows, seen, columns), of which each row passes some."""
        places = self._literal_place + np.arange(rows)[:, np.newaxis] * passed + np.arange(seen)
        self._literal_place += rows * passed
        self.literal_bits = max(self.literal_bits, int(places.max(initial=-1)) + 1)
        return self._bits[places % len(self._bits)]


def decode(program: Program, columns: int) -> tuple[Int8Array, list[Int8Array]]:
    """All rows of weights (rows, columns) of a program, and the rows of each column group's records.

    Raises `InputError` if it holds an unknown instruction, has no END, or reads beyond its streams.
    """
    for name, stream in (("literals", program.literals), ("coded bytes", program.coded)):
        if len(stream) % columns:
            raise InputError(f"the {name} are {len(stream)} bytes, no whole words of {columns}")
    # One more word, so that there is a memory even if both streams are empty.
    memory = np.frombuffer(program.coded + program.literals + bytes(columns), np.uint8)
    reader = Reader(code_words(program), memory, len(program.coded), columns)
    weights, groups = count_rows(program)
    made = reader.weights(weights), [reader.records() for _ in range(groups)]
    if reader.literal_bits * columns > 8 * len(program.literals):
        raise InputError(
            f"the weight program reads {reader.literal_bits} bits a lane of"
            f" {8 * len(program.literals) // columns}: the literals are cut short or of another program"
        )
    if reader.coded_bits > 8 * len(program.coded):
        raise InputError("the coded bytes are cut short or belong to another program")
    return made


def steps(program: Program, columns: int) -> list[tuple[Instruction, float]]:
    """The instructions that make rows, as they run, and the cycles that each row takes of the decoder.

    Not counted is what literals take of the scratchpad.
    """
    memory = np.frombuffer(program.coded + program.literals + bytes(columns), np.uint8)
    reader = Reader(code_words(program), memory, len(program.coded), columns)
    made: list[tuple[Instruction, float]] = []
    while True:
        before = reader.engine_cycles
        try:
            instruction = reader.step()
        except ProgramEnd:
            return made
        taken = reader.engine_cycles - before
        made.append((instruction, taken / instruction.rows if instruction.is_coded else 1.0))


def disassemble(program: Program, columns: int) -> list[str]:
    """One line an instruction as it is stored, END included: how often it runs, and in all the rows that it
    makes, the bytes of the streams that it takes beside its own two, and cycles.

    Raises `InputError` if the program holds an unknown instruction or has no END.
    """
    lines = [f"{'place':>6}  {'instruction':44} {'runs':>5} {'rows':>7} {'bytes':>8} {'cycles':>9}"]
    for place, (one, runs, bits, cycles) in enumerate(_stored(program, columns)):
        line = f"{place:6}  {one!s:44}"
        if one.rows:
            line += f" {runs:5} {runs * one.rows:7} {bits / 8:8.1f} {cycles:9}"
        lines.append(line)
    return lines


def instruction_bytes(program: Program, columns: int) -> dict[str, float]:
    """What a program's bytes are spent on: by instruction, its own and those of the streams that it reads.

    Literals that are read again after a SEEK count once. Raises as `disassemble` does.
    """
    spent: dict[str, float] = {}
    read = sum(bits for one, _, bits, _ in _stored(program, columns) if not one.is_coded) / 8
    once = min(1.0, len(program.literals) / read) if read else 1.0
    for one, _, bits, _ in _stored(program, columns):
        stream = bits / 8 * (1.0 if one.is_coded else once)
        spent[one.op.name] = spent.get(one.op.name, 0.0) + INSTRUCTION.bits / 8 + stream
    return spent


def _stored(program: Program, columns: int) -> list[tuple[Instruction, int, int, int]]:
    """Each instruction as it is stored, how often it runs, and in all its bits of the streams and cycles."""
    stored: list[Instruction] = []
    for word in code_words(program):
        stored.append(Instruction.of(int(word)))
        if stored[-1].op == P0.END:
            break
    count_rows(program)
    memory = np.frombuffer(program.coded + program.literals + bytes(columns), np.uint8)
    reader = Reader(code_words(program), memory, len(program.coded), columns)
    runs, bits, times = (np.zeros(len(stored), np.int64) for _ in range(3))
    while True:
        before = reader.coded_bits, reader.engine_cycles
        try:
            instruction = reader.step()
        except ProgramEnd:
            break
        runs[reader.place] += 1
        literal_bits = instruction.rows * instruction.literal_bits * columns
        bits[reader.place] += literal_bits + reader.coded_bits - before[0]
        times[reader.place] += (reader.engine_cycles - before[1]) or instruction.rows
    return list(zip(stored, runs.tolist(), bits.tolist(), times.tolist(), strict=True))


def count_rows(program: Program) -> tuple[int, int]:
    """Rows of weights and groups of records that a program makes, without making them.

    Raises `InputError` as `decode` does, and where a program makes more than any network can take.
    """
    weights = groups = 0
    for instruction in _bounded(program):
        if instruction.op == P0.RECORDS:
            groups += 1
        else:
            weights += instruction.rows
    return weights, groups


def _bounded(program: Program) -> Iterator[Instruction]:
    for index, instruction in enumerate(execute(code_words(program))):
        if index == LONGEST:
            raise InputError("the weight program has a loop without end: compile the image again")
        yield instruction
