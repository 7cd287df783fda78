"""What a layer computes with: weights in the order of the program, and requantisation constants.

What of the input's zero point the array does not add is folded into the bias:
``sum(w * (x - z)) = sum(w * (x + offset)) - (z + offset) * sum(w)``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from .config import MachineConfig
from .errors import InputError
from .isa import CONSTANTS, INPUT_OFFSET, SHIFTS
from .machine_arithmetic import constants_from_tflite, normalise
from .network import (
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Int8Array,
    MaxPool2D,
    Mean,
    Operation,
    Relu,
    Weighted,
)
from .shorten import shorten

__all__ = ["Parameters", "average_constants", "parameters", "program_rows", "row_count", "weights_of_rows"]

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parameters:
    """Weights and constants of a layer.

    Parameters
    ----------
    fields : mapping
        Descriptor fields that say how to compute: rounding, clamp, zero point, unit weights.
    bias, multiplier, shift : int64 arrays (channels,)
        As in `isa.CONSTANTS`.
    rows : int8 array (groups, taps, columns)
        Weights in the order of the program, zeros beyond the last channel; a row of zeros where all are 1.
    distances : tuple of int
        Taps from one to its neighbour along each axis of the window.
    """

    fields: Mapping[str, int]
    bias: Int64Array
    multiplier: Int64Array
    shift: Int64Array
    rows: Int8Array = field(repr=False)
    distances: tuple[int, ...] = ()


def parameters(
    operation: Operation, channels: int, taps: int, zero_points: tuple[int, int], config: MachineConfig
) -> Parameters:
    """The parameters of a layer with so many output channels, taps and these (input, output) zero points.

    Raises `InputError` if accumulators or biases could leave the machine's range.
    """
    match operation:
        case AveragePool2D():
            return _average(config.columns, channels, taps, operation.clamp)
        case MaxPool2D():
            # A copy. Biases are 0 and the zero point takes the offset off again: so the records are shorter.
            ends = (0, *average_constants(1))
            fields = {"single_rounding": 1, "zero_point": -INPUT_OFFSET, **_clamp(operation.clamp)}
            return _unit(config.columns, channels, *ends, **fields)
        case Mean() | Relu():
            clamp = operation.clamp if isinstance(operation, Relu) else (-128, 127)
            multiplier, shift = _constants(operation)
            bias = -(zero_points[0] + INPUT_OFFSET) * taps
            if (127 + INPUT_OFFSET) * taps >= 1 << config.accumulator_bits - 1:
                raise InputError(
                    f"{operation.kind} {operation.name!r} cannot be run exactly on this target: the sum of"
                    f" {taps} values can leave an accumulator of {config.accumulator_bits} bits"
                )
            ends = (bias, int(multiplier[0]), int(shift[0]))
            return _unit(config.columns, channels, *ends, zero_point=zero_points[1], **_clamp(clamp))
        case Conv2D() | DepthwiseConv2D() | Dense():
            filters = _filters(operation)
        case _:
            raise TypeError(f"{operation.kind} has no parameters")
    wide = filters.astype(np.int64)
    bias = operation.bias.astype(np.int64) - (zero_points[0] + INPUT_OFFSET) * wide.sum(axis=1)
    multiplier, shift = _constants(operation)
    sums = _sums(wide)
    _check_range(operation, sums, bias, config)
    single_rounding = isinstance(operation, Dense)
    lowest, highest = (limit - zero_points[1] for limit in operation.clamp)
    reachable = sums[0] + bias, sums[1] + bias
    multiplier = shorten(multiplier, shift, reachable, (lowest, highest), single_rounding=single_rounding)
    fields = {
        "single_rounding": int(single_rounding),
        "zero_point": zero_points[1],
        **_clamp(operation.clamp),
    }
    rows = program_rows(filters, config.columns)
    return Parameters(fields, bias, multiplier, shift, rows, _distances(operation))


def _distances(operation: Weighted) -> tuple[int, ...]:
    """Inputs of a dense layer may be flattened images of any width."""
    match operation:
        case Conv2D():
            _, _, width, channels = operation.weights.shape
            return channels, width * channels
        case DepthwiseConv2D():
            return 1, operation.weights.shape[1]
    return 16, 32, 64, 128


def _average(columns: int, channels: int, taps: int, clamp: tuple[int, int]) -> Parameters:
    ends = (-INPUT_OFFSET * taps, *average_constants(taps))
    return _unit(columns, channels, *ends, single_rounding=1, **_clamp(clamp))


def _unit(columns: int, channels: int, bias: int, multiplier: int, shift: int, **fields: int) -> Parameters:
    """A layer that sums values up, with one scale for all channels."""
    bias_, multiplier_, shift_ = (np.full(channels, value) for value in (bias, multiplier, shift))
    rows = program_rows(np.zeros((channels, 1), np.int8), columns)
    return Parameters({"unit_weights": 1, **fields}, bias_, multiplier_, shift_, rows)


def _constants(operation: Weighted | Mean | Relu) -> tuple[Int64Array, Int64Array]:
    """Multipliers and shifts of `isa.CONSTANTS`; raises `InputError` that names the operation."""
    try:
        return constants_from_tflite(operation.requantisation.multiplier, operation.requantisation.shift)
    except InputError as error:
        raise InputError(f"{operation.kind} {operation.name!r}: {error}") from None


def _clamp(clamp: tuple[int, int]) -> dict[str, int]:
    return {"minimum": clamp[0], "maximum": clamp[1]}


def _filters(operation: Weighted) -> Int8Array:
    """Weights as (channels, taps)."""
    channels = len(operation.bias)
    if isinstance(operation, DepthwiseConv2D):
        return operation.weights.reshape(-1, channels).T
    return operation.weights.reshape(channels, -1)


def program_rows(filters: Int8Array, columns: int) -> Int8Array:
    """(channels, taps) as (groups, taps, columns)."""
    channels, taps = filters.shape
    groups = -(-channels // columns)
    filled = np.zeros((groups * columns, taps), np.int8)
    filled[:channels] = filters
    return np.ascontiguousarray(filled.reshape(groups, columns, taps).transpose(0, 2, 1))


def row_count(operation: Weighted, columns: int) -> int:
    """Rows of weights that an operation takes of the program."""
    channels, taps = _filters(operation).shape
    return -(-channels // columns) * taps


def weights_of_rows(operation: Weighted, rows: Int8Array) -> Int8Array:
    """The weights, in the operation's own shape, of its `row_count` rows of the program (rows, columns)."""
    channels, taps = _filters(operation).shape
    columns = rows.shape[1]
    filters = rows.reshape(-1, taps, columns).transpose(0, 2, 1).reshape(-1, taps)[:channels]
    if isinstance(operation, DepthwiseConv2D):
        filters = filters.T
    return np.ascontiguousarray(filters).reshape(operation.weights.shape)


