"""Stimuli of the requantiser and the weight decoder, full of corners, with what should come of them."""

import itertools
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from kolmogate.config import MachineConfig
from kolmogate.isa import HISTORY_ROWS, NEW_BITS, P0, RECORD_WORDS, SEEK_WORDS, SHIFTS, WINDOW_BITS
from kolmogate.machine_arithmetic import requantise
from kolmogate.programs import p0
from kolmogate.programs.entropy import Coder, Reference
from kolmogate.programs.p0 import Instruction, Program
from kolmogate.programs.reader import decode

__all__ = ["Batches", "random_batches", "random_program"]

Int64Array = npt.NDArray[np.int64]

MULTIPLIERS = (0, 1, 0x2AAAAAAA, 1 << 30, 0x55555555, 3 << 29, (1 << 31) - 1)


@dataclass(frozen=True)
class Batches:
    """Inputs of the requantiser, arrays of shape (batches, Q)."""

    accumulators: Int64Array
    bias: Int64Array
    multiplier: Int64Array
    shift: Int64Array

    def expected(self, single_rounding: int, zero_point: int, minimum: int, maximum: int) -> Int64Array:
        """Outputs for a layer's settings."""
        y = requantise(
            self.accumulators,
            self.bias,
            self.multiplier,
            self.shift,
            single_rounding=bool(single_rounding),
        )
        return np.clip(y + zero_point, minimum, maximum)

    def constants(self, batch: int) -> list[dict[str, int]]:
        """The channel constants of one batch, Q records."""
        lanes = zip(self.bias[batch], self.multiplier[batch], self.shift[batch], strict=True)
        return [{"bias": int(b), "multiplier": int(m), "shift": int(s)} for b, m, s in lanes]


def random_batches(source: random.Random, config: MachineConfig, outputs: int) -> Batches:
    """Batches for about so many outputs: every shift with every corner of the multiplier in turn.

    Half of the accumulators lie where the product is next to a half of an output step, the others are
    corners of their range or anything.
    """
    edge = 1 << config.accumulator_bits - 1
    pairs = itertools.cycle(itertools.product(SHIFTS, (*MULTIPLIERS, None, None, None)))
    rows = []
    for shift, corner in itertools.islice(pairs, outputs // config.requantisers * config.requantisers):
        multiplier = source.randrange(1 << 30, 1 << 31) if corner is None else corner
        # Such that its sum with the accumulator has one bit more than that.
        bias = source.choice((0, 0, 1, -1, edge - 1, -edge, source.randrange(-5000, 5000)))
        accumulator = source.choice(
            (0, 1, -1, 2, -2, edge - 1, -edge, source.randrange(-edge, edge), source.randrange(-999, 999))
        )
        if multiplier and source.randrange(2):
            half = 2 * source.randrange(-300, 300) + 1 << shift - 1
            nearest = half // multiplier - bias + source.randrange(-1, 3)
            accumulator = nearest if -edge <= nearest < edge else accumulator
        rows.append((accumulator, bias, multiplier, shift))
    # Neighbours in a batch differ in everything.
    source.shuffle(rows)
    columns = np.array(rows, np.int64).T
    return Batches(*columns.reshape(4, -1, config.requantisers))


def random_program(
    source: random.Random,
    config: MachineConfig,
    instructions: int,
    longest: int = 12,
    seek: bool = True,
) -> tuple[Program, npt.NDArray[np.int8], list[npt.NDArray[np.int8]]]:
    """A program of random instructions that the machine has, all its rows of weights, and the rows of each
    group of records.

    Literals are any bits; coded numbers are of any spread. Without ``seek`` the program can be streamed.
    """
    kinds = ["zero", "literal", "records", "loop", *["seek"] * seek]
    kinds += ["coded", "predict"] * (config.entropy_engines > 0) + ["generate", "skip"] * config.generator
    columns = config.columns
    program: list[Instruction] = []
    for _ in range(instructions):
        count = source.randrange(1, longest + 1)
        match source.choice(kinds):
            case "generate":
                program.append(p0.generate(source.choice(NEW_BITS), count))
            case "literal":
                program.append(p0.literal(source.randrange(1, 9), count))
            case "skip":
                program.append(p0.skip(count))
            case "records":
                kind = source.randrange(4) if config.entropy_engines else 0
                program.append(p0.records(min(count, RECORD_WORDS), kind))
            case "coded":
                program.append(p0.coded(count, source.choice((8, 8, source.randrange(1, 9)))))
            case "predict":
                distance = source.choice((0, 1, 2, source.randrange(HISTORY_ROWS)))
                program.append(p0.predict(source.randrange(2), Reference(distance, source.randrange(4))))
            case "seek":
                program.append(p0.seek(source.randrange(8 * SEEK_WORDS * 12)))
            case "loop" if program and program[-1].op != P0.LOOP:
                # One loop at a time.
                since = next(
                    (i for i, one in enumerate(reversed(program)) if one.op == P0.LOOP), len(program)
                )
                program.append(p0.loop(source.randrange(1, min(since, 8) + 1), source.randrange(1, 4)))
            case _:
                program.append(p0.zero(count))
    words = np.array([one.encode() for one in (*program, Instruction(P0.END))], "<u2")
    executed = list(p0.execute(words))
    # Words enough for all that is read, wherever SEEKs lead.
    bits = sum(one.rows * one.literal_bits + one.count for one in executed)
    end = bits + max((one.place for one in executed if one.op == P0.SEEK), default=0) + WINDOW_BITS
    literals = source.randbytes(-(-end // 8) * columns)
    coder = Coder(columns)
    references = [Reference(), Reference()]
    for one in executed:
        if one.op == P0.PREDICT:
            references[one.argument & 1] = Reference(one.count, one.argument >> 1)
        if one.is_coded:
            spread = 1 << source.randrange(9) >> 1
            live = one.live(columns)
            rows = np.zeros((one.rows, columns), np.int8)
            rows[:, :live] = [[source.randrange(-spread, spread or 1) for _ in range(live)] for _ in rows]
            if one.op == P0.RECORDS:
                coder.write(rows, live, p0.RECORD_REFERENCES[one.argument], records=True)
            else:
                coder.write(rows, live, references)
    stream, code = coder.finish()[::-1], words.tobytes()
    result = Program(code + bytes(-len(code) % columns), bytes(-len(stream) % columns) + stream, literals)
    return result, *decode(result, columns)
