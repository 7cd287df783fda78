"""GENERATE: weights computed from a few new bits each, and the search for the bits that fit best.

A window of 12 bits slides over the literals of a lane; each weight passes ``k`` of them and is a hash of the
window, a pseudo-Gaussian int8 of standard deviation `SIGMA`. So neighbouring weights share bits, and the
encoder chooses among all paths through the windows: trellis-coded quantisation with a codebook that is
computed instead of stored.

The bits of n weights are ``WINDOW_BITS + (n - 1) * k``, in the order in which they are read: weight t's
window is the number of bits ``t * k`` and on, the first of them highest. For k = 0 all weights have the same
bits, and row t's window is exclusive-ored with element t of `stirring`.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ..errors import InputError
from ..isa import NEW_BITS, WINDOW_BITS

__all__ = ["SIGMA", "STIRRING_TAPS", "codebook", "encode", "find", "generate", "stirring", "weights_of"]

Int8Array = npt.NDArray[np.int8]
Bits = npt.NDArray[np.uint8]

WINDOWS = 1 << WINDOW_BITS
OFFSET = 2420

STIRRING_TAPS = (11, 5, 3, 0)
"""Bits of a shift register whose exclusive nor is its next lowest bit."""


def _rotate(value: npt.NDArray[np.int64], by: int) -> npt.NDArray[np.int64]:
    return (value << by | value >> (WINDOW_BITS - by)) & (WINDOWS - 1)


def codebook() -> Int8Array:
    """The weight of each window, (4096,)."""
    x = np.arange(WINDOWS)
    y = (x + _rotate(x, 8) + OFFSET) & (WINDOWS - 1)
    total = (
        (_rotate(y, 9) & 255)
        + ((_rotate(x, 7) ^ _rotate(y, 8)) & 255)
        + (_rotate(y, 3) & 255)
        + ((_rotate(x, 9) ^ _rotate(y, 8)) & 255)
        - 510
    )
    return ((total + 2) >> 2).astype(np.int8)


_CODEBOOK = codebook()

SIGMA = float(_CODEBOOK.astype(np.float64).std())


def stirring(rows: int) -> npt.NDArray[np.int64]:
    """What the windows of a GENERATE of no new bits are exclusive-ored with, row by row, (rows,): a shift
    register that starts from 0 and is there again after 4095 rows."""
    states = np.zeros(rows, np.int64)
    for row in range(1, rows):
        state = int(states[row - 1])
        parity = sum(state >> tap for tap in STIRRING_TAPS) & 1
        states[row] = (state << 1 | 1 - parity) & (WINDOWS - 1)
    return states


def weights_of(windows: npt.NDArray[np.int64], k: int) -> Int8Array:
    """The weights of the windows (rows, lanes) of an instruction."""
    if k == 0:
        windows = windows ^ stirring(len(windows))[:, np.newaxis]
    return _CODEBOOK[windows]


def generate(bits: npt.ArrayLike, k: int, rows: int) -> Int8Array:
    """The weights (rows,) that a lane makes of its ``bits``, in the order in which they are read."""
    _check_rate(k)
    stream = np.asarray(bits, np.int64)
    if len(stream) != WINDOW_BITS + (rows - 1) * k:
        raise InputError(f"{rows} weights take {WINDOW_BITS + (rows - 1) * k} bits, not {len(stream)}")
    places = np.arange(rows)[:, np.newaxis] * k + np.arange(WINDOW_BITS)
    windows = stream[places] @ (1 << np.arange(WINDOW_BITS)[::-1])
    return weights_of(windows[:, np.newaxis], k)[:, 0]


def encode(targets: npt.ArrayLike, k: int) -> Bits:
    """The bits whose weights are nearest to ``targets`` (n,), n > 0, in the sum of squares.

    ``targets`` are in the units of the weights: multiply values of unit variance by `SIGMA`. Exact (Viterbi
    over all windows); a target takes 4096 * 2**k steps.
    """
    _check_rate(k)
    values = np.ascontiguousarray(targets, np.float32)
    if values.ndim != 1 or not len(values):
        raise InputError(f"targets must be one sequence, not of shape {values.shape}")
    if k == 0:
        windows = np.arange(WINDOWS) ^ stirring(len(values))[:, np.newaxis]
        errors = ((_CODEBOOK[windows] - values[:, np.newaxis]) ** 2).sum(axis=0)
        return _highest_first(errors.argmin(), WINDOW_BITS)
    path: npt.NDArray[np.int64] = _viterbi(values, k, _CODEBOOK.astype(np.float32))
    new = path[1:, np.newaxis] >> np.arange(k)[::-1] & 1
    return np.concatenate([_highest_first(path[0], WINDOW_BITS), new.ravel().astype(np.uint8)])


def find(weights: Int8Array, instructions: Iterable[tuple[int, int]]) -> Bits | None:
    """The bits that make exactly ``weights`` (n,), with ``instructions`` of k new bits for so many rows, one
    after the other; None if there are none."""
    instructions = list(instructions)
    new = np.concatenate([np.full(rows, k) for k, rows in instructions])
    stirred = np.concatenate([np.zeros(rows, np.int64) if k else stirring(rows) for k, rows in instructions])
    path = _path(np.ascontiguousarray(weights, np.int8), new, stirred, _CODEBOOK)
    if not len(path):
        return None
    # A window's new bits are as many as the one before it passes.
    return np.concatenate([_highest_first(path[0], WINDOW_BITS), *map(_highest_first, path[1:], new)])


def _highest_first(number: np.integer[Any], count: int) -> Bits:
    """So many of the lowest bits of a number."""
    return (int(number) >> np.arange(count)[::-1] & 1).astype(np.uint8)


def _check_rate(k: int) -> None:
    if k not in NEW_BITS:
        raise InputError(f"GENERATE takes {NEW_BITS[0]} to {NEW_BITS[-1]} new bits a weight, not {k}")


@njit(cache=True)
def _viterbi(targets: Any, k: int, codes: Any) -> Any:
    """The best windows: costs of the best path to each; of its 2**k predecessors each remembers which."""
    n, fan = len(targets), 1 << k
    kept = WINDOWS >> k
    costs = np.zeros(WINDOWS, np.float32)
    for window in range(WINDOWS):
        error = codes[window] - targets[0]
        costs[window] = error * error
    chosen = np.zeros((n, kept), np.uint8)
    best = np.zeros(kept, np.float32)
    following = np.zeros(WINDOWS, np.float32)
    for t in range(1, n):
        # Windows that share their lower bits have the same successors: one of them suffices.
        lowest = np.float32(1e30)
        for low in range(kept):
            cost, which = costs[low], 0
            for high in range(1, fan):
                other = costs[high * kept + low]
                if other < cost:
                    cost, which = other, high
            best[low] = cost
            chosen[t, low] = which
            lowest = min(lowest, cost)
        target = targets[t]
        for low in range(kept):
            base = best[low] - lowest
            for symbol in range(fan):
                error = codes[low << k | symbol] - target
                following[low << k | symbol] = base + error * error
        costs, following = following, costs
    path = np.zeros(n, np.int64)
    path[n - 1] = np.argmin(costs)
    for t in range(n - 1, 0, -1):
        low = path[t] >> k
        path[t - 1] = chosen[t, low] * kept + low
    return path


@njit(cache=True)
def _path(weights: Any, new: Any, stirred: Any, codes: Any) -> Any:
    """Windows that make exactly these weights, none if there are none; each passes so many bits.

    Of the few windows that make a weight those are kept, as bits of a mask, that a path leads to; any way
    back through them leads to the first.
    """
    n = len(weights)
    # The windows of each weight, counted from -128 on.
    made = np.zeros((256, 64), np.int64)
    count = np.zeros(256, np.int64)
    for window in range(WINDOWS):
        value = codes[window] + 128
        made[value, count[value]] = window
        count[value] += 1
    masks = np.zeros(n, np.uint64)
    # By the bits of a window that those before it have seen.
    reached = np.ones(WINDOWS, np.bool_)
    seen = 0
    for t in range(n):
        value = weights[t] + 128
        mask = np.uint64(0)
        for i in range(count[value]):
            if reached[(made[value, i] ^ stirred[t]) >> seen]:
                mask |= np.uint64(1) << np.uint64(i)
        if mask == 0:
            return np.zeros(0, np.int64)
        masks[t] = mask
        seen = new[t]
        reached[: WINDOWS >> seen] = False
        for i in range(count[value]):
            if mask >> np.uint64(i) & np.uint64(1):
                reached[(made[value, i] ^ stirred[t]) & ((WINDOWS >> seen) - 1)] = True
    path = np.zeros(n, np.int64)
    for t in range(n - 1, -1, -1):
        value = weights[t] + 128
        for i in range(count[value]):
            window = made[value, i] ^ stirred[t]
            follows = t == n - 1 or window & ((WINDOWS >> new[t]) - 1) == path[t + 1] >> new[t]
            if masks[t] >> np.uint64(i) & np.uint64(1) and follows:
                path[t] = window
                break
    return path
