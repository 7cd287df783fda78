"""The compiler: from a network to an image for one machine, exact to the last output bit."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from .allocate import Region, allocate
from .config import MachineConfig
from .cycles import LayerCycles, cycles
from .errors import InputError, UsageError
from .feeders import tile_reads, tile_writes
from .image import Activation, Image, LayerReport, Section
from .isa import (
    ADDRESS_BITS,
    FILL_BITS,
    FILL_UNIT,
    P0,
    STORED_CONSTANTS,
    Opcode,
    store_constants,
    store_descriptors,
)
from .lower import lower
from .network import DepthwiseConv2D, Network, Weighted
from .programs.computed import computed
from .programs.overlap import Pace
from .programs.p0 import assemble
from .programs.search import Candidate, Choice, Material, Writer, candidates, select
from .protocol import PAGE_BYTES
from .rings import RING_BYTES, RINGS, ring_addresses
from .schedule import Layer, Schedule, schedule
from .simplify import Dropped, simplify
from .simplify.reorder import reorder
from .skeleton import skeleton

__all__ = ["OBJECTIVES", "compile", "compile_within", "materials"]


OBJECTIVES = ("fastest", "balanced", "smallest")

BALANCED_ALLOWANCE = 0.05
"""Cycles that a balanced image may take more than the fastest, a part of them."""

ATTEMPTS = 16
"""Selections tried against the cycle model before the fastest program is taken."""


def compile(
    network: Network,
    config: MachineConfig,
    *,
    objective: str = "balanced",
    max_cycles: int | None = None,
    max_bytes: int | None = None,
    streamed: bool = False,
    rewritten: Network | None = None,
) -> Image:
    """The image of ``network`` for a machine, simplified first (`kolmogate.simplify`), for the objective
    ``smallest`` with its channels reordered if it is smaller so, within ``max_bytes`` if it is faster.

    It is resident: the device keeps it. Where that does not fit, it is streamed (`kolmogate.rings`): then the
    device keeps its descriptors alone, and the host sends the program anew for each inference. What a
    streamed image costs is the link's time, so it is coded unless the objective is ``fastest``.

    Parameters
    ----------
    objective : str
        ``fastest``: programs of literals; where they do not fit the scratchpad, the one found that fits and
        leaves the entropy engine least to do. ``smallest``: coded by the entropy engine, whatever that takes.
        ``balanced``: the smallest found within 5% of the fastest's cycles, or the fastest if bytes fall by
        less than its cycles rise (Levin: length and time by their logarithms).
    max_cycles : int or None
        The smallest found within so many cycles; resident.
    max_bytes : int or None
        The fastest found within so many bytes; not together with ``max_cycles``.
    streamed : bool
        Streamed even where it would fit; not together with ``max_cycles``.
    rewritten : Network or None
        What is compiled in place of ``network``, whose weights the image's report counts: its compression
        with loss (`kolmogate.lossy`).

    Raises `InputError` that names the operation which the machine cannot run exactly, or says how many
    bytes of scratchpad the network is short of, or that no image is as fast or as small as that.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"unknown objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    if max_cycles is not None and max_bytes is not None:
        raise UsageError("give a budget of cycles or of bytes, not both")
    if max_cycles is not None and streamed:
        raise UsageError("how long a streamed image takes is up to the link: give no budget of cycles")
    smallest = objective == "smallest" and max_cycles is None and max_bytes is None
    every = smallest or max_bytes is not None
    images, errors = [], []
    for job in _jobs(network, config, rewritten, smallest=smallest, every=every):
        try:
            images.append(_image(job, objective, max_cycles, max_bytes, streamed))
        except InputError as error:
            errors.append(error)
    if not images:
        if max_bytes is not None:
            # Filters that are not folded are shorter.
            image = compile(network, config, objective="smallest", streamed=streamed, rewritten=rewritten)
            if image.device_bytes <= max_bytes:
                return image
        raise errors[-1]
    if max_bytes is None:
        return min(images, key=lambda one: one.device_bytes)
    return min(images, key=lambda one: sum(layer.total for layer in cycles(one)))


def compile_within(network: Network, config: MachineConfig) -> Callable[[int], Image]:
    """`compile` by ``max_cycles``: what several budgets have in common is done here, once."""
    (job,) = _jobs(network, config, None, smallest=False, every=False)
    job = replace(job, tried=job.candidates())
    return lambda budget: _image(job, "balanced", budget, None, False)