def _sums(filters: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Lowest and highest accumulator of each channel, whatever the inputs."""
    largest = 127 + INPUT_OFFSET
    return largest * filters.clip(max=0).sum(axis=1), largest * filters.clip(min=0).sum(axis=1)


def _check_range(
    operation: Operation, sums: tuple[Int64Array, Int64Array], bias: Int64Array, config: MachineConfig
) -> None:
    """Every reachable accumulator, at any tap, every bias and every sum of both must fit."""
    lowest, highest = sums[0].min(), sums[1].max()
    limit = 1 << config.accumulator_bits - 1
    if highest >= limit or -lowest > limit:
        raise InputError(
            f"{operation.kind} {operation.name!r} cannot be run exactly on this target: its sums reach"
            f" {max(highest, -lowest)}, beyond an accumulator of {config.accumulator_bits} bits;"
            " make its filters smaller"
        )
    limit = 1 << CONSTANTS.widths["bias"] - 1
    if bias.max() >= limit or bias.min() < -limit:
        raise InputError(
            f"{operation.kind} {operation.name!r} cannot be run exactly on this target: with the input's zero"
            f" point its bias reaches {np.abs(bias).max()}, beyond {limit - 1}; give its input another range"
        )
    limit = 1 << config.accumulator_bits
    highest, lowest = (sums[1] + bias).max(), (sums[0] + bias).min()
    if highest >= limit or -lowest > limit:
        raise InputError(
            f"{operation.kind} {operation.name!r} cannot be run exactly on this target: with their biases its"
            f" sums reach {max(highest, -lowest)}, beyond {config.accumulator_bits + 1} bits;"
            " make its filters smaller"
        )


@cache
def average_constants(count: int) -> tuple[int, int]:
    """(multiplier, shift), normalised, whose single rounding is TFLite's average of ``count`` int8 numbers.

    That average rounds half away from zero. It is the smallest shift that is right for every
    reachable sum; all are tried.
    """
    every = np.arange(-128 * count, 127 * count + 1, dtype=np.int64)
    # The largest magnitudes go wrong first: most candidates fall on them, the others are tried on all.
    trials = np.concatenate([every[: 2 * count], every[-2 * count :]]), every
    for shift in SHIFTS:
        # 1 / count and a little more, so that negative halves are rounded away from zero too.
        for multiplier in (-(-(1 << shift) // count), (1 << shift) // count + 1):
            if multiplier < 1 << CONSTANTS.widths["multiplier"] and all(
                np.array_equal(
                    (total * multiplier + (1 << shift - 1)) >> shift,
                    np.sign(total) * ((np.abs(total) + count // 2) // count),
                )
                for total in trials
            ):
                return normalise(multiplier, shift)
    raise InputError(f"no exact average of {count} numbers is known: pool over a smaller window")
