"""From a network to the layers that the array runs: windows, weights in tap order, channel constants.

Reshaping and padding move no bytes: their outputs are *views* of the tensor they read, whose storage gets
the border that all its readers need. SOFTMAX and reshapes at the very end stay on the host.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .config import MachineConfig
from .errors import InputError
from .isa import ADDRESS_BITS, DESCRIPTOR, Opcode, window_taps
from .layout import Layout
from .network import (
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Network,
    Operation,
    Pad,
    Reshape,
    Softmax,
    Window,
)
from .parameters import Parameters, parameters

__all__ = ["Layer", "Schedule", "schedule", "split_tail"]

Shape = tuple[int, int, int]
Padding = tuple[int, int, int, int]

NO_PADDING: Padding = (0, 0, 0, 0)
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
    input_offset, output_offset : int
        First byte of the first window, and of the first output position, in their regions.
    fields : mapping
        All descriptor fields but the three addresses.
    parameters : Parameters
        Weights and constants.
    """

    name: str
    op: str
    input: str
    output: str
    input_offset: int
    output_offset: int
    fields: Mapping[str, int]
    parameters: Parameters

    @property
    def positions(self) -> int:
        """Output positions, each of which uses every weight once."""
        return self.fields["x_count"] * self.fields["y_count"]


@dataclass(frozen=True)
class Schedule:
    """What the device runs and what is left to the host.

    ``layouts`` holds the storage of each tensor that exists on the device; ``input`` and ``output`` name
    those that the host writes and reads; ``tail`` is the network that the host runs on the output.
    """

    layers: tuple[Layer, ...]
    layouts: Mapping[str, Layout]
    input: str
    output: str
    tail: Network


def schedule(network: Network, config: MachineConfig) -> Schedule:
    """The layers of ``network`` on a machine.

    Raises `InputError` that names the operation which the machine cannot run exactly.
    """
    operations, tail = split_tail(network)
    uses = list(_resolve_views(network, operations, tail.input))
    layouts = _lay_out(network, uses, tail.input, config)
    layers = tuple(_layer(use, layouts, config) for use in uses)
    return Schedule(layers, layouts, network.input, tail.input, tail)


def _refuse(operation: Operation, reason: str) -> InputError:
    return InputError(
        f"{operation.kind} {operation.name!r} cannot be run exactly on this target yet: {reason};"
        " `--on golden` runs the network on the host"
    )


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


@dataclass(frozen=True)
class _View:
    """A tensor seen as ``shape`` plus ``padding`` around it, kept in the storage of ``tensor``."""

    tensor: str
    shape: Shape
    padding: Padding = NO_PADDING


@dataclass(frozen=True)
class _Use:
    """An operation of the array and the view it reads, through ``window`` with all padding included.

    ``window`` is None for a dense layer, which reads its whole input whatever its shape.
    """

    operation: Operation
    view: _View
    window: Window | None
    word_mode: bool


def _image_shape(network: Network, name: str) -> Shape:
    """A tensor's shape as (height, width, channels)."""
    shape = network.tensors[name].shape
    if len(shape) > 3:
        raise InputError(f"tensor {name!r} has {len(shape)} axes beside the batch: at most 3 can be stored")
    height, width, channels = (1,) * (3 - len(shape)) + shape
    return height, width, channels


def _resolve_views(network: Network, operations: Iterable[Operation], output: str) -> Iterator[_Use]:
    """The operations that the array runs; raises `InputError` at the first that it cannot."""
    views = {network.input: _View(network.input, _image_shape(network, network.input))}
    for operation in operations:
        view = views[operation.inputs[0]]
        match operation:
            case Reshape():
                if view.padding != NO_PADDING:
                    raise _refuse(operation, "it reshapes a padded tensor")
                views[operation.output] = _View(view.tensor, _image_shape(network, operation.output))
                continue
            case Pad():
                views[operation.output] = _View(
                    view.tensor, view.shape, _add(view.padding, operation.padding)
                )
                continue
            case Conv2D() | DepthwiseConv2D():
                padding = _add(view.padding, operation.window.padding)
                window = Window(operation.window.size, operation.window.stride, padding)
                channelwise = isinstance(operation, DepthwiseConv2D) and view.shape[2] > 1
                if channelwise and operation.weights.shape[2] != view.shape[2]:
                    raise _refuse(operation, "its depth multiplier is not 1")
                yield _Use(operation, view, window, channelwise)
            case AveragePool2D():
                if operation.window.padding != NO_PADDING:
                    raise _refuse(operation, "it pools over padding")
                window = Window(operation.window.size, operation.window.stride, view.padding)
                yield _Use(operation, view, window, True)
            case Dense():
                if view.padding != NO_PADDING:
                    raise _refuse(operation, "it reads a padded tensor")
                yield _Use(operation, view, _dense_window(network, operation, view), False)
            case _:
                raise _refuse(operation, "the machine has no such operator")
        views[operation.output] = _View(operation.output, _image_shape(network, operation.output))
    if views[output].tensor != output:
        raise InputError(
            f"output {output!r} is only a view of {views[output].tensor!r}: drop the last operation"
        )


