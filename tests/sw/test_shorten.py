"""Shortened multipliers give the outputs of the long ones."""

import numpy as np
import pytest
from kolmogate.isa import SHIFTS
from kolmogate.machine_arithmetic import requantise
from kolmogate.shorten import shorten


@pytest.mark.parametrize("single_rounding", [False, True])
def test_every_sum_gives_the_same_output(single_rounding):
    """All sums, each of some channels with scales of a convolution and of anything else."""
    rng = np.random.default_rng(2)
    zeros = []
    for shift in (SHIFTS[0], 31, 32, 36, 38, 41, 45, SHIFTS[-1]):
        multiplier = rng.integers(1 << 30, 1 << 31, 12)
        multiplier[0], multiplier[1] = 0, (1 << 31) - 1
        shifts = np.full(12, shift)
        ends = np.sort(rng.integers(-(1 << 15), 1 << 15, (2, 12)), axis=0)
        levels = tuple(np.sort(rng.integers(-128, 256, 2)).tolist())
        short = shorten(multiplier, shifts, (ends[0], ends[1]), levels, single_rounding=single_rounding)
        for c in range(12):
            sums = np.arange(ends[0, c], ends[1, c] + 1)
            old, new = (
                np.clip(requantise(sums, 0, m, shift, single_rounding=single_rounding), *levels)
                for m in (multiplier[c], short[c])
            )
            np.testing.assert_array_equal(old, new)
            assert 0 <= short[c] < 1 << 31
        if shift == 38:
            zeros = [int(m & -m).bit_length() - 1 for m in short if m]
    # A scale of about 1/200 needs some 22 bits.
    assert np.mean(zeros) > 6


def test_channels_of_one_scale_keep_one():
    rng = np.random.default_rng(3)
    multiplier = np.repeat([1234567891, 2012345678], 20)
    highest = rng.integers(1 << 8, 1 << 15, 40)
    ends = (-highest, highest)
    short = shorten(multiplier, np.full(40, 38), ends, (-128, 127), single_rounding=False)
    assert len(set(short[:20])) == len(set(short[20:])) == 1
    assert (short != multiplier).all()
