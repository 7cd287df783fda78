"""The machine's requantisation in numpy, and how TFLite's fixed-point scales become its constants."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .config import MachineConfig
from .errors import InputError
from .isa import RESIDUAL_FRACTION, SCALE_OFFSET, SHIFTS

__all__ = [
    "add_residual",
    "constants_from_tflite",
    "leaving_latency",
    "normalise",
    "requantise",
    "requantiser_interval",
]

Int64Array = npt.NDArray[np.int64]


def requantise(
    accumulators: npt.ArrayLike,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    *,
    single_rounding: bool,
) -> Int64Array:
    """The formula of `isa.CONSTANTS` before zero point and clamp.

    All arguments broadcast against each other (constants are usually of shape (channels,), the last axis
    of the accumulators). No intermediate exceeds 59 bits.
    """
    multiplier, shift = np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    a = np.asarray(accumulators, np.int64) + np.asarray(bias, np.int64)
    nudge = np.where(a < 0, -(1 << 30), 1 << 30) * ((shift >= 32) & (not single_rounding))
    half = np.int64(1) << (shift - 1)
    result: Int64Array = (a * multiplier + half + nudge) >> shift
    return result


def constants_from_tflite(multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> tuple[Int64Array, Int64Array]:
    """(multiplier, shift) of `isa.CONSTANTS` that equal TFLite's on every sum of accumulator and bias.

    TFLite's pair means ``multiplier / 2**31 * 2**shift``, with ``multiplier`` an int32 that is not
    negative; both arguments are integers or arrays of one shape. `requantise` then equals
    RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(a, multiplier), -shift), or the single rounding
    where that is asked for, as long as TFLite's own left shift does not overflow.

    Raises `InputError` if a scale is 128 or more.
    """
    multiplier, shift = np.asarray(multiplier, np.int64), 31 - np.asarray(shift, np.int64)
    if np.any((multiplier < 0) | (multiplier >= 1 << 31)):
        raise InputError(f"a requantisation multiplier must be in [0, 2**31), not {multiplier}")
    # |a * multiplier| < 2**57, so that such shifts leave nothing, whichever way halves are rounded.
    zero = (multiplier == 0) | (shift > SHIFTS[-1])
    multiplier, shift = np.where(zero, 0, multiplier), np.where(zero, 31, shift)
    # A multiplier that is not normalised may make up for a shift that is too small.
    short = np.maximum(SHIFTS[0] - shift, 0)
    if np.any(multiplier > ((1 << 31) - 1) >> short):
        raise InputError(
            f"a requantisation scale must be less than {1 << 31 - SHIFTS[0]}: give the layer's output a"
            " larger scale, or its weights or input a smaller one"
        )
    return multiplier << short, shift + short


def add_residual(outputs: npt.ArrayLike, operands: npt.ArrayLike, record: Mapping[str, int]) -> Int64Array:
    """The formula of `isa.RESIDUAL` for outputs and operands of one shape; ``record`` holds its fields."""
    y, x = np.asarray(outputs, np.int64), np.asarray(operands, np.int64)
    y, x = y - record["output_zero_point"], x - record["operand_zero_point"]
    total = y * (record["output_scale"] - SCALE_OFFSET) + x * (record["operand_scale"] - SCALE_OFFSET)
    rounded = (total + (1 << RESIDUAL_FRACTION - 1)) >> RESIDUAL_FRACTION
    minimum = x if record["largest"] else np.int64(record["minimum"])
    return np.minimum(np.maximum(rounded + record["zero_point"], minimum), record["maximum"])


def normalise(multiplier: int, shift: int) -> tuple[int, int]:
    """The same scale with a multiplier in [2**30, 2**31), for a single rounding."""
    missing = 31 - multiplier.bit_length()
    return multiplier << missing, shift + missing


def requantiser_interval(config: MachineConfig) -> int:
    """Cycles from one batch of ``config.requantisers`` outputs to the next, whatever their constants."""
    digit_bits = config.requantiser_digit_bits
    return 1 if digit_bits == 32 else config.requantisers * 32 // digit_bits


def leaving_latency(config: MachineConfig) -> int:
    """Cycles from the second after the capture of a layer's last tile to that in which the next layer may
    begin, if it reads nothing of that tile.

    By then the other outputs are written: the last of them is at the writer 8 cycles after its transfer, in
    that of the capture at the latest, or with smaller digits 7 and an interval, and asks for its place in the
    next; the layer's first request comes six cycles after its start, and its descriptor takes two.
    """
    interval = requantiser_interval(config)
    return 2 if interval == 1 else interval