def _dense_window(network: Network, operation: Dense, view: _View) -> Window | None:
    """None for a layer that reads its whole input; position by position it is a convolution."""
    depth = operation.weights.shape[1]
    if depth == math.prod(view.shape):
        return None
    if depth == view.shape[2] and _image_shape(network, operation.output)[:2] == view.shape[:2]:
        return Window((1, 1), (1, 1), NO_PADDING)
    raise _refuse(operation, "it reads its input in another shape than it is made in")


def _add(a: Padding, b: Padding) -> Padding:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _lay_out(network: Network, uses: list[_Use], output: str, config: MachineConfig) -> dict[str, Layout]:
    """The storage of each tensor, with the border and the pitch that its readers need."""
    layouts = {}
    for name in dict.fromkeys([network.input, *(use.operation.output for use in uses), output]):
        readers = [use for use in uses if use.view.tensor == name]
        # The host can write the input in whatever shape it is read; other shapes come from who makes them.
        shape = _image_shape(network, name)
        if name == network.input:
            shape = next((use.view.shape for use in readers if use.window), shape)
        padding = NO_PADDING
        for use in readers:
            if use.window is None:
                continue
            if use.view.shape != shape:
                raise _refuse(use.operation, f"it reads {name!r} in another shape than it is made in")
            padding = _larger(padding, _reach(use.window, shape))
        height, width, channels = shape
        if any(use.word_mode for use in readers):
            pitch = -(-channels // config.columns) * config.columns
        elif name == network.input:
            pitch = channels
        else:
            pitch = -(-channels // 8) * 8
        layouts[name] = Layout(height, width, channels, padding, pitch, network.tensors[name].zero_point)
    return layouts


def _reach(window: Window, shape: Shape) -> Padding:
    """How far the windows really reach over each edge of the image."""
    rows, columns = window.output_size(shape[0], shape[1])
    top, _, left, _ = window.padding
    bottom = (rows - 1) * window.stride[0] + window.size[0] - top - shape[0]
    right = (columns - 1) * window.stride[1] + window.size[1] - left - shape[1]
    return top, max(bottom, 0), left, max(right, 0)


def _larger(a: Padding, b: Padding) -> Padding:
    return max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _layer(use: _Use, layouts: Mapping[str, Layout], config: MachineConfig) -> Layer:
    operation, source = use.operation, layouts[use.view.tensor]
    target = layouts[operation.output]
    positions = target.height * target.width
    # A dense layer is a convolution whose window is the whole image.
    window = use.window or Window((source.height, source.width), (1, 1), NO_PADDING)
    top, _, left, _ = window.padding
    fields = {
        "opcode": Opcode.ARRAY,
        "x_count": target.width,
        "y_count": target.height,
        **_steps("input", source, window.stride, target.width),
        **_steps("output", target, (1, 1), target.width),
        "word_mode": int(use.word_mode),
        "channels": target.channels,
        **_window_loops(source, window.size, config.columns if use.word_mode else None),
    }
    made = parameters(operation, target.channels, (source.zero_point, target.zero_point), config)
    fields |= made.fields
    if made.rows is not None:
        fields["stream_weights"] = int(positions <= config.rows)
        if positions > config.rows and window_taps(fields) > config.column_buffer_depth:
            raise _refuse(
                operation,
                f"its filters have {window_taps(fields)} taps, a column of {config.name!r} holds"
                f" {config.column_buffer_depth}",
            )
    try:
        DESCRIPTOR.pack(**fields)
    except ValueError as error:
        raise _refuse(operation, f"it is too large, {error}") from None
    return Layer(
        name=operation.name,
        op=operation.kind,
        input=use.view.tensor,
        output=operation.output,
        input_offset=source.origin - top * source.row_pitch - left * source.pixel_pitch,
        output_offset=target.origin,
        fields=fields,
        parameters=made,
    )


def _steps(prefix: str, layout: Layout, stride: tuple[int, int], x_count: int) -> dict[str, int]:
    """Address steps from one output position to the next, seen in a tensor's storage."""
    step = stride[1] * layout.pixel_pitch
    wrap = stride[0] * layout.row_pitch - (x_count - 1) * step
    return {f"{prefix}_step": _residue(step), f"{prefix}_wrap": _residue(wrap)}


def _residue(address: int) -> int:
    return address % (1 << ADDRESS_BITS)


def _window_loops(layout: Layout, size: tuple[int, int], word: int | None) -> dict[str, int]:
    """The loops over a window: rows, positions, bytes, joined where they are contiguous.

    ``word`` is the run of word mode, where positions are not contiguous for the array.
    """
    (outer, outer_step), (inner, inner_step) = (size[0], layout.row_pitch), (size[1], layout.pixel_pitch)
    run = word or layout.channels
    if word is None and (inner == 1 or inner_step == run):
        run, inner, inner_step = run * inner, 1, 0
        if outer == 1 or outer_step == run:
            run, outer, outer_step = run * outer, 1, 0
    return {
        "outer_count": outer,
        "outer_step": _residue(outer_step),
        "inner_count": inner,
        "inner_step": _residue(inner_step),
        "run": run,
    }
