"""What the array does for each operation of a network: windows over views of stored tensors.

Reshaping and padding move no bytes: their outputs are *views* of the tensor they read. An operation becomes
one or more *uses* of the array, most of them one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from .errors import InputError
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
    Reshape,
    Window,
)
from .residual import largest_record, residual_record

__all__ = ["Residual", "Shape", "Use", "image_shape", "maker", "refuse", "resolve"]

Shape = tuple[int, int, int]
Padding = tuple[int, int, int, int]

NO_PADDING: Padding = (0, 0, 0, 0)


@dataclass(frozen=True)
class Residual:
    """A tensor that is added to a use's outputs: its name, and `isa.RESIDUAL`'s fields but the offset."""

    tensor: str
    record: Mapping[str, int]


@dataclass(frozen=True)
class Use:
    """One layer of the array.

    Parameters
    ----------
    operation : Operation
        What it computes; its parameters are the layer's.
    source, output : str
        The tensors read and written.
    shape : tuple
        (height, width, channels) that ``source`` is read in; None if it is read whole, whatever its shape.
    start : tuple
        Row and column of the first window's corner in the source; negative in the border.
    size, stride : tuple
        The window's, in positions. None if ``shape`` is.
    region : tuple
        First row and column, rows and columns of the output positions that are written.
    word_mode : bool
        Column c reads channel c.
    zero_point : int
        Of the operation's own output; ``output`` may be a sum that has another.
    residual : Residual, optional
    """

    operation: Operation
    source: str
    output: str
    shape: Shape | None
    start: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    region: tuple[int, int, int, int]
    word_mode: bool
    zero_point: int
    residual: Residual | None = None


@dataclass(frozen=True)
class _View:
    """A tensor seen as ``shape`` plus ``padding`` around it, kept in the storage of ``tensor``."""

    tensor: str
    shape: Shape
    padding: Padding = NO_PADDING


def _reads_whole(operation: Dense, view: _View) -> bool:
    height, width = (a + b for a, b in zip(view.shape, _extra(view.padding), strict=False))
    return operation.weights.shape[1] == height * width * view.shape[2]


def refuse(operation: Operation, reason: str) -> InputError:
    return InputError(
        f"{operation.kind} {operation.name!r} cannot be run exactly on this target yet: {reason};"
        " `--on golden` runs the network on the host"
    )


def maker(network: Network, operation: Operation) -> Operation:
    """The network's own operation whose output a use's operation makes; a copy has none of its own."""
    return next((one for one in network.operations if one.output == operation.output), operation)


def image_shape(network: Network, name: str) -> Shape:
    """A tensor's shape as (height, width, channels)."""
    shape = network.tensors[name].shape
    if len(shape) > 3:
        raise InputError(f"tensor {name!r} has {len(shape)} axes beside the batch: at most 3 can be stored")
    height, width, channels = (1,) * (3 - len(shape)) + shape
    return height, width, channels


def resolve(network: Network, operations: Iterable[Operation], output: str) -> list[Use]:
    """The uses of the array that make ``output``.

    ``operations`` are those of ``network`` that the device runs, lowered (`kolmogate.lower`). Raises
    `InputError` at the first that it cannot run.
    """
    return _Resolver(network).run(operations, output)


