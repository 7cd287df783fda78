"""Fixed-point scales and activation ranges, as TFLite derives them from a file's float scales.

The arithmetic follows the reference kernels of LiteRT (``kernel_util.cc``, ``quantization_util.cc``,
``reduce.cc``, ``integer_ops/fully_connected.h``): scales are float32, their products double.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .network import Requantisation, Tensor

__all__ = [
    "ACTIVATIONS",
    "DenseScale",
    "activation_range",
    "add_requantisation",
    "convolution_requantisation",
    "mean_requantisation",
    "quantise_multiplier",
    "rescaling",
]

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ACTIVATIONS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}
"""Real lower and upper bound of each fused activation; None is the end of the int8 range."""


def quantise_multiplier(real: float) -> tuple[int, int]:
    """``(multiplier, shift)`` with real = multiplier / 2**31 * 2**shift, rounded to 31 bits.

    ``multiplier`` is 0 or in [2**30, 2**31); reals below 2**-32 become (0, 0).
    """
    if not (math.isfinite(real) and real >= 0):
        raise InputError(
            f"a scale ratio must be finite and not negative, not {real!r}: quantise the model again"
        )
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier, shift = 1 << 30, shift + 1
    return (multiplier, shift) if multiplier and shift >= -31 else (0, 0)


def _requantisation(reals: Sequence[float] | FloatArray) -> Requantisation:
    pairs = np.array([quantise_multiplier(float(real)) for real in reals], np.int32).reshape(-1, 2)
    return Requantisation(pairs[:, 0].copy(), pairs[:, 1].copy())


def activation_range(activation: str, output: Tensor) -> tuple[int, int]:
    """int8 (minimum, maximum) that ``activation`` leaves of ``output``'s range."""

    def quantise(real: float | None, end: int) -> int:
        if real is None:
            return end
        # The quotient is float32 in the reference, and rounds half away from zero.
        quotient = float(np.float32(real) / np.float32(output.scale))
        rounded = math.copysign(math.floor(abs(quotient) + 0.5), quotient)
        return int(min(max(output.zero_point + rounded, -128), 127))

    low, high = ACTIVATIONS[activation]
    return quantise(low, -128), quantise(high, 127)


def _effective_scales(source: Tensor, weight_scales: npt.ArrayLike, output: Tensor) -> FloatArray:
    """Double-precision scale of each output channel: input scale * weight scale / output scale."""
    scales = np.asarray(weight_scales, np.float32).astype(np.float64).reshape(-1)
    return source.scale * scales / output.scale


def convolution_requantisation(
    source: Tensor, weight_scales: npt.ArrayLike, output: Tensor, channels: int
) -> Requantisation:
    """Requantisation of CONV_2D and DEPTHWISE_CONV_2D from one weight scale, or one a channel."""
    return _requantisation(np.broadcast_to(_effective_scales(source, weight_scales, output), (channels,)))


def rescaling(source: Tensor, output: Tensor) -> Requantisation:
    """Requantisation from one tensor's scale to another's, one channel (RELU, RELU6)."""
    return _requantisation([source.scale / output.scale])


