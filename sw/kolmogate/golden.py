"""The golden model: a network's arithmetic in numpy, equal to LiteRT's reference kernels bit for bit.

Everything is integer arithmetic; matrix products go through floating point only where every partial sum
is an integer that the type holds exactly. Arrays have the batch axis first: (batch, *tensor shape).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from .errors import InputError
from .network import (
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPool2D,
    Mean,
    Network,
    Operation,
    Pad,
    Relu,
    Requantisation,
    Reshape,
    Softmax,
    Tensor,
    Weighted,
    Window,
)
from .quantisation import quantise_multiplier

__all__ = ["accumulate", "evaluate", "finish", "requantise", "run", "run_tensors", "softmax", "unfold"]

Int8Array = npt.NDArray[np.int8]
Int64Array = npt.NDArray[np.int64]

_BATCH = 32  # inputs evaluated side by side: bounds the memory of unfolded windows


def run(network: Network, x: Int8Array) -> Int8Array:
    """The network's output for a batch of inputs; (batch, *input shape) to (batch, *output shape).

    Raises `InputError` if ``x`` is not int8 of that shape.
    """
    _check_input(network, x)
    parts = [
        run_tensors(network, x[start : start + _BATCH])[network.output] for start in range(0, len(x), _BATCH)
    ]
    if not parts:
        return np.zeros((0, *network.tensors[network.output].shape), np.int8)
    return np.concatenate(parts)


def run_tensors(network: Network, x: Int8Array) -> dict[str, Int8Array]:
    """Every tensor of the network for a batch of inputs, by name. Raises like `run`."""
    _check_input(network, x)
    values = {network.input: x}
    for operation in network.operations:
        inputs = [network.tensors[name] for name in operation.inputs]
        values[operation.output] = evaluate(
            operation,
            [values[name] for name in operation.inputs],
            inputs,
            network.tensors[operation.output],
        )
    return values


def requantise(
    accumulator: Int64Array, multiplier: npt.ArrayLike, shift: npt.ArrayLike, single_rounding: bool
) -> Int64Array:
    """``accumulator * multiplier / 2**31 * 2**shift`` rounded as TFLite does; neither zero point nor clamp.

    ``multiplier`` and ``shift`` broadcast against ``accumulator``, whose last axis is channels. Two
    roundings: a doubling high multiplication that rounds half up, then a right shift that rounds half away
    from zero. One rounding: half up.
    """
    multiplier, shift = np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    if single_rounding:
        return (accumulator * multiplier + (np.int64(1) << (30 - shift))) >> (31 - shift)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    high = _high_multiply(accumulator << left if left.any() else accumulator, multiplier)
    return _rounding_shift(high, right)


def _high_multiply(a: Int64Array, b: Int64Array | int) -> Int64Array:
    """SaturatingRoundingDoublingHighMul on int32 values; never both -2**31 here, so it cannot saturate."""
    return (a * b + (1 << 30)) >> 31


def _rounding_shift(values: Int64Array, shift: Int64Array | int) -> Int64Array:
    """RoundingDivideByPOT: ``values / 2**shift``, half away from zero."""
    shift = np.asarray(shift, np.int64)
    half = (np.int64(1) << shift) >> 1
    # A negative half rounds down; without a shift there is no half to correct.
    return (values + half + np.where(shift > 0, values >> 63, 0)) >> shift


def _finish(values: Int64Array, output: Tensor, clamp: tuple[int, int] = (-128, 127)) -> Int8Array:
    return np.clip(values + output.zero_point, *clamp).astype(np.int8)


def _divide_half_away(values: Int64Array, counts: Int64Array) -> Int64Array:
    return np.sign(values) * ((np.abs(values) + counts // 2) // counts)


def _check_input(network: Network, x: Int8Array) -> None:
    shape = network.tensors[network.input].shape
    if not isinstance(x, np.ndarray) or x.dtype != np.int8 or x.shape[1:] != shape:
        given = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(
            f"the input must be int8 of shape (batch, {', '.join(map(str, shape))}), not {given}"
        )


def unfold(image: npt.NDArray[Any], window: Window, fill: int) -> npt.NDArray[Any]:
    """View of the padded image's windows: (batch, y, x, channel, window y, window x)."""
    top, bottom, left, right = window.padding
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    return sliding_window_view(padded, window.size, axis=(1, 2))[:, :: window.stride[0], :: window.stride[1]]


