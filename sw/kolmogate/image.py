"""The compiled network: what the device is given, and what the host needs to feed and read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from typing import Any

import numpy as np

from . import golden
from .config import MachineConfig
from .errors import InputError
from .isa import DESCRIPTOR
from .layout import Layout
from .network import Int8Array, Network, Tensor

__all__ = ["SECTIONS", "Activation", "Image", "LayerReport", "Section"]

SECTIONS = ("descriptors", "constants", "code", "literals")


@dataclass(frozen=True)
class Section:
    """Bytes that the device is given, and the scratchpad address they go to."""

    address: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Activation:
    """Where a tensor lies that the host writes or reads; ``layout.size`` bytes from ``address``."""

    tensor: Tensor
    address: int
    layout: Layout


@dataclass(frozen=True)
class LayerReport:
    """What one layer costs. ``descriptor`` is the index of its ARRAY descriptor, ``bits`` the size of its
    weight program, ``instructions`` counts the program's by name."""

    name: str
    op: str
    descriptor: int
    weights: int
    macs: int
    bits: int
    instructions: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return -(-self.bits // 8)

    @property
    def bits_per_weight(self) -> float:
        return self.bits / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Image:
    """A network compiled for one machine.

    Parameters
    ----------
    model : str
        Name of the network.
    config : MachineConfig
        The machine it was compiled for.
    sections : mapping
        ``descriptors``, ``constants``, ``code`` and ``literals``.
    input, output : Activation
        What the host writes before and reads after an inference.
    tail : Network
        What the host runs on the output; may have no operations.
    layers : tuple of LayerReport
        In order of execution.

    Raises `InputError` if a part lies outside the scratchpad or on another, or the tail is unsound.
    """

    model: str
    config: MachineConfig
    sections: Mapping[str, Section]
    input: Activation
    output: Activation
    tail: Network
    layers: tuple[LayerReport, ...]

    def __post_init__(self) -> None:
        if tuple(self.sections) != SECTIONS:
            raise InputError(f"sections must be {', '.join(SECTIONS)}, not {', '.join(self.sections)}")
        for name, section in self.sections.items():
            if section.address % self.config.columns or len(section.data) % self.config.columns:
                raise InputError(f"section {name} is not whole scratchpad words")
        sections = [
            (name, section.address, section.address + len(section.data))
            for name, section in self.sections.items()
        ]
        activations = [
            (name, part.address, part.address + part.layout.size)
            for name, part in (("input", self.input), ("output", self.output))
        ]
        for name, start, end in sections + activations:
            if not 0 <= start <= end <= self.config.scratchpad_bytes:
                raise InputError(
                    f"{name} lies outside the scratchpad of {self.config.scratchpad_bytes} bytes"
                )
        for (one, start, end), (other, other_start, other_end) in chain(
            combinations(sections, 2), product(sections, activations)
        ):
            if start < other_end and other_start < end:
                raise InputError(f"{one} and {other} overlap in the scratchpad")
        if len(self.sections["descriptors"].data) % DESCRIPTOR.size(self.config.columns):
            raise InputError("section descriptors does not hold whole descriptors")
        for name, part in (("input", self.input), ("output", self.output)):
            if int(np.prod(part.tensor.shape)) != part.layout.elements:
                raise InputError(f"the layout of the {name} does not hold shape {part.tensor.shape}")
        self.tail.check()
        descriptors = len(self.descriptors())
        for layer in self.layers:
            if layer.descriptor >= descriptors:
                raise InputError(f"layer {layer.name!r} has no descriptor {layer.descriptor}")

    @property
    def device_bytes(self) -> int:
        """Bytes that the device must be given."""
        return sum(len(section.data) for section in self.sections.values())

    @property
    def result(self) -> Tensor:
        """The tensor that an inference ends in, after the host's part."""
        return self.tail.tensors[self.tail.output]

    def descriptors(self) -> list[dict[str, int]]:
        """The fields of each descriptor, in order of execution."""
        data, size = self.sections["descriptors"].data, DESCRIPTOR.size(self.config.columns)
        return [
            DESCRIPTOR.unpack(int.from_bytes(data[start : start + size], "little"))
            for start in range(0, len(data), size)
        ]

    def pack_input(self, x: Int8Array) -> bytes:
        """The bytes to write to ``input.address`` for one int8 input of the model's shape."""
        if x.shape != self.input.tensor.shape:
            raise InputError(f"the model takes inputs of shape {self.input.tensor.shape}, not {x.shape}")
        return self.input.layout.pack(x)

    def unpack_output(self, region: bytes) -> Int8Array:
        """The model's int8 output, the host's operations included, from the bytes at ``output.address``."""
        y = self.output.layout.unpack(region).reshape(self.output.tensor.shape)
        return golden.run(self.tail, y[np.newaxis])[0]

    def report(self) -> dict[str, Any]:
        """What the image holds, in the names of the command line's JSON; cycles are not its business."""
        sizes = {name: len(section.data) for name, section in self.sections.items()}
        return {
            "model": self.model,
            "target": self.config.name,
            "exact": True,
            "device_bytes": self.device_bytes,
            "sections": {
                "programs": sizes["code"] + sizes["literals"],
                "constants": sizes["constants"],
                "descriptors": sizes["descriptors"],
            },
            "weights": sum(layer.weights for layer in self.layers),
            "macs": sum(layer.macs for layer in self.layers),
            "layers": [
                {
                    "name": layer.name,
                    "op": layer.op,
                    "weights": layer.weights,
                    "macs": layer.macs,
                    "bytes": layer.bytes,
                    "bits_per_weight": round(layer.bits_per_weight, 3),
                    "instructions": dict(layer.instructions),
                }
                for layer in self.layers
            ],
        }