def _jobs(
    network: Network, config: MachineConfig, rewritten: Network | None, *, smallest: bool, every: bool
) -> list["_Job"]:
    """The network to compile, and if ``every`` also with its channels reordered, where that changes it."""
    weights = _weights(network)
    simplified = simplify(network)
    live = simplified.network if rewritten is None else simplify(rewritten).network

    def job(variant: Network, reordered: tuple[str, ...]) -> _Job:
        lowered = lower(variant)
        # Filters that are folded are longer.
        plan = schedule(lowered, config, folding=not smallest)
        return _Job(
            config,
            lowered,
            plan,
            tuple(_material(layer, config) for layer in plan.layers),
            (weights, _weights(variant)),
            simplified.dropped,
            smallest,
            reordered,
        )

    jobs = [job(live, ())]
    # In another order a hash no longer makes the weights that it makes.
    if every and not any(material.computed for material in jobs[0].materials):
        ordered, moved = reorder(live)
        jobs += [job(ordered, moved)] if moved else []
    return jobs


def _image(
    job: "_Job", objective: str, max_cycles: int | None, max_bytes: int | None, streamed: bool
) -> Image:
    """As `compile`, of one network."""
    literal, coded = ([choice] * len(job.plan.layers) for choice in (Choice(), Choice(True, True)))
    if job.config.entropy_engines == 0:
        coded = literal
    if streamed:
        return _streamed(job, literal, coded, objective, max_bytes)
    try:
        return _resident(job, literal, coded, objective, max_cycles, max_bytes)
    except _DoesNotFitError as resident:
        if max_cycles is not None:
            raise
        try:
            return _streamed(job, literal, coded, objective, max_bytes)
        except _DoesNotFitError as error:
            raise min(resident, error, key=lambda one: one.missing) from None


def _streamed(
    job: "_Job", literal: Sequence[Choice], coded: Sequence[Choice], objective: str, max_bytes: int | None
) -> Image:
    job = replace(job, streamed=True)
    if max_bytes is not None:
        return _fastest_within(job, coded, max_bytes)
    return job.image(literal) if objective == "fastest" else _smallest(job, coded)


def _resident(
    job: "_Job",
    literal: Sequence[Choice],
    coded: Sequence[Choice],
    objective: str,
    max_cycles: int | None,
    max_bytes: int | None,
) -> Image:
    """As `compile`; raises `_DoesNotFitError` if none fits that may be taken."""
    config = job.config
    if max_bytes is not None:
        return _fastest_within(job, coded, max_bytes)
    if objective == "smallest" and max_cycles is None:
        return _smallest(job, coded)
    try:
        fastest = job.image(literal)
    except _DoesNotFitError:
        if max_cycles is not None:
            raise
        return _fitting(job, coded)
    if objective == "fastest" and max_cycles is None:
        return fastest
    times = cycles(fastest)
    total = sum(layer.total for layer in times)
    budget = int((1 + BALANCED_ALLOWANCE) * total) if max_cycles is None else max_cycles
    if budget < total:
        raise InputError(
            f"network {job.network.name!r} takes {total} cycles on {config.name!r}, more than {budget}:"
            " allow more cycles or choose a larger target"
        )
    if coded is literal:
        return fastest
    image = _smallest_within(job, fastest, times, budget, patient=max_cycles is not None)
    if max_cycles is None and _cost(image) > _cost(fastest):
        return fastest
    return image


def _cost(image: Image) -> int:
    """Length and time together: the sum of their logarithms, as a product."""
    return image.device_bytes * sum(layer.total for layer in cycles(image))


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
    except _DoesNotFitError:
        return best
    if fastest.device_bytes <= budget:
        return fastest
    tried, paces = job.candidates(), job.paces(cycles(fastest))
    low, high = 0, sum(layer.total for layer in cycles(best))
    made: dict[tuple[Choice, ...], Image] = {}
    for _ in tqdm(range(ATTEMPTS), desc="search", delay=2, leave=False, disable=None):
        middle = (low + high) // 2
        choices = tuple(one.choice for one in select(tried, paces, middle))
        image = made[choices] = made.get(choices) or job.image(choices)
        if image.device_bytes <= budget:
            best, high = image, middle
        else:
            low = middle
    return best


def _fitting(job: "_Job", coded: Sequence[Choice]) -> Image:
    """The image found that fits the scratchpad with the fewest cycles of the entropy engine."""
    best = job.image(coded)
    tried, paces = job.candidates(), job.paces(cycles(best))
    low, high = 0, sum(max(one.engine_cycles for one in layer) for layer in tried)
    for _ in tqdm(range(ATTEMPTS), desc="search", delay=2, leave=False, disable=None):
        middle = (low + high) // 2
        try:
            best = job.image([one.choice for one in select(tried, paces, middle)])
            high = middle
        except _DoesNotFitError:
            low = middle
    return best


def _smallest(job: "_Job", coded: Sequence[Choice]) -> Image:
    """The smaller of two images: everything coded, and only what is shorter so if its layer were alone."""
    shortest = [min(layer, key=lambda one: one.bits).choice for layer in job.candidates()]
    found = [job.image(coded)]
    with suppress(InputError):
        found.append(job.image(shortest))
    return min(found, key=lambda image: image.device_bytes)