def _product(rows: npt.NDArray[Any], weights: Int8Array, zero_point: int) -> Int64Array:
    """(rows, taps) int8 less the zero point, times (out, taps): exact int64 (rows, out)."""
    # Floating point is the fastest exact way while no partial sum leaves the mantissa.
    bound = 255 * int(np.abs(weights.astype(np.int64)).sum(axis=1).max(initial=0))
    dtype: npt.DTypeLike = np.float32 if bound < 1 << 24 else np.float64
    centred: npt.NDArray[Any] = rows.astype(dtype)
    centred -= zero_point
    result: Int64Array = (centred @ weights.astype(dtype).T).astype(np.int64)
    return result


def accumulate(operation: Weighted, x: Int8Array, source: Tensor, output: Tensor) -> Int64Array:
    """The accumulators, bias included, of ``x`` read as ``source``: (batch, *output shape)."""
    match operation:
        case Conv2D():
            windows = unfold(x, operation.window, source.zero_point).transpose(0, 1, 2, 4, 5, 3)
            rows, filters = windows, operation.weights.reshape(len(operation.weights), -1)
            total = _product(rows.reshape(-1, filters.shape[1]), filters, source.zero_point)
        case Dense():
            rows = x.reshape(-1, operation.weights.shape[1])
            total = _product(rows, operation.weights, source.zero_point)
        case DepthwiseConv2D():
            centred = x.astype(np.int32) - source.zero_point
            centred = np.repeat(centred, output.shape[-1] // source.shape[-1], axis=-1)
            windows = unfold(centred, operation.window, 0)
            sums = np.zeros((len(x), *output.shape), np.int32)
            for row, column in np.ndindex(*operation.window.size):
                sums += windows[..., row, column] * operation.weights[row, column]
            total = sums.astype(np.int64)
    total += operation.bias
    return total.reshape(len(x), *output.shape)


def finish(operation: Weighted, accumulators: Int64Array, output: Tensor) -> Int8Array:
    """The outputs that these accumulators give; they never fall as accumulators rise."""
    scale = operation.requantisation
    scaled = requantise(accumulators, scale.multiplier, scale.shift, isinstance(operation, Dense))
    return _finish(scaled, output, operation.clamp)


def _add(operation: Add, a: Int8Array, b: Int8Array, inputs: list[Tensor], output: Tensor) -> Int8Array:
    multiplier, shift = operation.requantisation.multiplier, operation.requantisation.shift
    total = np.zeros(a.shape, np.int64)
    for index, (value, tensor) in enumerate(zip((a, b), inputs, strict=True)):
        shifted = (value.astype(np.int64) - tensor.zero_point) << operation.left_shift
        total += requantise(shifted, multiplier[index], shift[index], False)
    return _finish(requantise(total, multiplier[2], shift[2], False), output, operation.clamp)


def _average_pool(operation: AveragePool2D, x: Int8Array) -> Int8Array:
    sums = unfold(x.astype(np.int64), operation.window, 0).sum(axis=(-2, -1))
    # Positions in the padding do not count.
    counts = unfold(np.ones((1, *x.shape[1:3], 1), np.int64), operation.window, 0).sum(axis=(-2, -1))
    return np.clip(_divide_half_away(sums, counts), *operation.clamp).astype(np.int8)


def _mean(operation: Mean, x: Int8Array, source: Tensor, output: Tensor) -> Int8Array:
    axes = tuple(axis + 1 for axis in operation.axes)
    total = (x.astype(np.int64) - source.zero_point).sum(axis=axes)
    scale: Requantisation = operation.requantisation
    return _finish(requantise(total, scale.multiplier, scale.shift, False), output)


def _relu(operation: Relu, x: Int8Array, source: Tensor, output: Tensor) -> Int8Array:
    scale = operation.requantisation
    centred = x.astype(np.int64) - source.zero_point
    return _finish(requantise(centred, scale.multiplier, scale.shift, False), output, operation.clamp)


def evaluate(operation: Operation, x: list[Int8Array], inputs: list[Tensor], output: Tensor) -> Int8Array:
    """The output (batch, *shape) of one operation that reads ``x``, a batch of each of ``inputs``."""
    result = _evaluate(operation, x, inputs, output)
    return result.reshape(len(result), *output.shape)


def _evaluate(operation: Operation, x: list[Int8Array], inputs: list[Tensor], output: Tensor) -> Int8Array:
    source = inputs[0]
    match operation:
        case Conv2D() | DepthwiseConv2D() | Dense():
            return finish(operation, accumulate(operation, x[0], source, output), output)
        case Add():
            return _add(operation, x[0], x[1], inputs, output)
        case AveragePool2D():
            return _average_pool(operation, x[0])
        case MaxPool2D():
            return np.clip(unfold(x[0], operation.window, -128).max(axis=(-2, -1)), *operation.clamp)
        case Mean():
            return _mean(operation, x[0], source, output)
        case Pad():
            top, bottom, left, right = operation.padding
            widths = ((0, 0), (top, bottom), (left, right), (0, 0))
            return np.pad(x[0], widths, constant_values=source.zero_point)
        case Reshape():
            return x[0]
        case Softmax():
            return softmax(x[0], source.scale, operation.beta)
        case Relu():
            return _relu(operation, x[0], source, output)
        case _:
            raise InputError(f"the golden model has no {operation.kind}")


# gemmlowp's fixed-point functions, used by SOFTMAX. Qm.n: n fraction bits, 31 - n = m integer bits.

_ONE = (1 << 31) - 1  # 1 in Q0.31, saturated
# exp(-2**(i - 2)) in Q0.31 for i = 0...6
_EXPONENTIALS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def _exponential(a: Int64Array) -> Int64Array:
    """exp(a) in Q0.31 for a <= 0 in Q5.26."""
    quarter = 1 << 24
    fraction = (a & (quarter - 1)) - quarter
    # Taylor series around -1/8 on [-1/4, 0): exp(-1/8) * (1 + x + x²/2 + x³/6 + x⁴/24)
    x = (fraction << 5) + (1 << 28)
    x2 = _high_multiply(x, x)
    x3 = _high_multiply(x2, x)
    x4 = _high_multiply(x2, x2)
    series = _high_multiply(_rounding_shift(x4, 2) + x3, 715827883) + x2  # 1/3
    base = 1895147668  # exp(-1/8)
    result = base + _high_multiply(x + _rounding_shift(series, 1), base)
    whole = fraction - a
    for index, factor in enumerate(_EXPONENTIALS):
        result = np.where((whole >> (24 + index)) & 1, _high_multiply(result, factor), result)
    return np.where(a == 0, _ONE, result)


def _reciprocal(x: Int64Array) -> Int64Array:
    """1 / (1 + x) in Q0.31 for x in [0, 1) in Q0.31: three Newton steps in Q2.29."""
    half_denominator = (x + _ONE + 1) >> 1
    estimate = 1515870810 + _high_multiply(half_denominator, -1010580540)  # 48/17 - 32/17 * d
    for _ in range(3):
        error = (1 << 29) - _high_multiply(half_denominator, estimate)
        estimate = estimate + (_high_multiply(estimate, error) << 2)
    return np.minimum(estimate << 1, _ONE)


def softmax(x: Int8Array, scale: float, beta: float) -> Int8Array:
    """SOFTMAX over the last axis; ``scale`` is the input's, the output has scale 1/256 and zero point -128.

    Exponentials are summed in Q12.19; differences that exp cannot see give the least output.
    """
    real = min(float(np.float32(beta)) * float(np.float32(scale)) * 2**26, 2.0**31 - 1)
    multiplier, left = quantise_multiplier(real)
    difference = x.astype(np.int64) - x.max(axis=-1, keepdims=True)
    visible = difference >= -((31 << 26) >> left)
    scaled = _high_multiply(np.where(visible, difference, 0) << left, multiplier)
    exponential = np.where(visible, _exponential(scaled), 0)
    total = _rounding_shift(exponential, 12).sum(axis=-1, keepdims=True)
    # total = 2**bits * (1 + mantissa) in Q12.19
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64) - 1
    inverse = _reciprocal((total << (31 - bits)) - (1 << 31))
    shift = (12 - (31 - bits)) + 31 - 8
    outputs = _rounding_shift(_high_multiply(inverse, exponential), shift)
    return _finish(np.where(visible, outputs, 0), Tensor("softmax", (1,), 1 / 256, -128))
