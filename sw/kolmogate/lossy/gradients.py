"""Gradients of a network's output in the sums of its layers, for how much an error there matters.

Backward through the integer network as if it were real: roundings are passed through, what is clamped is
not. Values are in stored steps of their tensors.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..network import (
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Int8Array,
    MaxPool2D,
    Mean,
    Network,
    Operation,
    Pad,
    Relu,
    Requantisation,
    Reshape,
    Weighted,
    Window,
)

__all__ = ["gradients", "real_scales"]

FloatArray = npt.NDArray[np.float32]


def real_scales(requantisation: Requantisation) -> npt.NDArray[np.float64]:
    """The factor of each channel, output steps for one of the accumulator."""
    multiplier = requantisation.multiplier.astype(np.float64)
    result: npt.NDArray[np.float64] = np.ldexp(multiplier, requantisation.shift.astype(np.int64) - 31)
    return result


def gradients(
    network: Network, values: dict[str, Int8Array], tensor: str, probe: npt.NDArray[np.float64]
) -> dict[str, FloatArray]:
    """The gradient of ``(probe * tensor).sum()`` in what each operation with weights makes, by tensor name.

    ``values`` are those of all tensors for a batch of inputs, ``probe`` (batch, values of ``tensor``). The
    gradients, (batch, *output shape), are in the scaled sum before it is clamped; with them comes that in the
    network's input.
    """
    flowing: dict[str, FloatArray] = {tensor: probe.astype(np.float32).reshape(values[tensor].shape)}
    found = {}
    for operation in reversed(network.operations):
        if operation.output not in flowing:
            continue
        gradient = flowing.pop(operation.output)
        made = values[operation.output]
        if isinstance(operation, Weighted | Add | Relu | AveragePool2D | MaxPool2D):
            low, high = operation.clamp
            gradient = gradient * ((made > low) & (made < high))
        if isinstance(operation, Weighted):
            found[operation.output] = gradient
        for name, part in zip(operation.inputs, _back(network, operation, values, gradient), strict=True):
            flowing[name] = flowing[name] + part if name in flowing else part
    if network.input in flowing:
        found[network.input] = flowing[network.input]
    return found


def _back(
    network: Network, operation: Operation, values: dict[str, Int8Array], gradient: FloatArray
) -> list[FloatArray]:
    """The gradient in each input of one operation."""
    source, output = network.tensors[operation.inputs[0]], network.tensors[operation.output]
    x = values[operation.inputs[0]]
    ratio = np.float32(source.scale / output.scale)
    match operation:
        case Conv2D():
            weights = _scaled(operation.weights, operation.requantisation, 0)
            return [_spread(operation.window, x, lambda y, x, _: gradient @ weights[:, y, x])]
        case DepthwiseConv2D():
            weights = _scaled(operation.weights, operation.requantisation, 2)
            parts = (*x.shape[-1:], -1)
            return [
                _spread(
                    operation.window,
                    x,
                    lambda y, x, _: (gradient * weights[y, x]).reshape(*gradient.shape[:3], *parts).sum(-1),
                )
            ]
        case Dense():
            weights = _scaled(operation.weights, operation.requantisation, 0)
            return [(gradient.reshape(-1, len(weights)) @ weights).reshape(x.shape)]
        case Add():
            scales = [network.tensors[name].scale / output.scale for name in operation.inputs]
            return [gradient * np.float32(scale) for scale in scales]
        case AveragePool2D():
            share = gradient / np.float32(np.prod(operation.window.size))
            return [_spread(operation.window, x, lambda *_: share)]
        case MaxPool2D():
            made = values[operation.output]
            return [_spread(operation.window, x, lambda y, x, read: gradient * (read == made))]
        case Mean():
            kept = [1 if axis in operation.axes else size for axis, size in enumerate(x.shape[1:])]
            share = gradient.reshape(-1, *kept) * ratio * np.float32(gradient.size / x.size)
            return [np.broadcast_to(share, x.shape)]
        case Pad():
            top, _, left, _ = operation.padding
            return [gradient[:, top : top + x.shape[1], left : left + x.shape[2]]]
        case Reshape():
            return [gradient.reshape(x.shape)]
        case Relu():
            return [gradient * ratio]
    raise InputError(
        f"lossy compression cannot see through {operation.kind} {operation.name!r}: leave out --max-loss"
    )


def _scaled(weights: Int8Array, requantisation: Requantisation, axis: int) -> FloatArray:
    """Weights in output steps for an input step; ``axis`` is that of the channels."""
    shape = [1] * weights.ndim
    shape[axis] = -1
    return weights * real_scales(requantisation).astype(np.float32).reshape(shape)


def _spread(window: Window, x: Int8Array, tap: Callable[[int, int, Int8Array], FloatArray]) -> FloatArray:
    """The sum over a window's taps of ``tap(row, column, values read there)``, each where it was read."""
    (top, bottom, left, right), (down, across) = window.padding, window.stride
    padding = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(x, padding, constant_values=-128)
    total = np.zeros(padded.shape, np.float32)
    height, width = window.output_size(*x.shape[1:3])
    for row, column in np.ndindex(*window.size):
        place = (
            slice(None),
            slice(row, row + down * (height - 1) + 1, down),
            slice(column, column + across * (width - 1) + 1, across),
        )
        total[place] += tap(row, column, padded[place])
    return total[:, top : top + x.shape[1], left : left + x.shape[2]]
