"""Rounding a layer's filters to integers: error feedback, and the bits that the entropy engine will take.

Filters are rounded channel by channel, tap by tap, in the order in which they are coded, as the optimal brain
surgeon does (GPTQ): the error of each weight is made up for, as far as the inputs are correlated, by those
still to come, at last by the bias. Of a weight's candidates the one is taken whose error and bits together
cost least.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ..programs.entropy import FIRST_MEAN
from .statistics import Moments

__all__ = ["LARGEST", "Rate", "Rounded", "round_filters"]

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

LARGEST = 127
"""Magnitude of a weight; -128 would cost the array's multipliers a bit."""

CLASSES = 8
LEAST_BITS = 0.02
"""What the engine's probabilities leave of the likeliest number."""

PRIOR = 16.0
"""Numbers that the distribution which a class starts with is worth."""


@dataclass(frozen=True)
class Rate:
    """What a weight costs in bits, as the entropy engine's model sees it (`kolmogate.programs.entropy`).

    Each column keeps a running mean of its magnitudes, whose octave is the class of its next number.

    Parameters
    ----------
    means : int64 array (columns,)
        The running means, with 5 bits of fraction, as the layers before left them.
    bits : float64 array (8, 256)
        Of each weight, plus 128, in each class.
    """

    means: Int64Array
    bits: FloatArray

    @classmethod
    def start(cls, columns: int) -> "Rate":
        """Before the first layer."""
        return cls(np.full(columns, FIRST_MEAN, np.int64), _bits(np.zeros((CLASSES, 256))))


@dataclass(frozen=True)
class Rounded:
    """A layer's filters as integers.

    Parameters
    ----------
    weights : int64 array (channels, taps)
    bias : int64 array (channels,)
    error : float
        What is left of the error, in units of the loss.
    bits : float
        Estimate of what the weights take.
    rate : Rate
        For the next layer.
    """

    weights: Int64Array
    bias: Int64Array
    error: float
    bits: float
    rate: Rate


def _factor(second: FloatArray) -> FloatArray:
    """Second moments (groups, n, n) as the rounding uses them, upper triangles.

    Row i right of the diagonal is how much the weights to come have to change for an error of weight i; the
    diagonal what an error costs that they make up for.
    """
    # second = v @ v.T with v upper triangular, whose inverse is the upper factor of second's inverse.
    upper = np.linalg.inv(np.linalg.cholesky(second[:, ::-1, ::-1])[:, ::-1, ::-1])
    diagonal = np.einsum("gii->gi", upper)
    result = upper / diagonal[:, :, None]
    np.einsum("gii->gi", result)[...] = diagonal**-2.0
    return np.ascontiguousarray(result)


def round_filters(needed: Moments, step: float, price: float, rate: Rate, rounds: int = 3) -> Rounded:
    """The targets of ``needed`` as integers times ``step``.

    ``price`` is what a bit costs in units of the loss. The bits of a weight follow from how often others take
    the same value, which is found in so many ``rounds``.
    """
    factors, bits = _factor(needed.second), rate.bits
    for _ in range(rounds):
        means, counts = rate.means.copy(), np.zeros((CLASSES, 256))
        q, error, total = _round(needed.targets, factors, needed.importance, step, price, bits, means, counts)
        bits = _bits(counts)
    return Rounded(q[:, :-1], q[:, -1], error, total, Rate(means, bits))


def _bits(counts: FloatArray) -> FloatArray:
    """Bits of each number in each class, from how often they came there, and as if `PRIOR` others had come
    of a two-sided geometric distribution with the magnitudes of the class."""
    values = np.arange(-128, 128)
    magnitude = np.where(values < 0, ~values, values)
    typical = 0.7 * 2.0 ** np.arange(CLASSES)[:, None]
    decay = typical / (1 + typical)
    prior = PRIOR * (1 - decay) / 2 * decay**magnitude
    total = counts.sum(axis=1, keepdims=True) + PRIOR
    result: FloatArray = np.maximum(-np.log2((counts + prior) / total), LEAST_BITS)
    return result


@njit(cache=True)
def _round(
    targets: Any,
    factors: Any,
    importance: Any,
    step: float,
    price: float,
    bits: Any,
    means: Any,
    counts: Any,
) -> Any:
    """Integers (channels, n), the error and the bits; adapts ``means`` and counts what came in each class."""
    channels, n = targets.shape
    q = np.zeros((channels, n), np.int64)
    error = total = 0.0
    for c in range(channels):
        rest = targets[c] / step
        rows = factors[c if len(factors) > 1 else 0]
        column = c % len(means)
        for j in range(n):
            precision = rows[j, j] * importance[c] * step * step
            if j == n - 1:
                best = int(np.floor(rest[j] + 0.5))
            else:
                octave = 0
                while means[column] >> (octave + 5):
                    octave += 1
                low = int(np.floor(rest[j]))
                best, least = 0, np.inf
                # Both neighbours, the next towards zero, and zero.
                for candidate in (low, low + 1, low - 1 if low > 0 else low + 2, 0):
                    value = min(max(candidate, -LARGEST), LARGEST)
                    cost = (rest[j] - value) ** 2 * precision + price * bits[octave, value + 128]
                    if cost < least:
                        best, least = value, cost
                magnitude = ~best if best < 0 else best
                total += bits[octave, best + 128]
                counts[octave, best + 128] += 1
                means[column] += ((magnitude << 5 | 16) - means[column]) >> 4
            q[c, j] = best
            difference = rest[j] - best
            error += difference * difference * precision
            for k in range(j + 1, n):
                rest[k] -= difference * rows[j, k]
    return q, error, total
