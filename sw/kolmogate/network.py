"""The network between import and scheduling: a list of exact integer operations on int8 tensors.

A `Network` is a value. Passes return a new one, and `Network.check` holds its rules after each pass.
Tensors drop the batch axis: an image is (height, width, channels), a vector (channels,).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from .errors import InputError

__all__ = [
    "Add",
    "AveragePool2D",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "MaxPool2D",
    "Mean",
    "Network",
    "Operation",
    "Pad",
    "Relu",
    "Requantisation",
    "Reshape",
    "Softmax",
    "Tensor",
    "Weighted",
    "Window",
    "accumulator_bounds",
]

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tensor:
    """An int8 activation tensor: real value = scale * (stored - zero_point).

    ``scale`` is kept as the nearest float32, the type it has in a file.
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            object.__setattr__(self, "scale", float(np.float32(self.scale)))

    def check(self) -> None:
        """Raises `InputError` if shape, scale or zero point is none that an int8 tensor can have."""
        title = f"tensor {self.name!r}"
        _require(
            len(self.shape) > 0 and all(size > 0 for size in self.shape),
            f"{title} must have positive sizes, not shape {self.shape}",
        )
        _require(
            math.isfinite(self.scale) and self.scale > 0,
            f"{title} must have a positive finite scale, not {self.scale}",
        )
        _require(
            -128 <= self.zero_point <= 127, f"{title} must have an int8 zero point, not {self.zero_point}"
        )


