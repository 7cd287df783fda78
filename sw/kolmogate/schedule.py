"""From a network to the layers that the array runs: storage of tensors, address steps, parameters.

SOFTMAX and reshapes at the very end stay on the host.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from .axis import turn, visits
from .config import MachineConfig
from .fold import Foldable, fold, fold_factor
from .isa import ADDRESS_BITS, DESCRIPTOR, WORD_GRAIN, Opcode, window_taps, wrap_fields
from .layout import Layout
from .network import DepthwiseConv2D, Network, Operation, Reshape, Softmax
from .parameters import Parameters, parameters
from .programs.search import MAXIMUM_TAPS
from .uses import Shape, Use, image_shape, maker, refuse, resolve

__all__ = ["Layer", "Schedule", "schedule", "split_tail"]

HOST_OPERATIONS = (Softmax, Reshape)


@dataclass(frozen=True)
class Layer:
    """One ARRAY descriptor in the making.

    Parameters
    ----------
    name, op : str
        The operation's name and kind.
    input, output : str
        Tensors whose storage is read and written.
    made : str
        The operation's own output; ``output`` is another where it is added to something at once.
    input_offset, output_offset : int
        First byte of the first window, and of the first output position, in their regions.
    fields : mapping
        All descriptor fields but the three addresses.
    parameters : Parameters
        Weights and constants.
    replays : int
        How often its weights are made: for each tile if a filter is deeper than the column buffer.
    fold : int
        Neighbouring positions that the columns work on side by side.
    down : bool
        Positions are walked down instead of along lines (`kolmogate.axis`).
    operand : str or None
        The tensor that a residual addition reads, in the place of the output's own bytes.
    residual : mapping or None
        The fields of that addition, all but the offset.
    """

    name: str
    op: str
    input: str
    output: str
    made: str
    input_offset: int
    output_offset: int
    fields: Mapping[str, int]
    parameters: Parameters
    replays: int
    fold: int
    down: bool
    operand: str | None
    residual: Mapping[str, int] | None

    @property
    def positions(self) -> int:
        """Output positions, each of which uses every weight once."""
        return self.fields["x_count"] * self.fields["y_count"] * self.fold


@dataclass(frozen=True)
class Schedule:
    """What the device runs and what is left to the host.

    ``layouts`` holds the storage of each tensor that exists on the device; ``input`` and ``output`` name
    those that the host writes and reads; ``tail`` is the network that the host runs on the output. ``places``
    tells for each tensor whose region it is stored in: its own, or that of the tensor that it replaces.
    """

    layers: tuple[Layer, ...]
    layouts: Mapping[str, Layout]
    places: Mapping[str, str]
    input: str
    output: str
    tail: Network


def schedule(network: Network, config: MachineConfig, *, folding: bool = True) -> Schedule:
    """The layers of a lowered network (`kolmogate.lower`) on a machine, with or without `kolmogate.fold`.

    Raises `InputError` that names the operation which the machine cannot run exactly.
    """
    operations, tail = split_tail(network)
    uses = resolve(network, operations, tail.input)
    if not config.residual_adder:
        sums = {use.output for use in uses if use.residual}
        for operation in operations:
            if operation.output in sums:
                raise refuse(operation, f"{config.name!r} does not add tensors, nor keeps the larger of two")
    layouts = _lay_out(network, uses, tail.input, config)
    layers = tuple(_layer(use, layouts, config, folding) for use in uses)
    places = _places(network, uses, tail.input)
    return Schedule(layers, layouts, places, network.input, tail.input, tail)


def split_tail(network: Network) -> tuple[list[Operation], Network]:
    """The operations for the device, and the network of those that the host runs on the device's output."""
    operations = list(network.operations)
    tail: list[Operation] = []
    boundary = network.output
    while operations and operations[-1].output == boundary and isinstance(operations[-1], HOST_OPERATIONS):
        tail.insert(0, operations.pop())
        boundary = tail[0].inputs[0]
    names = {boundary, *(operation.output for operation in tail)}
    tensors = {name: network.tensors[name] for name in network.tensors if name in names}
    return operations, Network(tensors, tuple(tail), boundary, network.output)


