"""Small random networks, for tests that compare two ways of running one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .isa import WINDOW_BITS
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
    accumulator_bounds,
)
from .parameters import row_count, weights_of_rows
from .programs.generate import generate
from .quantisation import (
    ACTIVATIONS,
    DenseScale,
    activation_range,
    add_requantisation,
    convolution_requantisation,
    mean_requantisation,
    rescaling,
)

__all__ = ["KINDS", "random_network", "with_computed_weights"]

KINDS: tuple[type[Operation], ...] = (
    Conv2D,
    DepthwiseConv2D,
    Dense,
    Add,
    AveragePool2D,
    MaxPool2D,
    Mean,
    Pad,
    Reshape,
    Relu,
    Softmax,
)
"""Kinds of operation that a random network may hold."""

_IMAGES_ONLY = (Conv2D, DepthwiseConv2D, AveragePool2D, MaxPool2D, Mean, Pad)
_CHANNELS = (1, 2, 3, 4, 5, 8, 10, 16, 17)
_ATTEMPTS = 20


def random_network(seed: int, kinds: Sequence[type[Operation]] = KINDS, length: int = 5) -> Network:
    """A checked network of ``length`` operations of the given ``kinds``, the same for the same arguments.

    Shapes, strides, paddings, channel counts, scales and zero points are random, with the corners that
    networks from practice never reach: scale ratios that are powers of two (ties in every rounding), scales
    that send all outputs to one end, large biases, weights of -128. SOFTMAX comes last if it comes.
    """
    builder = _Builder(np.random.default_rng(seed))
    for index in range(length):
        usable = [kind for kind in kinds if kind is not Softmax or index == length - 1]
        builder.append(usable)
    network = builder.network(f"random_{seed}")
    network.check()
    return network


def with_computed_weights(network: Network, columns: int, new_bits: int, seed: int = 0) -> Network:
    """The network with weights that GENERATE makes, ``columns`` channels side by side, of so many new bits
    each: every operation has a path of windows of its own, without new bits every column group."""
    rng = np.random.default_rng(seed)
    operations = []
    for operation in network.operations:
        if isinstance(operation, Weighted):
            rows = row_count(operation, columns)
            groups = 1 if new_bits else -(-len(operation.bias) // columns)
            paths = rng.integers(0, 2, (groups, columns, WINDOW_BITS + (rows // groups - 1) * new_bits))
            made = [[generate(bits, new_bits, rows // groups) for bits in lanes] for lanes in paths]
            stacked = np.concatenate(np.array(made, np.int8).transpose(0, 2, 1))
            operation = replace(operation, weights=weights_of_rows(operation, stacked))
        operations.append(operation)
    return replace(network, operations=tuple(operations))


class _Builder:
    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        # One network in four has scales that are powers of two only.
        self.powers_of_two = bool(rng.random() < 0.25)
        shape = (int(rng.integers(1, 10)), int(rng.integers(1, 10)), self.channels())
        self.current = Tensor("input", shape, self.scale(0.05), self.zero_point())
        self.tensors = {"input": self.current}
        self.operations: list[Operation] = []

    def network(self, name: str) -> Network:
        return Network(dict(self.tensors), tuple(self.operations), "input", self.current.name, name)

    def append(self, kinds: Sequence[type[Operation]]) -> None:
        """Add an operation of one of the kinds that fits the current tensor."""
        fitting = [kind for kind in kinds if kind not in _IMAGES_ONLY or len(self.current.shape) == 3]
        if not fitting:
            raise InputError(
                f"none of {[kind.__name__ for kind in kinds]} fits a tensor that is not an image"
            )
        previous = self.tensors, self.operations, self.current
        for _ in range(_ATTEMPTS):
            kind = fitting[int(self.rng.integers(len(fitting)))]
            try:
                self.add(kind, f"{kind.kind.lower()}_{len(self.operations)}")
                self.network("attempt").check()
                return
            except InputError:
                # Scales that overflow, or windows larger than the image: draw again.
                self.tensors, self.operations, self.current = previous
        raise InputError(f"no random operation fitted after {self.current.name!r}: try another seed")

    def add(self, kind: type[Operation], name: str) -> None:
        source = self.current
        operation: Operation
        shape: tuple[int, ...]
        if kind in (Conv2D, DepthwiseConv2D, Dense):
            operation, output = self.weighted(kind, name, source)
        elif kind is Add:
            partners = [tensor for tensor in self.tensors.values() if tensor.shape == source.shape]
            other = partners[int(self.rng.integers(len(partners)))]
            output = self.output(name, source.shape, max(source.scale, other.scale))
            scale = add_requantisation(source, other, output, Add.left_shift)
            operation = Add(name, (source.name, other.name), name, scale, self.clamp(output))
        elif kind in (AveragePool2D, MaxPool2D):
            window = self.window(source)
            shape = (*window.output_size(*source.shape[:2]), source.shape[-1])
            output = Tensor(name, shape, source.scale, source.zero_point)
            pool = AveragePool2D if kind is AveragePool2D else MaxPool2D
            operation = pool(name, (source.name,), name, window, self.clamp(output))
        elif kind is Mean:
            height, width, depth = source.shape
            shape = (1, 1, depth) if self.rng.random() < 0.5 else (depth,)
            output = self.output(name, shape, source.scale / 2)
            scale = mean_requantisation(source, output, height * width)
            operation = Mean(name, (source.name,), name, (0, 1), scale)
        elif kind is Pad:
            top, bottom, left, right = (int(width) for width in self.rng.integers(0, 3, 4))
            height, width, depth = source.shape
            shape = (height + top + bottom, width + left + right, depth)
            output = Tensor(name, shape, source.scale, source.zero_point)
            operation = Pad(name, (source.name,), name, (top, bottom, left, right))
        elif kind is Reshape:
            count = int(np.prod(source.shape))
            shapes = [(count,), (-1, source.shape[-1]), (1, -1, source.shape[-1])]
            shape = np.empty(source.shape).reshape(shapes[int(self.rng.integers(3))]).shape
            output = Tensor(name, shape, source.scale, source.zero_point)
            operation = Reshape(name, (source.name,), name)
        elif kind is Softmax:
            output = Tensor(name, source.shape, 1 / 256, -128)
            operation = Softmax(
                name, (source.name,), name, float(np.float32(self.rng.choice([0.1, 1, 1, 2])))
            )
        else:
            output = self.output(name, source.shape, source.scale)
            activation = str(self.rng.choice(["RELU", "RELU6"]))
            clamp = activation_range(activation, output)
            operation = Relu(name, (source.name,), name, rescaling(source, output), clamp)
        self.tensors = {**self.tensors, name: output}
        self.operations = [*self.operations, operation]
        self.current = output

    def weighted(self, kind: type[Operation], name: str, source: Tensor) -> tuple[Operation, Tensor]:
        """A convolution, depthwise convolution or dense layer with scales that suit its weights."""
        rng = self.rng
        shape: tuple[int, ...]
        taps: tuple[int, ...]
        if kind is Dense:
            flat = len(source.shape) == 1 or rng.random() < 0.7
            depth = int(np.prod(source.shape)) if flat else source.shape[-1]
            channels = self.channels()
            shape = (channels,) if flat else (*source.shape[:-1], channels)
            weights, taps = self.weights((channels, depth)), (1,)
        else:
            window = self.window(source)
            depth = source.shape[-1]
            if kind is Conv2D:
                channels, taps = self.channels(), (1, 2, 3)
                weights = self.weights((channels, *window.size, depth))
            else:
                channels, taps = depth * int(rng.choice([1, 1, 1, 2, 3])), (0, 1)
                weights = self.weights((*window.size, channels))
            shape = (*window.output_size(*source.shape[:2]), channels)
        # An accumulator's typical size, for which uniform int8 inputs have a deviation of 74.
        size = 74 * np.sqrt((weights.astype(np.float64) ** 2).sum(axis=taps).mean() + 1)
        output = self.output(name, shape, 0.05)
        per_channel = rng.random() < 0.5
        ratios = 2.0 ** rng.uniform(3, 7, channels if per_channel else 1) / size
        if rng.random() < 0.1:
            ratios *= 2.0 ** rng.uniform(-24, 6, ratios.shape)
        scales = (ratios * output.scale / source.scale).astype(np.float32)
        if self.powers_of_two:
            scales = np.exp2(np.round(np.log2(scales))).astype(np.float32)
        bias = np.round(rng.normal(0, size, channels)).astype(np.int32)
        if rng.random() < 0.1:
            bias = rng.integers(-(1 << 28), 1 << 28, channels).astype(np.int32)
        clamp = self.clamp(output)
        ends = (name, (source.name,), name, weights, bias)
        if kind is Dense:
            zeros = np.zeros(channels, np.int32)
            bounds = accumulator_bounds(Dense(*ends, Requantisation(zeros, zeros), clamp), source.zero_point)
            scale = DenseScale.of(source, scales, output, bounds, clamp).requantisation()
            return Dense(*ends, scale, clamp), output
        scale = convolution_requantisation(source, scales, output, channels)
        convolution = Conv2D if kind is Conv2D else DepthwiseConv2D
        return convolution(*ends, window, scale, clamp), output

    def channels(self) -> int:
        return int(self.rng.choice(_CHANNELS))

    def scale(self, typical: float) -> float:
        scale = float(np.float32(typical * 2.0 ** self.rng.uniform(-2, 2)))
        return float(2.0 ** np.round(np.log2(scale))) if self.powers_of_two else scale

    def zero_point(self) -> int:
        return int(self.rng.choice([-128, 0, 127, *self.rng.integers(-64, 64, 7)]))

    def output(self, name: str, shape: tuple[int, ...], typical: float) -> Tensor:
        return Tensor(name, shape, self.scale(typical), self.zero_point())

    def clamp(self, output: Tensor) -> tuple[int, int]:
        activation = str(self.rng.choice(list(ACTIVATIONS))) if self.rng.random() < 0.5 else "NONE"
        return activation_range(activation, output)

    def window(self, source: Tensor) -> Window:
        height, width, _ = source.shape
        stride = (int(self.rng.integers(1, 4)), int(self.rng.integers(1, 4)))
        if self.rng.random() < 0.5:
            size = (int(self.rng.integers(1, 5)), int(self.rng.integers(1, 5)))
            return Window.same(size, stride, height, width)
        size = (int(self.rng.integers(1, min(height, 5) + 1)), int(self.rng.integers(1, min(width, 5) + 1)))
        return Window.valid(size, stride)

    def weights(self, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
        """Weights of 1 to 8 bits, some networks' with many zeros."""
        end = 1 << int(self.rng.integers(0, 8))
        values = self.rng.integers(-end, end, shape)
        if self.rng.random() < 0.3:
            values *= self.rng.random(shape) < 0.3
        return values.astype(np.int8)