def _smallest_within(
    job: "_Job", fastest: Image, times: Sequence[LayerCycles], budget: int, *, patient: bool
) -> Image:
    """The smallest image found that takes at most ``budget`` cycles; the fastest takes ``times``.

    Unless ``patient``, no depthwise layer waits for its weights: it has few of them, and waits long for
    what that saves. Each selection is played by the cycle model, which corrects what the next may take.
    """
    tried, paces = job.candidates(), job.paces(times)
    depthwise = [not patient and layer.op == DepthwiseConv2D.kind for layer in job.plan.layers]
    left = budget - sum(layer.total for layer in times)
    # What fits and what does not: between them is what to try next.
    fitting, exceeding = 0, None
    allowance, best = left, fastest
    seen: dict[tuple[Choice, ...], int] = {}
    for _ in tqdm(range(ATTEMPTS), desc="search", delay=2, leave=False, disable=None):
        choices = tuple(one.choice for one in select(tried, paces, allowance, depthwise))
        if choices not in seen:
            image = job.image(choices)
            spent = cycles(image)
            late = [
                never and layer.decode > fast.decode
                for layer, fast, never in zip(spent, times, depthwise, strict=True)
            ]
            if any(one and choice != Choice() for one, choice in zip(late, choices, strict=True)):
                # Literals there: the estimate does not see it.
                tried = tuple(layer[:1] if one else layer for layer, one in zip(tried, late, strict=True))
                continue
            seen[choices] = left + 1 if any(late) else sum(layer.total for layer in spent) - budget
            if seen[choices] <= 0 and image.device_bytes < best.device_bytes:
                best = image
        over = seen[choices]
        if over <= 0:
            fitting = allowance
        else:
            exceeding = allowance
        allowance = fitting - over + 1 if exceeding is None else (fitting + exceeding) // 2
        if allowance in (fitting, exceeding):
            break
    return best


class _DoesNotFitError(InputError):
    """The scratchpad is so many bytes too small."""

    def __init__(self, sentence: str, missing: int) -> None:
        super().__init__(sentence)
        self.missing = missing


