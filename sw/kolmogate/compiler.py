"""The compiler: from a network to an image for one machine, exact to the last output bit."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .allocate import Region, allocate
from .config import MachineConfig
from .cycles import cycles
from .errors import InputError, UsageError
from .image import Activation, Image, LayerReport, Section
from .isa import ADDRESS_BITS, DESCRIPTOR, P0, RESIDUAL, STORED_CONSTANTS, Opcode, store_constants
from .lower import lower
from .network import Network, Weighted
from .programs.p0 import assemble
from .programs.search import Choice, Material, Writer, candidates, select
from .schedule import Layer, Schedule, schedule
from .simplify import Dropped, simplify
from .skeleton import skeleton

__all__ = ["OBJECTIVES", "compile", "materials"]


OBJECTIVES = ("fastest", "balanced", "smallest")

BALANCED_ALLOWANCE = 0.05
"""Cycles that a balanced image may take more than the fastest, a part of them."""

ATTEMPTS = 10
"""Selections tried against the cycle model before the fastest program is taken."""


def compile(
    network: Network,
    config: MachineConfig,
    *,
    objective: str = "balanced",
    max_cycles: int | None = None,
    max_bytes: int | None = None,
    rewritten: Network | None = None,
) -> Image:
    """The image of ``network`` for a machine, simplified first (`kolmogate.simplify`).

    Parameters
    ----------
    objective : str
        ``fastest``: programs of literals. ``smallest``: coded by the entropy engine, whatever that takes.
        ``balanced``: the smallest found within 5% of the fastest's cycles; where the fastest does not fit
        the scratchpad, the one found that fits and leaves the entropy engine least to do.
    max_cycles : int or None
        The smallest found within so many cycles.
    max_bytes : int or None
        The fastest found within so many bytes; not together with ``max_cycles``.
    rewritten : Network or None
        What is compiled in place of ``network``, whose weights the image's report counts: its compression
        with loss (`kolmogate.lossy`).

    Raises `InputError` that names the operation which the machine cannot run exactly, or says how many
    bytes of scratchpad the network is short of, or that no image is as fast or as small as that.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    weights = _weights(network)
    simplified = simplify(network)
    live = simplified.network if rewritten is None else simplify(rewritten).network
    lowered = lower(live)
    plan = schedule(lowered, config)
    job = _Job(
        config,
        lowered,
        plan,
        tuple(_material(layer, config) for layer in plan.layers),
        (weights, _weights(live)),
        simplified.dropped,
    )
    literal, coded = ([choice] * len(plan.layers) for choice in (Choice(), Choice(True, True)))
    if config.entropy_engines == 0:
        coded = literal
    if max_bytes is not None:
        if max_cycles is not None:
            raise UsageError("give a budget of cycles or of bytes, not both")
        return _fastest_within(job, coded, max_bytes)
    if objective == "smallest" and max_cycles is None:
        return job.image(coded)
    try:
        fastest = job.image(literal)
    except InputError:
        if objective == "fastest" or max_cycles is not None:
            raise
        return _fitting(job, coded)
    if objective == "fastest" and max_cycles is None:
        return fastest
    times = [layer.total for layer in cycles(fastest)]
    budget = int((1 + BALANCED_ALLOWANCE) * sum(times)) if max_cycles is None else max_cycles
    if budget < sum(times):
        raise InputError(
            f"network {network.name!r} takes {sum(times)} cycles on {config.name!r}, more than {budget}:"
            " allow more cycles or choose a larger target"
        )
    if coded is literal:
        return fastest
    return _smallest_within(job, fastest, times, budget)


def materials(network: Network, config: MachineConfig) -> list[Material]:
    """What the programs of the layers of ``network`` have to make; raises `InputError` as `compile` does."""
    plan = schedule(lower(simplify(network).network), config)
    return [_material(layer, config) for layer in plan.layers]


