"""Requantisation multipliers with fewer digits, proven equal on every sum that a channel can reach.

A multiplier of 31 bits says more than the 255 steps of an output can show: some 22 bits do.
"""

import numpy as np
import numpy.typing as npt

from .machine_arithmetic import requantise

__all__ = ["shorten"]

Int64Array = npt.NDArray[np.int64]


def shorten(
    multiplier: Int64Array,
    shift: Int64Array,
    sums: tuple[Int64Array, Int64Array],
    levels: tuple[int, int],
    *,
    single_rounding: bool,
) -> Int64Array:
    """Multipliers that give the same outputs with the same shifts and end in as many zeros as possible.

    Channels that share a scale go on sharing one, which makes records of constants alike.

    Parameters
    ----------
    multiplier, shift : int64 arrays (channels,)
        Of 0 to 31 bits; those returned have as many.
    sums : pair of int64 arrays (channels,)
        The lowest and the highest sum of accumulator and bias.
    levels : pair of int
        The lowest and the highest output before the zero point; what is beyond them is clamped.

    Requantisation ascends with the sum, so it is known by the least sum t that reaches each level y; another
    multiplier is equal if t reaches y with it and ``t - 1`` does not.
    """
    y = np.arange(levels[0] + 1, levels[1] + 1)
    lowest, highest = (end[:, np.newaxis] for end in sums)
    column = multiplier[:, np.newaxis], shift[:, np.newaxis]

    def reaches(sum_: Int64Array, multiplier: Int64Array) -> npt.NDArray[np.bool_]:
        made = requantise(sum_, 0, multiplier[:, np.newaxis], column[1], single_rounding=single_rounding)
        return made >= y

    least, beyond = (np.repeat(end, len(y), axis=1) for end in (lowest, highest + 1))
    while np.any(least < beyond):
        middle = (least + beyond) >> 1
        hit = reaches(middle, multiplier)
        least, beyond = np.where(hit | (least == beyond), least, middle + 1), np.where(hit, middle, beyond)

    # t * multiplier >= (y - 1/2) * 2**shift - nudge, where a sum reaches y, and less, where one does not.
    def level(t: Int64Array) -> Int64Array:
        nudge = np.where(t < 0, -(1 << 30), 1 << 30) * ((column[1] >= 32) & (not single_rounding))
        bound: Int64Array = ((2 * y - 1) << (column[1] - 1)) - nudge
        return bound

    low, high = np.zeros_like(least), np.full_like(least, (1 << 31) - 1)
    t, reached = least, least <= highest
    low = np.where(reached & (t > 0), np.maximum(low, -(-level(t) // np.where(t > 0, t, 1))), low)
    high = np.where(reached & (t < 0), np.minimum(high, level(t) // np.where(t < 0, t, -1)), high)
    t, missed = least - 1, least > lowest
    high = np.where(missed & (t > 0), np.minimum(high, (level(t) - 1) // np.where(t > 0, t, 1)), high)
    low = np.where(missed & (t < 0), np.maximum(low, level(t) // np.where(t < 0, t, -1) + 1), low)
    lowest_multiplier, highest_multiplier = (
        low.max(axis=1, initial=0),
        high.min(axis=1, initial=(1 << 31) - 1),
    )
    # Each contains the given multiplier, so that those of channels which share it meet.
    _, shared = np.unique(np.stack([multiplier, shift]), axis=1, return_inverse=True)
    for one in range(int(shared.max(initial=-1)) + 1):
        those = shared == one
        lowest_multiplier[those] = lowest_multiplier[those].max()
        highest_multiplier[those] = highest_multiplier[those].min()

    found = multiplier.copy()
    wanted = np.ones(len(multiplier), bool)
    for bits in range(29, 0, -1):
        candidate = -(-lowest_multiplier >> bits) << bits
        hit = wanted & (candidate <= highest_multiplier)
        found = np.where(hit, candidate, found)
        wanted &= ~hit
    # The proof, by the formula itself.
    assert np.all(reaches(least, found) | ~reached)
    assert not np.any(reaches(least - 1, found) & missed)
    return found