@dataclass(frozen=True)
class _Job:
    """A network scheduled for a machine, and what its programs have to make.

    ``weights`` are how many each operation had before and after simplification, ``dropped`` and ``reordered``
    what became of its channels. The ``smallest`` image may take what cycles it likes; ``streamed`` images
    keep nothing of their programs in the scratchpad but the rings. ``tried`` are the candidates, if they are
    known already.
    """

    config: MachineConfig
    network: Network
    plan: Schedule
    materials: tuple[Material, ...]
    weights: tuple[Mapping[str, int], Mapping[str, int]]
    dropped: tuple[Dropped, ...]
    smallest: bool
    reordered: tuple[str, ...] = ()
    streamed: bool = False
    tried: tuple[tuple[Candidate, ...], ...] = ()

    def candidates(self) -> tuple[tuple[Candidate, ...], ...]:
        """All choices for each layer that the machine runs."""
        if self.tried:
            return self.tried
        progress = tqdm(self.materials, desc="candidates", delay=2, leave=False, disable=None)
        tried = (candidates(material, self.config.columns) for material in progress)
        return tuple(tuple(layer if self.config.entropy_engines else layer[:1]) for layer in tried)

    def paces(self, times: Sequence[LayerCycles]) -> list[Pace]:
        """The array's work on each layer, which took ``times``."""
        paces = []
        for layer, material, time in zip(self.plan.layers, self.materials, times, strict=True):
            positions = layer.fields["x_count"] * layer.fields["y_count"]
            rows = sum(len(block) for block in material.records)
            rows += material.weights.shape[0] * material.weights.shape[1] * material.replays
            tiles = -(-positions // self.config.rows)
            paces.append(Pace(len(material.records), time.total - time.decode, tiles, rows))
        return paces

    def image(self, choices: Sequence[Choice]) -> Image:
        """The image with these programs; raises `InputError` if it does not fit."""
        config, plan = self.config, self.plan
        addresses = _allocate(plan, config)
        # With one scratchpad port a fill is complete before its layer begins.
        descriptors = _descriptors(plan, addresses, config, self.smallest and config.scratchpad_ports == 1)
        writer = Writer(config.columns, streamed=self.streamed)
        reports = [
            _write(writer, layer, material, choice, self.weights)
            for layer, material, choice in zip(plan.layers, self.materials, choices, strict=True)
        ]
        program = assemble(writer.instructions, writer.rows, config.columns)
        contents = {
            "descriptors": store_descriptors(descriptors, config.columns),
            "coded": program.coded,
            "literals": program.literals,
            "code": program.code,
        }
        sizes, end = {name: len(content) for name, content in contents.items()}, config.scratchpad_bytes
        if self.streamed:
            sizes |= dict.fromkeys(RINGS, RING_BYTES)
            end = max(ring_addresses(config).values()) + RING_BYTES
        static = sum(sizes.values())
        activations = max(address + plan.layouts[name].size for name, address in addresses.items())
        start = end - static
        # What layers write to is whole pages, in which nothing else lies: the device protects the others.
        missing = -(-activations // PAGE_BYTES) * PAGE_BYTES - start
        if missing > 0:
            what = "descriptors and its program's rings" if self.streamed else "programs and constants"
            raise _DoesNotFitError(
                f"network {self.network.name!r} does not fit {config.name!r}: its {what} take"
                f" {static} bytes and its activations {activations} of {config.scratchpad_bytes},"
                f" {missing} bytes are missing; choose a larger target or a smaller network",
                missing,
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
            reordered=self.reordered,
            streamed=self.streamed,
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


def _descriptors(
    plan: Schedule, addresses: Mapping[str, int], config: MachineConfig, whole: bool
) -> list[dict[str, int]]:
    """Descriptors of all layers; if ``whole``, regions are filled with their borders if that is shorter."""
    descriptors: list[dict[str, int]] = []
    bordered = {plan.input}
    before: dict[str, int] | None = None
    for layer in plan.layers:
        base, layout = addresses[layer.output], plan.layouts[layer.output]
        fills: list[dict[str, int]] = []
        if layer.output not in bordered:
            bordered.add(layer.output)
            parts = layout.border()
            # A sum that replaces its operand finds it there.
            if whole and len(parts) > 1 and plan.places[layer.output] == layer.output:
                parts = layout.whole()
            fills = [
                {
                    "opcode": Opcode.FILL,
                    "output_base": (base + fill.offset) // FILL_UNIT,
                    "output_step": (fill.step - fill.run) // FILL_UNIT % (1 << FILL_BITS),
                    "y_count": fill.lines,
                    "run": fill.run // FILL_UNIT,
                    "zero_point": layout.zero_point,
                }
                for fill in parts
            ]
        array = {
            **layer.fields,
            "input_base": addresses[layer.input] + layer.input_offset,
            "output_base": base + layer.output_offset,
        }
        residual: list[dict[str, int]] = []
        if layer.residual is not None and layer.operand is not None:
            offset = (addresses[layer.operand] - base) % (1 << ADDRESS_BITS)
            residual = [{**layer.residual, "offset": offset}]
        if config.scratchpad_ports == 1:
            descriptors += [*fills, *residual, array]
            continue
        array["overlaps"] = int(before is not None and not residual and _overlap(before, array, config))
        descriptors += [*residual, array, *fills]
        before = None if residual else array
    return [*descriptors, {"opcode": Opcode.END}]


def _overlap(before: Mapping[str, int], after: Mapping[str, int], config: MachineConfig) -> bool:
    """Whether the first tile of the layer ``after`` is full and reads nothing that the last of the one before
    writes."""
    if after["x_count"] * after["y_count"] < config.rows:
        return False
    first = slice(config.rows)
    last = slice((before["x_count"] * before["y_count"] - 1) // config.rows * config.rows, None)
    read, written = tile_reads(after, config.columns, first), tile_writes(before, config.columns, last)
    return not np.intersect1d(read, written).size


def _material(layer: Layer, config: MachineConfig) -> Material:
    """What the program of a layer has to make."""
    parameters = layer.parameters
    packed = [
        store_constants(bias, multiplier, shift).to_bytes(STORED_CONSTANTS.bits // 8, "little")
        for bias, multiplier, shift in zip(
            parameters.bias, parameters.multiplier, parameters.shift, strict=True
        )
    ]
    channels, records = len(packed), []
    if parameters.fields.get("unit_weights") and channels > config.columns:
        # All channels have the same, and so has the last group, whole: one loop makes them all.
        packed += packed[:1] * (-channels % config.columns)
    for group in range(0, len(packed), config.columns):
        block = b"".join(packed[group : group + config.columns])
        block += bytes(-len(block) % config.columns)
        records.append(np.frombuffer(bytearray(block), np.int8).reshape(-1, config.columns))
    rows = parameters.rows
    return Material(
        channels,
        tuple(records),
        rows,
        parameters.distances,
        computed=computed(rows, channels) if config.generator else None,
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
    before = Counter(P0(one.op).name for one in writer.instructions)
    bits, constant_bits = writer.layer(material, choice)
    return LayerReport(
        name=layer.name,
        op=layer.op,
        weights=weights[0].get(layer.made, 0),
        live_weights=weights[1].get(layer.made, 0),
        positions=layer.positions,
        fold=layer.fold,
        down=layer.down,
        replays=layer.replays,
        bits=bits,
        constant_bits=constant_bits,
        instructions=Counter(P0(one.op).name for one in writer.instructions) - before,
    )
