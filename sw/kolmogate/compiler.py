"""The compiler: from a network to an image for one machine, exact to the last output bit."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from .allocate import Region, allocate
from .config import MachineConfig
from .errors import InputError
from .image import Activation, Image, LayerReport, Section
from .isa import ADDRESS_BITS, CONSTANTS, DESCRIPTOR, INSTRUCTION, P0, RESIDUAL, SHIFTS, Opcode
from .lower import lower
from .network import Network, Weighted
from .parameters import Parameters
from .programs.p0 import Instruction, Program, assemble, literal_program
from .schedule import Layer, Schedule, schedule
from .simplify import simplify
from .skeleton import skeleton

__all__ = ["compile"]


def compile(network: Network, config: MachineConfig) -> Image:
    """The image of ``network`` for a machine, simplified first (`kolmogate.simplify`).

    Raises `InputError` that names the operation which the machine cannot run exactly, or says how many
    bytes of scratchpad the network is short of.
    """
    weights = _weights(network)
    simplified = simplify(network)
    network = lower(simplified.network)
    plan = schedule(network, config)
    addresses = _allocate(plan, config)
    descriptors = _descriptors(plan, addresses, config)
    programs = [_program(layer) for layer in plan.layers]
    program = _assemble(plan, programs, config)
    sizes = {
        "descriptors": len(descriptors) * DESCRIPTOR.size(config.columns),
        "constants": sum(_constant_bytes(layer, config) for layer in plan.layers),
        "code": len(program.code),
        "literals": len(program.literals),
    }
    static = sum(sizes.values())
    activations = max(address + plan.layouts[name].size for name, address in addresses.items())
    start = config.scratchpad_bytes - static
    missing = -(-activations // config.columns) * config.columns - start
    if missing > 0:
        raise InputError(
            f"network {network.name!r} does not fit {config.name!r}: its programs and constants take {static}"
            f" bytes and its activations {activations} of {config.scratchpad_bytes}, {missing} bytes are"
            " missing; choose a larger target or a smaller network"
        )
    # What is empty has an address too, which must be in the scratchpad.
    bases = dict.fromkeys(sizes, start)
    for name, size in sizes.items():
        if size:
            bases[name] = start
            start += size
    contents = {
        "descriptors": b"".join(_pack(fields, bases["constants"], config) for fields in descriptors),
        "constants": b"".join(_constants(layer.parameters, config) for layer in plan.layers),
        "code": program.code,
        "literals": program.literals,
    }
    return Image(
        config=config,
        sections={name: Section(bases[name], contents[name]) for name in sizes},
        input=_activation(network, plan, addresses, plan.input),
        output=_activation(network, plan, addresses, plan.output),
        skeleton=skeleton(network),
        layers=_reports(plan, programs, (weights, _weights(simplified.network)), config),
        dropped=simplified.dropped,
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


def _descriptors(plan: Schedule, addresses: Mapping[str, int], config: MachineConfig) -> list[dict[str, int]]:
    """All descriptors; addresses of constants count from the start of their section."""
    descriptors = []
    constants = 0
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
                "constants_base": constants,
            }
        )
        constants += _constant_bytes(layer, config)
    return [*descriptors, {"opcode": Opcode.END}]


def _pack(fields: Mapping[str, int], constants: int, config: MachineConfig) -> bytes:
    if fields["opcode"] == Opcode.ARRAY:
        fields = {**fields, "constants_base": constants + fields["constants_base"]}
    record = RESIDUAL if fields["opcode"] == Opcode.RESIDUAL else DESCRIPTOR
    return record.pack(**fields).to_bytes(DESCRIPTOR.size(config.columns), "little")


def _constant_bytes(layer: Layer, config: MachineConfig) -> int:
    """The hardware reads records for whole column groups."""
    groups = -(-len(layer.parameters.bias) // config.columns)
    return groups * config.columns * CONSTANTS.bits // 8


def _constants(parameters: Parameters, config: MachineConfig) -> bytes:
    """The channels' records, and harmless ones up to whole column groups."""
    records = [
        CONSTANTS.pack(bias=bias, multiplier=multiplier, shift=shift)
        for bias, multiplier, shift in zip(
            parameters.bias, parameters.multiplier, parameters.shift, strict=True
        )
    ]
    records += [CONSTANTS.pack(shift=SHIFTS[0])] * (-len(records) % config.columns)
    return b"".join(record.to_bytes(CONSTANTS.bits // 8, "little") for record in records)


def _program(layer: Layer) -> list[Instruction]:
    """The shortest program of a layer's weights; none where it takes no weights.

    Where each row is used once, the array waits for short instructions, as it takes longer to fetch the next
    one: an instruction must save the literals of a row there.
    """
    rows = layer.parameters.rows
    if rows is None:
        return []
    row_bits = 8 * rows.shape[-1] if layer.fields["stream_weights"] else 0
    return literal_program(rows.reshape(-1, rows.shape[-1]), INSTRUCTION.bits + row_bits)


def _assemble(plan: Schedule, programs: list[list[Instruction]], config: MachineConfig) -> Program:
    """One program for all layers."""
    rows = [
        layer.parameters.rows.reshape(-1, config.columns)
        for layer in plan.layers
        if layer.parameters.rows is not None
    ]
    weights = np.concatenate([np.zeros((0, config.columns), np.int8), *rows])
    return assemble([instruction for program in programs for instruction in program], weights, config.columns)


def _reports(
    plan: Schedule,
    programs: list[list[Instruction]],
    weights: tuple[Mapping[str, int], Mapping[str, int]],
    config: MachineConfig,
) -> tuple[LayerReport, ...]:
    """What the layers cost; ``weights`` are those that each had before and after simplification."""
    return tuple(
        LayerReport(
            name=layer.name,
            op=layer.op,
            weights=weights[0].get(layer.made, 0),
            live_weights=weights[1].get(layer.made, 0),
            positions=layer.positions,
            fold=layer.fold,
            bits=sum(
                INSTRUCTION.bits + instruction.rows * instruction.bits * config.columns
                for instruction in program
            ),
            instructions=Counter(P0(instruction.op).name for instruction in program),
        )
        for layer, program in zip(plan.layers, programs, strict=True)
    )