def _lay_out(network: Network, uses: list[Use], output: str, config: MachineConfig) -> dict[str, Layout]:
    """The storage of each tensor, with the border and the pitch that its readers need."""
    shapes: dict[str, Shape] = {}
    paddings: dict[str, tuple[int, int, int, int]] = {}
    pitches: dict[str, int] = {}
    for name in dict.fromkeys([network.input, *(use.output for use in uses), output]):
        readers = [use for use in uses if use.source == name]
        # The host can write the input in whatever shape it is read; other shapes come from who makes them.
        shape = image_shape(network, name)
        if name == network.input:
            shape = next((use.shape for use in readers if use.shape), shape)
        padding = (0, 0, 0, 0)
        for use in readers:
            if use.shape is None:
                continue
            if use.shape != shape:
                operation = maker(network, use.operation)
                raise refuse(operation, f"it reads {name!r} in another shape than it is made in")
            padding = _larger(padding, _reach(use, shape))
        channels = shape[2]
        # The host writes the input byte by byte.
        bytewise = name == network.input and not any(use.word_mode for use in readers)
        pitches[name] = channels if bytewise else -(-channels // WORD_GRAIN) * WORD_GRAIN
        shapes[name], paddings[name] = shape, padding
    _tie(uses, paddings, pitches)
    return {
        name: Layout(*shape, paddings[name], pitches[name], network.tensors[name].zero_point)
        for name, shape in shapes.items()
    }


def _tie(uses: list[Use], paddings: dict[str, tuple[int, int, int, int]], pitches: dict[str, int]) -> None:
    """What is added to outputs lies as they do, so that one offset leads from any byte to its operand."""
    pairs = [(use.output, use.residual.tensor) for use in uses if use.residual is not None]
    changed = True
    while changed:
        changed = False
        for one, other in pairs:
            pitch = max(pitches[one], pitches[other], 8 * (one != other))
            padding = _larger(paddings[one], paddings[other])
            for name in (one, other):
                changed |= (pitches[name], paddings[name]) != (pitch, padding)
                pitches[name], paddings[name] = pitch, padding


def _places(network: Network, uses: list[Use], output: str) -> dict[str, str]:
    """Sums replace the operand in memory where nothing reads it afterwards."""
    places: dict[str, str] = {}
    for index, use in enumerate(uses):
        places.setdefault(use.source, use.source)
        operand = use.residual.tensor if use.residual else use.output
        later = uses[index + 1 :]
        free = operand not in (network.input, output, use.source) and not any(
            operand == one.source or (one.residual is not None and operand == one.residual.tensor)
            for one in later
        )
        if use.output not in places:
            places[use.output] = places[operand] if free and operand != use.output else use.output
    places.setdefault(output, output)
    return places


def _reach(use: Use, shape: Shape) -> tuple[int, int, int, int]:
    """How far the windows reach over each edge of the image."""
    ends = [
        (
            max(0, -start),
            max(0, start + (count - 1) * stride + size - extent),
        )
        for start, count, stride, size, extent in zip(
            use.start, use.region[2:], use.stride, use.size, shape, strict=False
        )
    ]
    return (*ends[0], *ends[1])


def _larger(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _layer(use: Use, layouts: Mapping[str, Layout], config: MachineConfig, folding: bool) -> Layer:
    operation, source, target = use.operation, layouts[use.source], layouts[use.output]
    factor = fold_factor(use, source, target, config) if folding else 1
    if factor > 1 and isinstance(operation, Foldable):
        operation = fold(operation, factor)
        use = replace(use, operation=operation, size=operation.window.size, stride=operation.window.stride)
    # What is read whole is a window as large as the image.
    size = use.size if use.shape else (source.height, source.width)
    row, column, height, width = use.region
    width //= factor
    channels = target.channels if factor == 1 else factor * target.pixel_pitch
    positions = height * width
    window, run = _window(source, size, config.columns if use.word_mode else None)
    # The loops over rows of positions, and over positions in a row.
    rows = _Loop(height, use.stride[0] * source.row_pitch, target.row_pitch, window[0])
    places = _Loop(width, use.stride[1] * source.pixel_pitch, factor * target.pixel_pitch, window[1])
    fields, down = _loop_fields(rows, places), _loop_fields(places, rows)
    goes_down = use.word_mode and _fits(down, config) and visits(down, config) < visits(fields, config)
    if goes_down:
        fields = down
        if isinstance(operation, DepthwiseConv2D):
            operation = turn(operation)
    fields |= {
        "opcode": Opcode.ARRAY,
        "word_mode": int(use.word_mode),
        "channels": channels,
        "run": run,
    }
    zero_points = source.zero_point, use.zero_point
    made = parameters(operation, channels, window_taps(fields), zero_points, config)
    fields |= made.fields
    if not made.fields.get("unit_weights"):
        taps = window_taps(fields)
        deep = taps > config.column_buffer_depth
        fields["stream_weights"] = int(positions <= config.rows or deep)
        if deep and positions > config.rows and taps > MAXIMUM_TAPS:
            raise refuse(
                operation, f"its filters have {taps} taps, programs can make {MAXIMUM_TAPS} of them again"
            )
    try:
        _check(fields, config)
    except ValueError as error:
        raise refuse(operation, f"it is too large, {error}") from None
    return Layer(
        name=operation.name,
        op=operation.kind,
        input=use.source,
        output=use.output,
        made=operation.output,
        input_offset=source.origin + use.start[0] * source.row_pitch + use.start[1] * source.pixel_pitch,
        output_offset=target.origin + row * target.row_pitch + column * target.pixel_pitch,
        fields=fields,
        parameters=made,
        replays=-(-positions // config.rows) if fields.get("stream_weights") else 1,
        fold=factor,
        down=goes_down,
        operand=use.residual.tensor if use.residual else None,
        residual=use.residual.record if use.residual else None,
    )


class _Loop(NamedTuple):
    """A loop over output positions: how many, bytes from one to the next in the input and in the output, and
    the loop over the window in the same direction, its count and step."""

    positions: int
    input_step: int
    output_step: int
    window: tuple[int, int]


def _loop_fields(outer: _Loop, inner: _Loop) -> dict[str, int]:
    (outer_count, outer_step), (inner_count, inner_step) = outer.window, inner.window
    return {
        "x_count": inner.positions,
        "y_count": outer.positions,
        **_steps("input", outer, inner, (outer.input_step, inner.input_step)),
        **_steps("output", outer, inner, (outer.output_step, inner.output_step)),
        "outer_count": outer_count,
        "outer_wrap": _residue(outer_step - (inner_count - 1) * inner_step),
        "inner_count": inner_count,
        "inner_step": _residue(inner_step),
    }


def _steps(prefix: str, outer: _Loop, inner: _Loop, steps: tuple[int, int]) -> dict[str, int]:
    """Address steps from one output position to the next; 0 where none is taken."""
    step = steps[1] if inner.positions > 1 else 0
    wrap = steps[0] - (inner.positions - 1) * step if outer.positions > 1 else 0
    return {f"{prefix}_step": step, **wrap_fields(prefix, wrap)}


def _check(fields: Mapping[str, int], config: MachineConfig) -> None:
    """Raise `ValueError` if the machine has no such descriptor."""
    DESCRIPTOR.pack(**fields)
    if config.scratchpad_ports == 1 and (fields["input_wrap_high"] or fields["output_wrap_high"]):
        raise ValueError("lines are too far apart")


def _fits(fields: Mapping[str, int], config: MachineConfig) -> bool:
    try:
        _check(fields, config)
    except ValueError:
        return False
    return True


def _residue(address: int) -> int:
    return address % (1 << ADDRESS_BITS)


def _window(
    layout: Layout, size: tuple[int, int], word: int | None
) -> tuple[tuple[tuple[int, int], tuple[int, int]], int]:
    """The loops over a window (rows, positions), each a count and a step, and the bytes of a run.

    They are joined where they are contiguous. ``word`` is the run of word mode, where positions are not
    contiguous for the array.
    """
    (outer, outer_step), (inner, inner_step) = (size[0], layout.row_pitch), (size[1], layout.pixel_pitch)
    run = word or layout.channels
    if word is None and (inner == 1 or inner_step == run):
        run, inner, inner_step = run * inner, 1, 0
        if outer == 1 or outer_step == run:
            run, outer, outer_step = run * outer, 1, 0
    return ((outer, outer_step), (inner, inner_step)), run
