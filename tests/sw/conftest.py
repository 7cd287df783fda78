"""Small networks with known shapes, for tests of everything behind the import."""

import dataclasses
from collections.abc import Callable
from typing import Self

import numpy as np
import pytest
from kolmogate.image import Image
from kolmogate.machine import Machine
from kolmogate.network import (
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Network,
    Operation,
    Pad,
    Requantisation,
    Reshape,
    Softmax,
    Tensor,
    Window,
)

NONE = (0, 0, 0, 0)


class Chain:
    """Builds a chain of operations with seeded random weights whose outputs fill the int8 range."""

    def __init__(self, *shape: int, zero_point: int = -7, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = {"input": Tensor("input", shape, 0.05, zero_point)}
        self.operations: list[Operation] = []
        self.current = "input"

    def network(self, name: str = "chain") -> Network:
        network = Network(self.tensors, tuple(self.operations), "input", self.current, name)
        network.check()
        return network

    def append(self, operation: Operation, shape: tuple[int, ...], **changes: object) -> Self:
        """Any operation; it reads the current tensor, and its output differs from it by ``changes``."""
        source = self.tensors[self.current]
        name = f"{operation.kind.lower()}_{len(self.operations)}"
        operation = dataclasses.replace(operation, name=name, inputs=(self.current,), output=name)
        self.tensors[name] = dataclasses.replace(source, name=name, shape=shape, **changes)
        self.operations.append(operation)
        self.current = name
        return self

    def conv(self, channels: int, size=(3, 3), stride=(1, 1), padding=NONE, **changes: object) -> Self:
        window, shape = self._window(size, stride, padding)
        weights = self._weights(channels, *size, shape[2])
        parts = self._parts(weights.reshape(channels, -1))
        conv = Conv2D("", (), "", **{"weights": weights, "window": window, **parts, **changes})
        return self.append(conv, (*shape[:2], channels), zero_point=3)

    def depthwise(self, size=(3, 3), stride=(1, 1), padding=NONE, multiplier: int = 1) -> Self:
        window, shape = self._window(size, stride, padding)
        channels = shape[2] * multiplier
        weights = self._weights(*size, channels)
        parts = self._parts(weights.reshape(-1, channels).T)
        depthwise = DepthwiseConv2D("", (), "", weights=weights, window=window, **parts)
        return self.append(depthwise, (*shape[:2], channels), zero_point=-20)

    def dense(self, channels: int, **changes: object) -> Self:
        weights = self._weights(channels, int(np.prod(self.tensors[self.current].shape)))
        dense = Dense("", (), "", **{"weights": weights, **self._parts(weights), **changes})
        return self.append(dense, (channels,), zero_point=11)

    def pool(self, size, stride=None, padding=NONE) -> Self:
        window, shape = self._window(size, stride or size, padding)
        return self.append(AveragePool2D("", (), "", window=window, clamp=(-120, 125)), shape)

    def pad(self, *padding: int) -> Self:
        height, width, channels = self.tensors[self.current].shape
        shape = (height + padding[0] + padding[1], width + padding[2] + padding[3], channels)
        return self.append(Pad("", (), "", padding=padding), shape)

    def reshape(self, *shape: int) -> Self:
        return self.append(Reshape("", (), ""), shape)

    def softmax(self) -> Self:
        shape = self.tensors[self.current].shape
        return self.append(Softmax("", (), "", beta=1.0), shape, scale=1 / 256, zero_point=-128)

    def _window(self, size, stride, padding) -> tuple[Window, tuple[int, int, int]]:
        height, width, channels = self.tensors[self.current].shape
        window = Window(size, stride, padding)
        return window, (*window.output_size(height, width), channels)

    def _weights(self, *shape: int) -> np.ndarray:
        return self.rng.integers(-128, 128, shape).astype(np.int8)

    def _parts(self, filters: np.ndarray) -> dict[str, object]:
        channels, taps = filters.shape
        bias = self.rng.integers(-5000, 5000, channels).astype(np.int32)
        # Sums deviate by some 74 * 74 * sqrt(taps); outputs should by some 50.
        shift = np.full(channels, round(np.log2(50 / (74 * 74 * np.sqrt(taps)))), np.int32)
        multiplier = self.rng.integers(1 << 30, 1 << 31, channels).astype(np.int32)
        return {"bias": bias, "requantisation": Requantisation(multiplier, shift), "clamp": (-120, 127)}


@pytest.fixture
def chain() -> Callable[..., Chain]:
    """The `Chain` class: ``chain(height, width, channels).conv(...).dense(...).network()``."""
    return Chain


@pytest.fixture
def inputs() -> Callable[[Network, int], np.ndarray]:
    """Seeded random inputs of a network, the extremes first."""

    def make(network: Network, count: int) -> np.ndarray:
        shape = network.tensors[network.input].shape
        x = np.random.default_rng(count).integers(-128, 128, (count, *shape)).astype(np.int8)
        x[:1], x[1:2] = -128, 127
        return x

    return make


@pytest.fixture
def infer() -> Callable[..., np.ndarray]:
    """``infer(image, x, limit)``: outputs of the machine model, whose scratchpad held other things before."""

    def run(image: Image, x: np.ndarray, limit: int = 1 << 22) -> np.ndarray:
        machine = Machine(image.config)
        machine.memory[:] = np.random.default_rng(0).integers(0, 256, len(machine.memory))
        for section in image.sections.values():
            machine.write(section.address, section.data)
        outputs = []
        for one in x:
            machine.write(image.input.address, image.pack_input(one))
            machine.run(image.entry, limit=limit)
            outputs.append(image.unpack_output(machine.read(image.output.address, image.output.layout.size)))
        return np.stack(outputs)

    return run
