"""What values each activation can take: intervals over all inputs, element by element.

Every operation but SOFTMAX rises (or falls, where a weight is negative) with each of its inputs, so that the
golden model itself, run on least and greatest inputs, gives the least and greatest outputs. Padding is
where it is, so that an interval holds at the border as well as inside.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .. import golden
from ..network import Conv2D, Dense, DepthwiseConv2D, Int8Array, Network, Operation, Softmax, Tensor

__all__ = ["constant_channels", "ranges"]


def ranges(network: Network) -> dict[str, Int8Array]:
    """Bounds (2, *shape) of each tensor, by name: no input gives less than the first or more than the second.

    The network's input may hold anything.
    """
    bounds = {network.input: _anything(network.tensors[network.input])}
    for operation in network.operations:
        inputs = [network.tensors[name] for name in operation.inputs]
        output = network.tensors[operation.output]
        bounds[operation.output] = _range(
            operation, [bounds[name] for name in operation.inputs], inputs, output
        )
    return bounds


def constant_channels(
    bounds: Int8Array, channels: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Which channels hold one value everywhere, for every input, and that value; both (channels,).

    ``channels`` may be any length of rows that the tensor can be read in.
    """
    rows = bounds.reshape(-1, channels).astype(np.int64)
    low, high = rows.min(axis=0), rows.max(axis=0)
    return low == high, low


def _anything(tensor: Tensor) -> Int8Array:
    return np.stack([np.full(tensor.shape, end, np.int8) for end in (-128, 127)])


def _range(operation: Operation, bounds: list[Int8Array], inputs: list[Tensor], output: Tensor) -> Int8Array:
    match operation:
        case Softmax():
            return _anything(output)
        case Conv2D() | DepthwiseConv2D() | Dense():
            # A negative weight makes least of the greatest input.
            rising = replace(operation, weights=operation.weights.clip(min=0))
            falling = replace(
                operation, weights=operation.weights.clip(max=0), bias=np.zeros_like(operation.bias)
            )
            sums = golden.accumulate(rising, bounds[0], inputs[0], output)
            sums += golden.accumulate(falling, bounds[0][::-1], inputs[0], output)
            return golden.finish(operation, sums, output)
        case _:
            return golden.evaluate(operation, bounds, inputs, output)
