"""Constants move into what reads them, and filters that make constants become zeros.

A channel that holds one value ``k`` adds ``(k - zero point) * sum of its weights`` to the accumulator, which
goes into the bias. Where the window reaches into padding, the border counts as the zero point instead, so
that it can only be done if ``k`` is the zero point.

No accumulator that the new operation reaches is new: what was folded is one of the int8 values that the
channel was allowed. So biases stay within 32 bits, and scales proved for all accumulators stay proved.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..network import Conv2D, Dense, DepthwiseConv2D, Int8Array, Network, Requantisation, Weighted
from .intervals import constant_channels

__all__ = ["fold_constants", "freeze"]


def fold_constants(network: Network, bounds: Mapping[str, Int8Array]) -> Network:
    """The network with constant inputs folded into biases and constant outputs frozen.

    ``bounds`` are the network's `ranges`. Shapes do not change, weights that no longer matter are 0.
    """
    operations = []
    for operation in network.operations:
        if isinstance(operation, Conv2D | Dense):
            zero_point = network.tensors[operation.inputs[0]].zero_point
            operation = _fold(operation, bounds[operation.inputs[0]], zero_point)
        if isinstance(operation, Weighted):
            output = network.tensors[operation.output]
            fixed, value = constant_channels(bounds[output.name], output.shape[-1])
            operation = freeze(operation, fixed, value - output.zero_point)
        operations.append(operation)
    return replace(network, operations=tuple(operations))


def freeze(operation: Weighted, channels: npt.NDArray[np.bool_], value: npt.ArrayLike) -> Weighted:
    """The operation with ``channels`` made constant, without weights: ``value`` more than the zero point."""
    scale = operation.requantisation
    # The filter is the last axis of a depthwise convolution's weights, the first of the others.
    last = isinstance(operation, DepthwiseConv2D)
    mask = channels if last else channels.reshape(-1, *[1] * (operation.weights.ndim - 1))
    return replace(
        operation,
        weights=np.where(mask, np.int8(0), operation.weights),
        bias=np.where(channels, value, operation.bias).astype(np.int32),
        # A scale of 1 makes the output the bias.
        requantisation=Requantisation(
            np.where(channels, np.int32(1 << 30), scale.multiplier),
            np.where(channels, np.int32(1), scale.shift),
        ),
    )


def _fold(operation: Conv2D | Dense, bounds: Int8Array, zero_point: int) -> Conv2D | Dense:
    fixed, value = constant_channels(bounds, operation.weights.shape[-1])
    if isinstance(operation, Conv2D) and any(operation.window.padding):
        fixed &= value == zero_point
    offset = np.where(fixed, value - zero_point, 0)
    # (out, ..., in) to (out, in)
    sums = operation.weights.astype(np.int64).sum(axis=tuple(range(1, operation.weights.ndim - 1)))
    return replace(
        operation,
        weights=np.where(fixed, np.int8(0), operation.weights),
        bias=(operation.bias + sums @ offset).astype(np.int32),
    )
