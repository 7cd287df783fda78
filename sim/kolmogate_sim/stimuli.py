"""Stimuli of the requantiser and the weight decoder, full of corners, with what should come of them."""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from kolmogate.config import MachineConfig
from kolmogate.isa import CONSTANTS, P0, SHIFTS
from kolmogate.machine_arithmetic import requantise
from kolmogate.programs.p0 import Instruction, Program, assemble

__all__ = ["Batches", "random_batches", "random_program"]

Int64Array = npt.NDArray[np.int64]

MULTIPLIERS = (0, 1, 0x2AAAAAAA, 1 << 30, 0x55555555, 3 << 29, (1 << 31) - 1)
BIAS_EDGE = 1 << CONSTANTS.widths["bias"] - 1


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
        bias = source.choice((0, 0, 1, -1, BIAS_EDGE - 1, -BIAS_EDGE, source.randrange(-5000, 5000)))
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
    source: random.Random, columns: int, rows: Iterable[int]
) -> tuple[Program, npt.NDArray[np.int8]]:
    """A program of random instructions that make so many rows each, and all its rows (rows, columns).

    Literals use the whole range of their bits.
    """
    program, weights = [], []
    for count in rows:
        bits = source.randrange(9)
        program.append(Instruction(P0.LITERAL if bits else P0.ZERO, count, bits))
        low, high = (-(1 << bits - 1), 1 << bits - 1) if bits else (0, 1)
        weights += [[source.randrange(low, high) for _ in range(columns)] for _ in range(count)]
    made = np.array(weights, np.int8).reshape(-1, columns)
    return assemble(program, made, columns), made