def _fastest_within(job: "_Job", coded: Sequence[Choice], budget: int) -> Image:
    """The fastest image found that takes at most ``budget`` bytes."""
    best = job.image(coded)
    if best.device_bytes > budget:
        raise InputError(
            f"network {job.network.name!r} takes {best.device_bytes} bytes on {job.config.name!r}, more than"
            f" {budget}: allow more bytes"
        )
    try:
        fastest = job.image([Choice()] * len(coded))
    except InputError:
        return best
    if fastest.device_bytes <= budget:
        return fastest
    times = [layer.total for layer in cycles(fastest)]
    tried = [candidates(material, job.config.columns) for material in job.materials]
    low, high = 0, sum(layer.total for layer in cycles(best))
    for _ in range(ATTEMPTS):
        middle = (low + high) // 2
        image = job.image([one.choice for one in select(tried, times, middle)])
        if image.device_bytes <= budget:
            best, high = image, middle
        else:
            low = middle
    return best


def _fitting(job: "_Job", coded: Sequence[Choice]) -> Image:
    """The image found that fits the scratchpad with the fewest cycles of the entropy engine."""
    best = job.image(coded)
    tried = [candidates(material, job.config.columns) for material in job.materials]
    low, high = 0, sum(max(one.engine_cycles for one in layer) for layer in tried)
    for _ in range(ATTEMPTS):
        middle = (low + high) // 2
        try:
            best = job.image([one.choice for one in select(tried, [0] * len(tried), middle)])
            high = middle
        except InputError:
            low = middle
    return best


def _smallest_within(job: "_Job", fastest: Image, times: list[int], budget: int) -> Image:
    """The smallest image found that takes at most ``budget`` cycles; the fastest takes ``times``."""
    tried = [candidates(material, job.config.columns) for material in job.materials]
    allowance, hidden = budget - sum(times), times
    for _ in range(ATTEMPTS):
        chosen = select(tried, hidden, allowance)
        image = job.image([candidate.choice for candidate in chosen])
        if sum(layer.total for layer in cycles(image)) <= budget:
            return min(image, fastest, key=lambda one: one.device_bytes)
        # Decoding hides less well than a layer as a whole tells.
        allowance, hidden = allowance * 3 // 4, [time * 7 // 8 for time in hidden]
    return fastest