def mean_requantisation(source: Tensor, output: Tensor, count: int) -> Requantisation:
    """Requantisation of the sum of ``count`` values to their mean, one channel.

    The division is folded into the multiplier, which may then lie in [2**29, 2**31).
    """
    multiplier, shift = quantise_multiplier(source.scale / output.scale)
    fold = min(count.bit_length() - 1, 32, 31 + shift)
    return Requantisation(
        np.array([(multiplier << fold) // count], np.int32), np.array([shift - fold], np.int32)
    )


def add_requantisation(a: Tensor, b: Tensor, output: Tensor, left_shift: int) -> Requantisation:
    """The three scales of ADD: both operands to a common scale, and the sum to the output's."""
    common = 2.0 * max(a.scale, b.scale)
    return _requantisation([a.scale / common, b.scale / common, common / (2.0**left_shift * output.scale)])


def _round_half_away(values: FloatArray) -> FloatArray:
    magnitude = np.abs(values)
    whole = np.floor(magnitude)
    # Adding 0.5 first would round the largest double below 0.5 up.
    return np.copysign(whole + (magnitude - whole >= 0.5), values)


def _first_accumulators(
    scales: FloatArray, bounds: tuple[Int64Array, Int64Array], steps: Int64Array
) -> Int64Array:
    """Least accumulator in [low, high + 1] whose product, as the reference rounds it, reaches each step.

    ``high + 1`` stands for "none does". Shape (channels, steps).
    """
    below = np.repeat(bounds[0][:, None] - 1, steps.size, axis=1)
    above = np.repeat(bounds[1][:, None] + 1, steps.size, axis=1)
    while bool(np.any(above - below > 1)):
        middle = (below + above) >> 1
        up = np.greater_equal(_round_half_away(middle * scales[:, None]), steps)
        # Where they have met, middle is below, which is known not to reach.
        met = above - below == 1
        above, below = np.where(up & ~met, middle, above), np.where(up | met, below, middle)
    return above


def _multiplier_between(
    lower: list[tuple[int, int]], upper: list[tuple[int, int]], shift: int, nominal: int
) -> int | None:
    """The multiplier nearest to ``nominal`` with which every accumulator is on its side of its step.

    ``lower`` pairs accumulators with the steps they must reach, ``upper`` with those they must not.
    """
    lowest, highest = 0, (1 << 31) - 1
    # accumulator * multiplier >= edge, and accumulator * multiplier <= edge - 1
    for pairs, slack in ((lower, 0), (upper, 1)):
        for accumulator, step in pairs:
            edge = ((2 * step - 1) << (30 - shift)) - slack
            if accumulator == 0:
                continue
            if (accumulator > 0) == (slack == 0):
                lowest = max(lowest, -(-edge // accumulator))
            else:
                highest = min(highest, edge // accumulator)
    return min(max(nominal, lowest), highest) if lowest <= highest else None


@dataclass(frozen=True)
class DenseScale:
    """The reference's requantisation of FULLY_CONNECTED: a double a channel, rounded half away from zero.

    The network has integers instead: a multiplier and one rounding, half up. Both are monotone step
    functions of the accumulator with at most 255 steps inside the clamp, so that they are equal on every
    reachable accumulator exactly if their steps are at the same accumulators.

    Parameters
    ----------
    scales : float64 array (channels,)
        Input scale * weight scale / output scale.
    bounds : pair of int64 arrays (channels,)
        Least and greatest accumulator of each channel (`kolmogate.network.accumulator_bounds`).
    clamp : pair of int
        Output minimum and maximum, less the output zero point.
    """

    scales: FloatArray
    bounds: tuple[Int64Array, Int64Array]
    clamp: tuple[int, int]

    @classmethod
    def of(
        cls,
        source: Tensor,
        weight_scales: npt.ArrayLike,
        output: Tensor,
        bounds: tuple[Int64Array, Int64Array],
        clamp: tuple[int, int],
    ) -> Self:
        """From the tensors and one weight scale, or one a channel."""
        scales = np.broadcast_to(_effective_scales(source, weight_scales, output), bounds[0].shape)
        return cls(scales, bounds, (clamp[0] - output.zero_point, clamp[1] - output.zero_point))

    @cached_property
    def _steps(self) -> Int64Array:
        return np.arange(self.clamp[0] + 1, self.clamp[1] + 1, dtype=np.int64)

    @cached_property
    def _first(self) -> Int64Array:
        return _first_accumulators(self.scales, self.bounds, self._steps)

    def equals(self, requantisation: Requantisation) -> npt.NDArray[np.bool_]:
        """Which channels' integer form gives the reference's output for every input; (channels,)."""
        shift = requantisation.shift.astype(np.int64)[:, None]
        multiplier = requantisation.multiplier.astype(np.int64)[:, None]

        def reaches(accumulators: Int64Array) -> npt.NDArray[np.bool_]:
            half = np.int64(1) << (30 - shift)
            result: npt.NDArray[np.bool_] = (accumulators * multiplier + half) >> (31 - shift) >= self._steps
            return result

        first, (low, high) = self._first, self.bounds
        right = reaches(first) | (first > high[:, None])
        left = ~reaches(first - 1) | (first <= low[:, None])
        result: npt.NDArray[np.bool_] = np.logical_and.reduce(left & right, axis=1)
        return result

    def requantisation(self) -> Requantisation:
        """The integer form, its multiplier moved by a few units where the nearest one is not equal.

        Raises `InputError` if a channel has no equal multiplier.
        """
        result = _requantisation(self.scales)
        for channel in np.flatnonzero(~self.equals(result)):
            first, low, high = self._first[channel], self.bounds[0][channel], self.bounds[1][channel]
            found = _multiplier_between(
                [(int(t), int(v)) for t, v in zip(first, self._steps, strict=True) if t <= high],
                [(int(t) - 1, int(v)) for t, v in zip(first, self._steps, strict=True) if t > low],
                int(result.shift[channel]),
                int(result.multiplier[channel]),
            )
            if found is None:
                raise InputError(
                    f"no 31-bit multiplier equals the scale {self.scales[channel]:.9g} of channel {channel} "
                    "for every input: quantise the model with other scales"
                )
            result.multiplier[channel] = found
        return result
