"""The network between import and scheduling: a list of exact integer operations on int8 tensors.

A `Network` is a value. Passes return a new one, and `Network.check` holds its rules after each pass.
Tensors drop the batch axis: an image is (height, width, channels), a vector (channels,).
"""

from dataclasses import dataclass, field, fields
from typing import ClassVar

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
    "Window",
]

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Tensor:
    """An int8 activation tensor: real value = scale * (stored - zero_point)."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Window:
    """A sliding window over an image. ``padding`` is (top, bottom, left, right), in positions."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]

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

    ``multiplier`` and ``shift`` are int32 arrays of shape (channels,); ``multiplier`` is 0 or in
    [2**30, 2**31).
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
    """FULLY_CONNECTED; ``weights`` (out, in). Requantises with one rounding."""

    kind = "FULLY_CONNECTED"
    weights: Int8Array
    bias: Int32Array
    requantisation: Requantisation
    clamp: tuple[int, int]


@dataclass(frozen=True)
class Add(Operation):
    """ADD of two tensors of one shape, with TFLite's three fixed-point scales (a, b, output)."""

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
    """MEAN over ``axes`` of the input's shape; ``requantisation`` holds one channel."""

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
    """RELU or RELU6 as an operation of its own; ``requantisation`` holds one channel."""

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