@dataclass(frozen=True)
class _Job:
    """A network scheduled for a machine, and what its programs have to make.

    ``weights`` are how many each operation had before and after simplification.
    """

    config: MachineConfig
    network: Network
    plan: Schedule
    materials: tuple[Material, ...]
    weights: tuple[Mapping[str, int], Mapping[str, int]]
    dropped: tuple[Dropped, ...]

    def image(self, choices: Sequence[Choice]) -> Image:
        """The image with these programs; raises `InputError` if it does not fit."""
        config, plan = self.config, self.plan
        addresses = _allocate(plan, config)
        descriptors = _descriptors(plan, addresses)
        writer = Writer(config.columns)
        reports = [
            _write(writer, layer, material, choice, self.weights)
            for layer, material, choice in zip(plan.layers, self.materials, choices, strict=True)
        ]
        program = assemble(writer.instructions, writer.rows, config.columns)
        contents = {
            "descriptors": b"".join(_pack(fields, config) for fields in descriptors),
            "coded": program.coded,
            "literals": program.literals,
            "code": program.code,
        }
        sizes = {name: len(content) for name, content in contents.items()}
        static = sum(sizes.values())
        activations = max(address + plan.layouts[name].size for name, address in addresses.items())
        start = config.scratchpad_bytes - static
        missing = -(-activations // config.columns) * config.columns - start
        if missing > 0:
            raise InputError(
                f"network {self.network.name!r} does not fit {config.name!r}: its programs and constants take"
                f" {static} bytes and its activations {activations} of {config.scratchpad_bytes},"
                f" {missing} bytes are missing; choose a larger target or a smaller network"
            )
        # What is empty has an address too, which must be in the scratchpad: the last is never empty.
        bases = {}
        for name, size in sizes.items():
            bases[name] = start
            start += size
        return Image(
            config=config,
            sections={name: Section(bases[name], contents[name]) for name in sizes},
            input=_activation(self.network, plan, addresses, plan.input),
            output=_activation(self.network, plan, addresses, plan.output),
            skeleton=skeleton(self.network),
            layers=tuple(reports),
            dropped=self.dropped,
        )


def _weights(network: Network) -> dict[str, int]:
    """How many weights each operation has, by its output."""
    return {
        operation.output: operation.weights.size
        for operation in network.operations
        if isinstance(operation, Weighted)
    }


def _activation(network: Network, plan: Schedule, addresses: Mapping[str, int], name: str) -> Activation:
    return Activation(network.tensors[name], addresses[name], plan.layouts[name])


def _allocate(plan: Schedule, config: MachineConfig) -> dict[str, int]:
    """Addresses of all tensors, each live from the layer that makes it to the last that reads it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def live(name: str, step: int) -> None:
        place = plan.places[name]
        first[place] = min(first.get(place, step), step)
        last[place] = max(last.get(place, step), step)
        sizes[place] = max(sizes.get(place, 0), plan.layouts[name].size)

    live(plan.input, -1)
    for step, layer in enumerate(plan.layers):
        for name in (layer.input, layer.output, layer.operand):
            if name is not None:
                live(name, step)
    live(plan.output, len(plan.layers))
    regions = [Region(name, size, first[name], last[name]) for name, size in sizes.items()]
    addresses = allocate(regions, config.columns)
    return {name: addresses[plan.places[name]] for name in plan.layouts}


def _descriptors(plan: Schedule, addresses: Mapping[str, int]) -> list[dict[str, int]]:
    descriptors = []
    bordered = {plan.input}
    for layer in plan.layers:
        base, layout = addresses[layer.output], plan.layouts[layer.output]
        if layer.output not in bordered:
            bordered.add(layer.output)
            descriptors += [
                {
                    "opcode": Opcode.FILL,
                    "output_base": base + fill.offset,
                    "output_step": fill.step,
                    "y_count": fill.lines,
                    "run": fill.run,
                    "zero_point": layout.zero_point,
                }
                for fill in layout.border()
            ]
        if layer.residual is not None and layer.operand is not None:
            offset = (addresses[layer.operand] - base) % (1 << ADDRESS_BITS)
            descriptors.append({**layer.residual, "offset": offset})
        descriptors.append(
            {
                **layer.fields,
                "input_base": addresses[layer.input] + layer.input_offset,
                "output_base": base + layer.output_offset,
            }
        )
    return [*descriptors, {"opcode": Opcode.END}]


def _pack(fields: Mapping[str, int], config: MachineConfig) -> bytes:
    record = RESIDUAL if fields["opcode"] == Opcode.RESIDUAL else DESCRIPTOR
    return record.pack(**fields).to_bytes(DESCRIPTOR.size(config.columns), "little")


def _material(layer: Layer, config: MachineConfig) -> Material:
    """What the program of a layer has to make."""
    parameters = layer.parameters
    packed = [
        store_constants(bias, multiplier, shift).to_bytes(STORED_CONSTANTS.bits // 8, "little")
        for bias, multiplier, shift in zip(
            parameters.bias, parameters.multiplier, parameters.shift, strict=True
        )
    ]
    records = []
    for group in range(0, len(packed), config.columns):
        block = b"".join(packed[group : group + config.columns])
        block += bytes(-len(block) % config.columns)
        records.append(np.frombuffer(bytearray(block), np.int8).reshape(-1, config.columns))
    return Material(
        len(packed),
        tuple(records),
        parameters.rows,
        parameters.distances,
        used_once=bool(layer.fields.get("stream_weights", 0)),
        replays=layer.replays,
    )


def _write(
    writer: Writer,
    layer: Layer,
    material: Material,
    choice: Choice,
    weights: tuple[Mapping[str, int], Mapping[str, int]],
) -> LayerReport:
    """Write the program of a layer and say what it costs."""
    first = len(writer.instructions)
    bits, constant_bits = writer.layer(material, choice)
    return LayerReport(
        name=layer.name,
        op=layer.op,
        weights=weights[0].get(layer.made, 0),
        live_weights=weights[1].get(layer.made, 0),
        positions=layer.positions,
        fold=layer.fold,
        replays=layer.replays,
        bits=bits,
        constant_bits=constant_bits,
        instructions=Counter(P0(one.op).name for one in writer.instructions[first:]),
    )
