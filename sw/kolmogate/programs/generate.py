"""GENERATE: weights computed from a few new bits each, and the search for the bits that fit best.

A window of 12 bits slides over the bits of a program; each weight takes ``k`` new ones and is a hash of the
window, a pseudo-Gaussian int8 of standard deviation `SIGMA`. So neighbouring weights share bits, and the
encoder chooses among all paths through the windows: trellis-coded quantisation with a codebook that is
computed instead of stored.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ..errors import InputError

__all__ = ["RATES", "SIGMA", "WINDOW_BITS", "codebook", "encode", "generate"]

Int8Array = npt.NDArray[np.int8]

WINDOW_BITS = 12
WINDOWS = 1 << WINDOW_BITS
RATES = range(1, 6)
"""New bits a weight."""


def _rotate(value: npt.NDArray[np.int64], by: int) -> npt.NDArray[np.int64]:
    return (value << by | value >> (WINDOW_BITS - by)) & (WINDOWS - 1)


def codebook() -> Int8Array:
    """The weight of each window, (4096,)."""
    x = np.arange(WINDOWS)
    y = (x + _rotate(x, 8) + 2420) & (WINDOWS - 1)
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


def generate(symbols: npt.ArrayLike, k: int, window: int = 0) -> Int8Array:
    """The weights that ``symbols`` (n,), each of ``k`` bits, make from the window before them."""
    _check_rate(k)
    weights = []
    for symbol in np.asarray(symbols, np.int64):
        window = (window << k | int(symbol)) & (WINDOWS - 1)
        weights.append(_CODEBOOK[window])
    return np.array(weights, np.int8)


def encode(targets: npt.ArrayLike, k: int, window: int = 0) -> npt.NDArray[np.int64]:
    """The symbols (n,) whose weights are nearest to ``targets`` (n,), in the sum of squares.

    ``targets`` are in the units of the weights: multiply values of unit variance by `SIGMA`. Exact (Viterbi
    over all windows); a target takes 4096 * 2**k steps.
    """
    _check_rate(k)
    values = np.ascontiguousarray(targets, np.float32)
    if values.ndim != 1:
        raise InputError(f"targets must be one sequence, not of shape {values.shape}")
    symbols: npt.NDArray[np.int64] = _viterbi(values, k, window, _CODEBOOK.astype(np.float32))
    return symbols


def _check_rate(k: int) -> None:
    if k not in RATES:
        raise InputError(f"GENERATE takes {RATES[0]} to {RATES[-1]} new bits a weight, not {k}")


@njit(cache=True)
def _viterbi(targets: Any, k: int, window: int, codes: Any) -> Any:
    """Costs of the best path to each window; of its 2**k predecessors each remembers which."""
    n, fan = len(targets), 1 << k
    kept = WINDOWS >> k
    costs = np.full(WINDOWS, np.float32(1e30))
    costs[window] = 0
    chosen = np.zeros((n, kept), np.uint8)
    best = np.zeros(kept, np.float32)
    following = np.zeros(WINDOWS, np.float32)
    for t in range(n):
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
    place = int(np.argmin(costs))
    symbols = np.zeros(n, np.int64)
    for t in range(n - 1, -1, -1):
        symbols[t] = place & (fan - 1)
        low = place >> k
        place = chosen[t, low] * kept + low
    return symbols
