"""The compiled network: what the device is given, and what the host needs to feed and read it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain, combinations, product
from typing import Any

import numpy as np

from . import golden
from .config import MachineConfig
from .errors import InputError
from .feeders import positions
from .isa import COUNTS, FILL_UNIT, Opcode, load_descriptor, rows_taken, window_taps
from .layout import Layout
from .network import Int8Array, Network, Tensor
from .programs.p0 import Program
from .programs.reader import count_rows
from .protocol import PAGE_BYTES, Entry
from .rings import RING_BYTES, RINGS, ring_addresses
from .schedule import split_tail
from .simplify import Dropped
from .skeleton import Making, regenerate

__all__ = ["SECTIONS", "Activation", "Image", "LayerReport", "Lossy", "Section"]

SECTIONS = ("descriptors", "coded", "literals", "code")


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
    """What one layer costs.

    Parameters
    ----------
    name, op : str
        The operation's name and kind.
    weights, live_weights : int
        Weights of the network's own, and those of them that simplification left.
    positions : int
        Output positions, each of which uses every weight once.
    fold : int
        Positions that the columns work on side by side (`kolmogate.fold`).
    down : bool
        Output positions are walked down instead of along lines (`kolmogate.axis`).
    replays : int
        How often its weights are made in an inference.
    bits : int
        Size of its program, without its constants.
    constant_bits : int
        Size of its constants.
    instructions : mapping
        How many of each instruction its program has, by name.
    """

    name: str
    op: str
    weights: int
    live_weights: int
    positions: int
    fold: int
    down: bool
    replays: int
    bits: int
    constant_bits: int
    instructions: Mapping[str, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the network's own, without what fills up the last column group."""
        return self.weights * self.positions

    @property
    def live_macs(self) -> int:
        """Those of the live weights."""
        return self.live_weights * self.positions

    @property
    def bytes(self) -> int:
        return -(-self.bits // 8)

    @property
    def bits_per_weight(self) -> float:
        return self.bits / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Lossy:
    """How far the outputs of a network that was compressed with loss are from the original's.

    Parameters
    ----------
    loss : float
        On the calibration inputs.
    measure : str
        What the loss is (`kolmogate.lossy.outputs`).
    inputs : int
        How many calibration inputs there were.
    synthetic : bool
        Whether they were made up, not given.
    """

    loss: float
    measure: str
    inputs: int
    synthetic: bool


@dataclass(frozen=True)
class Image:
    """A network compiled for one machine.

    Parameters
    ----------
    config : MachineConfig
        The machine it was compiled for.
    sections : mapping
        ``descriptors``, ``coded``, ``literals`` and ``code``; the coded bytes lie just below the literals.
    input, output : Activation
        What the host writes before and reads after an inference.
    skeleton : Network
        The network without its weights (`kolmogate.skeleton`). It is the host's: it counts no device bytes.
    layers : tuple of LayerReport
        One for each ARRAY descriptor, in order of execution.
    dropped : tuple of Dropped
        What simplification took from each operation, and why.
    reordered : tuple of str
        The operations that make their channels in another order, that of their scales
        (`kolmogate.simplify.reorder`).
    streamed : bool
        The program flows through rings (`kolmogate.rings`): its sections lie at their addresses, and take the
        rings' bytes there.
    lossy : Lossy or None
        None if the outputs are the original network's to the bit.

    Raises `InputError` if a part lies outside the scratchpad or on another.
    """

    config: MachineConfig
    sections: Mapping[str, Section]
    input: Activation
    output: Activation
    # Arrays cannot be compared as a whole; what the device is given tells networks apart.
    skeleton: Network = field(compare=False, repr=False)
    layers: tuple[LayerReport, ...]
    dropped: tuple[Dropped, ...]
    reordered: tuple[str, ...] = ()
    streamed: bool = False
    lossy: Lossy | None = None

    def __post_init__(self) -> None:
        if tuple(self.sections) != SECTIONS:
            raise InputError(f"sections must be {', '.join(SECTIONS)}, not {', '.join(self.sections)}")
        for name, section in self.sections.items():
            if section.address % self.config.columns or len(section.data) % self.config.columns:
                raise InputError(f"section {name} is not whole scratchpad words")
        sections = [
            (name, section.address, section.address + self._space(name))
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
        if self.streamed:
            for name, address in ring_addresses(self.config).items():
                if self.sections[name].address != address:
                    raise InputError(f"the ring of section {name} is not at {address}")
        elif self.sections["coded"].address + self._space("coded") != self.sections["literals"].address:
            raise InputError("the coded bytes do not lie just below the literals")
        for name, part in (("input", self.input), ("output", self.output)):
            if int(np.prod(part.tensor.shape)) != part.layout.elements:
                raise InputError(f"the layout of the {name} does not hold shape {part.tensor.shape}")

    def _space(self, section: str) -> int:
        """Bytes of scratchpad that a section takes."""
        return RING_BYTES if self.streamed and section in RINGS else len(self.sections[section].data)

    def check(self) -> None:
        """Raise `InputError` unless the descriptors make sense and the weight program makes what they take.

        The constructor leaves that open, for a device has to bear images that break these rules.
        """
        taken = groups = 0
        for layer, fields in self._arrays():
            for name in COUNTS[Opcode.ARRAY]:
                if fields[name] == 0:
                    raise InputError(f"the descriptor of layer {layer.name!r} has a {name} of 0")
            of_layer = -(-fields["channels"] // self.config.columns)
            tiles = -(-fields["x_count"] * fields["y_count"] // self.config.rows)
            passes = tiles if fields["stream_weights"] else 1
            groups += of_layer
            taken += of_layer * passes * rows_taken(fields, window_taps(fields))
        for what, made, wanted in zip(
            ("rows", "groups of constants"), count_rows(self.program()), (taken, groups), strict=True
        ):
            if made != wanted:
                raise InputError(f"the weight program makes {made} {what}, the layers take {wanted}")

    def _arrays(self) -> list[tuple[LayerReport, dict[str, int]]]:
        """Each layer and the fields of its descriptor."""
        arrays = [fields for fields in self.descriptors() if fields["opcode"] == Opcode.ARRAY]
        if len(arrays) != len(self.layers):
            raise InputError(f"{len(arrays)} layers have descriptors, {len(self.layers)} are described")
        return list(zip(self.layers, arrays, strict=True))

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.skeleton.name

    @cached_property
    def tail(self) -> Network:
        """What the host runs on the output; may have no operations."""
        return split_tail(self.skeleton)[1]

    @property
    def entry(self) -> Entry:
        """Where an inference begins."""
        # Empty sections have addresses too: coded bytes lie just below the literals, if there are any or not.
        return Entry(*(self.sections[name].address for name in ("descriptors", "code", "literals")))

    @cached_property
    def written_end(self) -> int:
        """The end of the pages that an inference, or the host for it, writes to."""
        ends = [part.address + part.layout.size for part in (self.input, self.output)]
        for fields in self.descriptors():
            if fields["opcode"] == Opcode.ARRAY:
                ends.append(int(positions(fields, "output").max()) + fields["channels"])
            elif fields["opcode"] == Opcode.FILL:
                line = fields["run"] + fields["output_step"]
                ends.append(
                    FILL_UNIT * (fields["output_base"] + (fields["y_count"] - 1) * line + fields["run"])
                )
        return -(-max(ends) // PAGE_BYTES) * PAGE_BYTES

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
        data, descriptors, before = self.sections["descriptors"].data, [], 0
        while data:
            fields, size, before = load_descriptor(data, self.config.columns, before)
            descriptors.append(fields)
            data = data[size:]
        return descriptors

    def program(self) -> Program:
        """The weight program of all layers."""
        return Program(*(self.sections[name].data for name in ("code", "coded", "literals")))

    def with_program(self, program: Program) -> "Image":
        """The image with another weight program, which may not be longer: what lies below it is in use."""
        data = {"descriptors": self.sections["descriptors"].data, **asdict(program)}
        longer = sum(map(len, data.values())) - self.device_bytes
        if longer > 0:
            raise InputError(
                f"the weight program takes {longer} bytes more than the image has for it: shorten it, or"
                " compile the image again"
            )
        address, sections = min(section.address for section in self.sections.values()), {}
        for name in SECTIONS:
            sections[name] = Section(address, data[name])
            address += len(data[name])
        return replace(self, sections=sections)

    def network(self) -> Network:
        """The network as it was simplified, its weights regenerated by the image's program.

        Raises `InputError` if the program does not make the network's weights.
        """
        try:
            # An operation without weights may be several layers.
            zeros: Counter[str] = Counter()
            for layer, fields in self._arrays():
                zeros[layer.name] += fields["unit_weights"] * -(-fields["channels"] // self.config.columns)
            made = {one.name: Making(one.fold, one.down, one.replays, zeros[one.name]) for one in self.layers}
            return regenerate(self.skeleton, self.program(), self.config.columns, made)
        except InputError as error:
            raise InputError(f"the image does not give its network back: {error}; compile it again") from None

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
        # Constants are made by the same streams; what fills up the words counts as programs.
        constants = sum(layer.constant_bits for layer in self.layers) // 8
        return {
            "model": self.model,
            "target": self.config.name,
            "exact": self.lossy is None,
            "streamed": self.streamed,
            **({"lossy": asdict(self.lossy)} if self.lossy else {}),
            "device_bytes": self.device_bytes,
            "sections": {
                "programs": sizes["code"] + sizes["coded"] + sizes["literals"] - constants,
                "constants": constants,
                "descriptors": sizes["descriptors"],
            },
            "weights": sum(layer.weights for layer in self.layers),
            "live_weights": sum(layer.live_weights for layer in self.layers),
            "macs": sum(layer.macs for layer in self.layers),
            "live_macs": sum(layer.live_macs for layer in self.layers),
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
            "dropped": [asdict(dropped) for dropped in self.dropped],
            "reordered": list(self.reordered),
        }