class _Resolver:
    def __init__(self, network: Network) -> None:
        self.network = network
        self.views = {network.input: _View(network.input, image_shape(network, network.input))}
        # The host writes the input in the shape that its first reader wants.
        self.input_shape: Shape | None = None
        self.uses: list[Use] = []

    def run(self, operations: Iterable[Operation], output: str) -> list[Use]:
        operations = list(operations)
        self.readers = [name for operation in operations for name in operation.inputs]
        todo = list(operations)
        while todo:
            operation = todo.pop(0)
            view = self.views[operation.inputs[0]]
            shape = image_shape(self.network, operation.output)
            match operation:
                case Reshape():
                    self.views[operation.output] = self._reshaped(operation, view, shape)
                    continue
                case Pad():
                    padding = _sum(view.padding, operation.padding)
                    self.views[operation.output] = replace(view, padding=padding)
                    continue
                case Add():
                    self._add(operation)
                case Dense() if _reads_whole(operation, view):
                    if view.padding != NO_PADDING:
                        self.views[operation.inputs[0]] = self._stored(operation.inputs[0], view)
                        todo.insert(0, operation)
                        continue
                    use = self._windowed(operation, view, Window.valid((1, 1), (1, 1)), word_mode=False)
                    self.uses.append(replace(use, shape=None))
                case _ if view.shape != self._stored_shape(view):
                    self.views[operation.inputs[0]] = self._stored(operation.inputs[0], view)
                    todo.insert(0, operation)
                    continue
                case MaxPool2D():
                    self._max_pool(operation, view)
                case AveragePool2D() if any(operation.window.padding):
                    self._padded_average(operation, view)
                case _:
                    self.uses.append(self._use(operation, view))
            self.views[operation.output] = _View(operation.output, shape)
        view = self.views[output]
        if view.tensor != output:
            # The host reads whole tensors.
            shape = image_shape(self.network, output)
            copy = self._copy(output, view)
            self.uses.append(replace(copy, output=output, region=(0, 0, *shape[:2])))
        return self.uses

    def _use(self, operation: Operation, view: _View) -> Use:
        """An operation that is one use."""
        match operation:
            case Conv2D():
                return self._windowed(operation, view, operation.window, word_mode=False)
            case DepthwiseConv2D():
                return self._windowed(operation, view, operation.window, word_mode=view.shape[2] > 1)
            case AveragePool2D():
                return self._windowed(operation, view, operation.window, word_mode=True)
            case Mean():
                height, width = (a + b for a, b in zip(view.shape, _extra(view.padding), strict=False))
                return self._windowed(operation, view, Window.valid((height, width), (1, 1)), word_mode=True)
            case Relu():
                return self._windowed(operation, view, Window.valid((1, 1), (1, 1)), word_mode=True)
            case Dense():
                return self._dense(operation, view)
            case _:
                raise refuse(operation, "the machine has no such operator")

    def _windowed(self, operation: Operation, view: _View, window: Window, *, word_mode: bool) -> Use:
        top, _, left, _ = _sum(view.padding, window.padding)
        height, width, _ = image_shape(self.network, operation.output)
        return Use(
            operation=operation,
            source=view.tensor,
            output=operation.output,
            shape=view.shape,
            start=(-top, -left),
            size=window.size,
            stride=window.stride,
            region=(0, 0, height, width),
            word_mode=word_mode,
            zero_point=self.network.tensors[operation.output].zero_point,
        )

    def _dense(self, operation: Dense, view: _View) -> Use:
        """A dense layer that works position by position."""
        return self._windowed(operation, view, Window.valid((1, 1), (1, 1)), word_mode=False)

    def _stored_shape(self, view: _View) -> Shape:
        """The shape in which the view's tensor is made."""
        if view.tensor != self.network.input:
            return image_shape(self.network, view.tensor)
        self.input_shape = self.input_shape or view.shape
        return self.input_shape

    def _stored(self, name: str, view: _View) -> _View:
        """What ``name`` is a view of, copied into the storage of ``name`` itself."""
        shape, made = image_shape(self.network, name), self._stored_shape(view)
        copy = self._copy(name, view)
        if view.padding != NO_PADDING:
            self.uses.append(copy)
            return _View(name, shape)
        if shape[2] != made[2]:
            raise refuse(
                maker(self.network, copy.operation),
                "what it makes is read in another shape than it is stored in",
            )
        # Runs of positions that are neighbours in a line before and after.
        ends = sorted({*range(0, shape[0] * shape[1] + 1, shape[1]), *range(0, made[0] * made[1], made[1])})
        for first, end in pairwise(ends):
            (row, column), start = divmod(first, shape[1]), divmod(first, made[1])
            region = (row, column, 1, end - first)
            self.uses.append(replace(copy, shape=made, start=start, region=region))
        return _View(name, shape)

    def _copy(self, output: str, view: _View) -> Use:
        """A use that writes a view, padding and all, to ``output``."""
        shape = image_shape(self.network, output)
        window = Window.valid((1, 1), (1, 1))
        same = AveragePool2D(output, (view.tensor,), output, window, (-128, 127))
        use = self._windowed(same, view, window, word_mode=True)
        return replace(use, region=(0, 0, *shape[:2]))

    def _reshaped(self, operation: Reshape, view: _View, shape: Shape) -> _View:
        """A reshape is a view where bytes stay; else what is reshaped is copied into its new shape."""
        if view.padding != NO_PADDING:
            view = self._stored(operation.inputs[0], view)
        return _View(view.tensor, shape)

    def _add(self, operation: Add) -> None:
        """An addition goes with the layer before it, if that makes an operand, or with a copy of one."""
        views = [self.views[name] for name in operation.inputs]
        last = self.uses[-1] if self.uses else None
        tensors = self.network.tensors
        fused = last is not None and (
            last.output in operation.inputs
            and self.readers.count(last.output) == 1
            and last.residual is None
            and last.region == (0, 0, *image_shape(self.network, last.output)[:2])
            and views[operation.inputs.index(last.output)]
            == _View(last.output, image_shape(self.network, last.output))
        )
        if fused and last is not None:
            self.uses.pop()
            made = operation.inputs.index(last.output)
        else:
            made = 0
        for place, (name, view) in enumerate(zip(operation.inputs, views, strict=True)):
            # Both lie in memory as they are: nothing is padded or reshaped on the way to the sum.
            if not (fused and place == made) and (
                view.padding != NO_PADDING or view.shape != self._stored_shape(view)
            ):
                views[place] = self.views[name]
                if views[place] == view:
                    views[place] = self.views[name] = self._stored(name, view)
        operand = views[1 - made]
        record = residual_record(
            operation,
            tensors[operation.inputs[made]],
            tensors[operation.inputs[1 - made]],
            tensors[operation.output],
        )
        residual = Residual(operand.tensor, record)
        if not (fused and last is not None):
            last = self._copy(operation.output, views[0])
            last = replace(last, operation=replace(last.operation, name=operation.name))
        self.uses.append(replace(last, output=operation.output, residual=residual))

    def _max_pool(self, operation: MaxPool2D, view: _View) -> None:
        """A tap at a time, each for the outputs where it lies in the image, keeping the larger.

        The tap at the padding's depth is in the image for every output: it comes first and writes them all.
        """
        window = operation.window
        top, left = window.padding[0], window.padding[2]
        height, width = (a + b for a, b in zip(view.shape, _extra(view.padding), strict=False))
        rows, columns, _ = image_shape(self.network, operation.output)
        taps = [(i, j) for i in range(window.size[0]) for j in range(window.size[1])]
        taps.sort(key=lambda tap: tap != (top, left))
        for tap in taps:
            spans = []
            for place, before, step, extent, outputs in (
                (tap[0], top, window.stride[0], height, rows),
                (tap[1], left, window.stride[1], width, columns),
            ):
                first = max(0, -((place - before) // step))
                last = min(outputs - 1, (extent - 1 + before - place) // step)
                spans.append((first, last - first + 1))
            (y, height_), (x, width_) = spans
            if min(height_, width_) <= 0:
                continue
            start = (
                y * window.stride[0] + tap[0] - top - view.padding[0],
                x * window.stride[1] + tap[1] - left - view.padding[2],
            )
            use = self._windowed(operation, view, Window.valid((1, 1), window.stride), word_mode=True)
            residual = Residual(operation.output, largest_record()) if tap != (top, left) else None
            self.uses.append(replace(use, start=start, region=(y, x, height_, width_), residual=residual))

    def _padded_average(self, operation: AveragePool2D, view: _View) -> None:
        """A use for each block of outputs whose windows overlap the image alike."""
        window = operation.window
        height, width = (a + b for a, b in zip(view.shape, _extra(view.padding), strict=False))
        rows, columns, _ = image_shape(self.network, operation.output)
        top, _, left, _ = window.padding
        for y, height_, first_y, size_y in _blocks(rows, window.size[0], window.stride[0], top, height):
            for x, width_, first_x, size_x in _blocks(columns, window.size[1], window.stride[1], left, width):
                part = replace(operation, window=Window.valid((size_y, size_x), window.stride))
                use = self._windowed(part, view, part.window, word_mode=True)
                start = first_y - view.padding[0], first_x - view.padding[2]
                self.uses.append(replace(use, start=start, region=(y, x, height_, width_)))


def _blocks(
    outputs: int, size: int, stride: int, before: int, extent: int
) -> Iterator[tuple[int, int, int, int]]:
    """(first output, outputs, first input, inputs of a window) of runs of outputs with windows of one size.

    Inputs outside the image do not count. Only windows wholly inside keep their distance by the stride.
    """
    clipped = []
    for output in range(outputs):
        low, high = output * stride - before, output * stride - before + size
        clipped.append((max(low, 0), min(high, extent) - max(low, 0), low >= 0 and high <= extent))
    first = 0
    for output in range(1, outputs + 1):
        if output == outputs or not (clipped[first][2] and clipped[output][2]):
            yield first, output - first, clipped[first][0], clipped[first][1]
            first = output


def _sum(a: Padding, b: Padding) -> Padding:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]


def _extra(padding: Padding) -> tuple[int, int]:
    """Rows and columns that padding adds."""
    top, bottom, left, right = padding
    return top + bottom, left + right