@dataclass(frozen=True)
class Window:
    """A sliding window over an image. ``padding`` is (top, bottom, left, right), in positions."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]

    @classmethod
    def valid(cls, size: tuple[int, int], stride: tuple[int, int]) -> Self:
        """TFLite's VALID padding: none."""
        return cls(size, stride, (0, 0, 0, 0))

    @classmethod
    def same(cls, size: tuple[int, int], stride: tuple[int, int], height: int, width: int) -> Self:
        """TFLite's SAME padding: ceil(extent / stride) positions, an odd one goes to the bottom and right."""
        vertical, horizontal = (
            max((-(-extent // step) - 1) * step + length - extent, 0)
            for extent, length, step in zip((height, width), size, stride, strict=True)
        )
        top, left = vertical // 2, horizontal // 2
        return cls(size, stride, (top, vertical - top, left, horizontal - left))

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Output (height, width) for an input of that size."""
        top, bottom, left, right = self.padding
        return (
            (height + top + bottom - self.size[0]) // self.stride[0] + 1,
            (width + left + right - self.size[1]) // self.stride[1] + 1,
        )


@dataclass(frozen=True)
class Requantisation:
    """Fixed-point scale per output channel, TFLite's convention: real = multiplier / 2**31 * 2**shift.

    ``multiplier`` and ``shift`` are int32 arrays of shape (channels,); ``multiplier`` is in [0, 2**31)
    and ``shift`` in [-31, 30].
    """

    multiplier: Int32Array
    shift: Int32Array


@dataclass(frozen=True)
class Operation:
    """One operation: reads ``inputs``, writes ``output`` (names of tensors)."""

    kind: ClassVar[str]
    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Conv2D(Operation):
    """CONV_2D; ``weights`` (out, height, width, in). Requantises with two roundings."""

    kind = "CONV_2D"
    weights: Int8Array
    bias: Int32Array
    window: Window
    requantisation: Requantisation
    clamp: tuple[int, int]


@dataclass(frozen=True)
class DepthwiseConv2D(Operation):
    """DEPTHWISE_CONV_2D; ``weights`` (height, width, out), out = in * multiplier. Two roundings.

    Output channel c reads input channel ``c // (out // in)``.
    """

    kind = "DEPTHWISE_CONV_2D"
    weights: Int8Array
    bias: Int32Array
    window: Window
    requantisation: Requantisation
    clamp: tuple[int, int]


@dataclass(frozen=True)
class Dense(Operation):
    """FULLY_CONNECTED; ``weights`` (out, in). Requantises with one rounding.

    The input is taken as rows of ``in`` values, each of which gives ``out`` outputs; nearly always it is
    one row. The reference scales by a double; ``requantisation`` holds integers proved to give the same
    outputs (`kolmogate.quantisation.DenseScale`).
    """

    kind = "FULLY_CONNECTED"
    weights: Int8Array
    bias: Int32Array
    requantisation: Requantisation
    clamp: tuple[int, int]


Weighted = Conv2D | DepthwiseConv2D | Dense
"""Operations with weights of their own."""


@dataclass(frozen=True)
class Add(Operation):
    """ADD of two tensors of one shape, with TFLite's three fixed-point scales (a, b, output).

    Operands less their zero points are shifted left by ``left_shift`` before they are scaled. Each scaling
    rounds twice.
    """

    kind = "ADD"
    requantisation: Requantisation
    clamp: tuple[int, int]
    left_shift: int = 20


@dataclass(frozen=True)
class AveragePool2D(Operation):
    kind = "AVERAGE_POOL_2D"
    window: Window
    clamp: tuple[int, int]


@dataclass(frozen=True)
class MaxPool2D(Operation):
    kind = "MAX_POOL_2D"
    window: Window
    clamp: tuple[int, int]


@dataclass(frozen=True)
class Mean(Operation):
    """MEAN over ``axes`` of the input's shape, kept with size 1 or dropped.

    ``requantisation`` holds one channel, the division by the number of values folded in. Two roundings.
    """

    kind = "MEAN"
    axes: tuple[int, ...]
    requantisation: Requantisation


@dataclass(frozen=True)
class Pad(Operation):
    """PAD with the zero point; ``padding`` is (top, bottom, left, right)."""

    kind = "PAD"
    padding: tuple[int, int, int, int]


@dataclass(frozen=True)
class Reshape(Operation):
    kind = "RESHAPE"


@dataclass(frozen=True)
class Softmax(Operation):
    """SOFTMAX over the last axis, on the host, in TFLite's fixed point."""

    kind = "SOFTMAX"
    beta: float


@dataclass(frozen=True)
class Relu(Operation):
    """RELU, RELU6 or RELU_N1_TO_1 on its own; ``requantisation`` holds one channel. Two roundings."""

    kind = "RELU"
    requantisation: Requantisation
    clamp: tuple[int, int]


@dataclass(frozen=True)
class Network:
    """A checked list of operations in order of execution, with one input and one output."""

    tensors: dict[str, Tensor]
    operations: tuple[Operation, ...]
    input: str
    output: str
    name: str = field(default="network")

    def check(self) -> None:
        """Hold the rules that everything after import relies on; raises `InputError` naming the first broken.

        Operations read tensors that are already written and write each tensor once; shapes, array types
        and quantisation fit together; no accumulator can overflow 32 bits.
        """
        for tensor in self.tensors.values():
            tensor.check()
        for role, name in (("input", self.input), ("output", self.output)):
            _require(name in self.tensors, f"the network's {role} {name!r} is not among its tensors")
        written = {self.input}
        for operation in self.operations:
            title = f"{operation.kind} {operation.name!r}"
            for name in operation.inputs:
                _require(name in written, f"{title} reads tensor {name!r} before it is written")
            _require(operation.output in self.tensors, f"{title} writes unknown tensor {operation.output!r}")
            _require(operation.output not in written, f"{title} writes tensor {operation.output!r} again")
            written.add(operation.output)
            inputs = [self.tensors[name] for name in operation.inputs]
            expected = 2 if isinstance(operation, Add) else 1
            _require(len(inputs) == expected, f"{title} must have {expected} input, not {len(inputs)}")
            try:
                _check_operation(operation, inputs, self.tensors[operation.output])
            except InputError as error:
                raise InputError(f"{title}: {error}") from None
        _require(self.output in written, f"no operation writes the network's output {self.output!r}")


def accumulator_bounds(operation: Weighted, zero_point: int) -> tuple[Int64Array, Int64Array]:
    """Least and greatest accumulator, bias included, of each output channel over all int8 inputs.

    ``zero_point`` is the input's. Padding counts as zero, which lies between the bounds.
    """
    axes = {Conv2D: (1, 2, 3), DepthwiseConv2D: (0, 1), Dense: (1,)}[type(operation)]
    weights = operation.weights.astype(np.int64)
    products = (weights * (-128 - zero_point), weights * (127 - zero_point))
    bias = operation.bias.astype(np.int64)
    return np.minimum(*products).sum(axes) + bias, np.maximum(*products).sum(axes) + bias


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise InputError(rule)


def _check_array(
    array: npt.NDArray[np.generic], name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> None:
    _require(
        array.dtype == dtype and array.shape == shape,
        f"{name} must be {np.dtype(dtype).name} of shape {shape}, not {array.dtype.name} of {array.shape}",
    )


def _check_requantisation(requantisation: Requantisation, channels: int, rising: bool = True) -> None:
    multiplier, shift = requantisation.multiplier, requantisation.shift
    _check_array(multiplier, "multiplier", np.int32, (channels,))
    _check_array(shift, "shift", np.int32, (channels,))
    _require(bool((multiplier >= 0).all()), f"multipliers must not be negative, not {multiplier.min()}")
    highest = 30 if rising else 0
    _require(
        bool(((shift >= -31) & (shift <= highest)).all()),
        f"scale shifts must be -31 to {highest}, not {shift.min()} to {shift.max()}: the tensors' scales are "
        "too far apart, so quantise the model again",
    )


def _check_output_shape(output: Tensor, expected: Sequence[int]) -> None:
    _require(
        output.shape == tuple(expected),
        f"output {output.name!r} must have shape {tuple(expected)}, not {output.shape}",
    )


def _check_same_quantisation(source: Tensor, output: Tensor) -> None:
    # The reference refuses scales further apart than this, and copies bytes whatever they are.
    _require(
        source.zero_point == output.zero_point and abs(source.scale - output.scale) <= 1e-6,
        f"output {output.name!r} must have the scale and zero point of the input {source.name!r}",
    )


def _check_image(source: Tensor) -> None:
    _require(
        len(source.shape) == 3,
        f"input {source.name!r} must be (height, width, channels), not of shape {source.shape}",
    )


def _check_window(window: Window, source: Tensor, output: Tensor, channels: int) -> None:
    _check_image(source)
    height, width, _ = source.shape
    _require(
        min(window.size) > 0 and min(window.stride) > 0 and min(window.padding) >= 0,
        f"window size {window.size} and stride {window.stride} must be positive and padding "
        f"{window.padding} not negative",
    )
    size = window.output_size(height, width)
    _require(min(size) > 0, f"window {window.size} is larger than the padded image {height} x {width}")
    _check_output_shape(output, (*size, channels))


def _check_products(operation: Weighted, source: Tensor, channels: int) -> None:
    """Bias, scales and accumulators of the operations that have weights."""
    _check_array(operation.bias, "bias", np.int32, (channels,))
    _check_requantisation(operation.requantisation, channels)
    low, high = accumulator_bounds(operation, source.zero_point)
    largest = np.maximum(-low, high) << np.maximum(operation.requantisation.shift, 0)
    channel = int(largest.argmax())
    _require(
        int(largest[channel]) < 1 << 31,
        f"the accumulator of channel {channel} can overflow 32 bits: quantise the model with larger weight "
        "scales or a smaller bias",
    )


def _check_operation(operation: Operation, inputs: list[Tensor], output: Tensor) -> None:
    source = inputs[0]
    channels = output.shape[-1]
    clamp = getattr(operation, "clamp", (-128, 127))
    _require(-128 <= clamp[0] <= clamp[1] <= 127, f"clamp must be a range within int8, not {clamp}")
    match operation:
        case Conv2D():
            _check_window(operation.window, source, output, channels)
            shape = (channels, *operation.window.size, source.shape[-1])
            _check_array(operation.weights, "weights", np.int8, shape)
            _check_products(operation, source, channels)
        case DepthwiseConv2D():
            _check_window(operation.window, source, output, channels)
            _require(
                channels % source.shape[-1] == 0,
                f"{channels} output channels must be a multiple of {source.shape[-1]} input channels",
            )
            _check_array(operation.weights, "weights", np.int8, (*operation.window.size, channels))
            _check_products(operation, source, channels)
        case Dense():
            # A flattened image gives one row; otherwise the last axis alone is transformed.
            depth = math.prod(source.shape) if output.shape == (channels,) else source.shape[-1]
            _check_output_shape(
                output, (*source.shape[:-1], channels) if len(output.shape) > 1 else (channels,)
            )
            _check_array(operation.weights, "weights", np.int8, (channels, depth))
            _check_products(operation, source, channels)
        case Add():
            _require(
                inputs[0].shape == inputs[1].shape,
                f"inputs must have one shape, not {inputs[0].shape} and {inputs[1].shape}: "
                "broadcasting is not supported, so tile the smaller one",
            )
            _check_output_shape(output, source.shape)
            _check_requantisation(operation.requantisation, 3, rising=False)
            _require(operation.left_shift == 20, f"left_shift must be 20, not {operation.left_shift}")
        case AveragePool2D() | MaxPool2D():
            _check_window(operation.window, source, output, source.shape[-1])
            size, (top, bottom, left, right) = operation.window.size, operation.window.padding
            _require(
                max(top, bottom) < size[0] and max(left, right) < size[1],
                f"padding {operation.window.padding} must be smaller than the window {size}",
            )
            _check_same_quantisation(source, output)
        case Mean():
            _check_image(source)
            _require(operation.axes == (0, 1), f"axes must be height and width, not {operation.axes}")
            dropped, kept = source.shape[2:], (1, 1, *source.shape[2:])
            _check_output_shape(output, dropped if len(output.shape) == 1 else kept)
            _check_requantisation(operation.requantisation, 1)
        case Pad():
            _check_image(source)
            top, bottom, left, right = operation.padding
            _require(min(operation.padding) >= 0, f"padding must not be negative, not {operation.padding}")
            height, width, depth = source.shape
            _check_output_shape(output, (height + top + bottom, width + left + right, depth))
            _check_same_quantisation(source, output)
        case Reshape():
            _require(
                math.prod(source.shape) == math.prod(output.shape),
                f"shape {source.shape} cannot become {output.shape}: the numbers of values differ",
            )
            _check_same_quantisation(source, output)
        case Softmax():
            _check_output_shape(output, source.shape)
            # The reference's sum of exponentials holds numbers below 512, and aborts above.
            _require(
                source.shape[-1] < 512, f"its axis of {source.shape[-1]} values must be shorter than 512"
            )
            _require(
                output.scale == 1 / 256 and output.zero_point == -128,
                f"output {output.name!r} must have scale 1/256 and zero point -128",
            )
            _require(
                operation.beta * source.scale * 2**26 > 1,
                f"beta {operation.beta} times the input scale {source.scale} is too small",
            )
        case Relu():
            _check_output_shape(output, source.shape)
            _check_requantisation(operation.requantisation, 1)
        case _:
            raise InputError("is not an operation of this version of Kolmogate")
