"""Channels that nothing reads are dropped, with the filters that make them.

Most operations work channel by channel, so that a channel can only be dropped in all the tensors around one
at once: both operands of an addition and its sum, a depthwise convolution's input and output. Convolutions
and dense layers end such a chain: what they read and what they make are dropped apart.
"""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..network import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Network,
    Operation,
    Requantisation,
    Reshape,
    Softmax,
    Weighted,
)
from .folding import freeze

__all__ = ["drop_channels", "drop_operations"]

Mask = npt.NDArray[np.bool_]


def drop_operations(network: Network) -> Network:
    """The network without operations whose output nothing reads."""
    read, operations = {network.output}, list[Operation]()
    for operation in reversed(network.operations):
        if operation.output in read:
            operations.insert(0, operation)
            read.update(operation.inputs)
    tensors = {name: tensor for name, tensor in network.tensors.items() if name in read | {network.input}}
    return replace(network, tensors=tensors, operations=tuple(operations))


def drop_channels(network: Network) -> tuple[Network, dict[str, Mask]]:
    """The network without channels that nothing reads, and which channels of each tensor were kept.

    The network's input and output keep their shapes, and every tensor keeps a channel. A channel that nothing
    reads but that has to stay is made without weights where it can be.
    """
    needed = _needed(network)
    kept = _kept(network, needed)
    operations = []
    for operation in network.operations:
        if isinstance(operation, Weighted):
            operation = freeze(operation, ~needed[operation.output], 0)
        operations.append(_slice(operation, kept[operation.inputs[0]], kept[operation.output]))
    tensors = {
        name: replace(tensor, shape=(*tensor.shape[:-1], int(kept[name].sum())))
        for name, tensor in network.tensors.items()
    }
    return replace(network, tensors=tensors, operations=tuple(operations)), kept


def _needed(network: Network) -> dict[str, Mask]:
    """The channels of each tensor whose values reach the output."""
    needed = {name: np.zeros(tensor.shape[-1], bool) for name, tensor in network.tensors.items()}
    needed[network.output][:] = True
    for operation in reversed(network.operations):
        made = needed[operation.output]
        channels = needed[operation.inputs[0]].size
        match operation:
            case Conv2D():
                read = operation.weights[made].any(axis=(0, 1, 2))
            case Dense():
                read = operation.weights[made].any(axis=0).reshape(-1, channels).any(axis=0)
            case DepthwiseConv2D():
                read = (operation.weights.any(axis=(0, 1)) & made).reshape(channels, -1).any(axis=1)
            case Softmax():
                read = np.full(channels, made.any())
            case _:
                (_, inputs), *_, (_, outputs) = _groups(operation, needed)
                read = np.isin(inputs, outputs[made])
        for name in operation.inputs:
            needed[name] |= read
    return needed


def _kept(network: Network, needed: dict[str, Mask]) -> dict[str, Mask]:
    """The channels of each tensor that must stay: those needed, and those that go with them."""
    kept = {name: mask.copy() for name, mask in needed.items()}
    kept[network.input][:] = True
    for mask in kept.values():
        mask[0] |= not mask.any()
    before = -1
    while (count := sum(int(mask.sum()) for mask in kept.values())) > before:
        before = count
        for operation in network.operations:
            linked = _groups(operation, kept)
            live = {int(group) for name, groups in linked for group in groups[kept[name]]}
            for name, groups in linked:
                kept[name] = np.isin(groups, list(live))
    return kept


def _groups(operation: Operation, channels: dict[str, Mask]) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """A group number for each channel of the inputs and of the output; groups are kept or dropped whole.

    Empty where inputs and outputs do not depend on each other.
    """
    source, made = channels[operation.inputs[0]].size, channels[operation.output].size
    match operation:
        case Conv2D() | Dense():
            return []
        case DepthwiseConv2D():
            # Any number of outputs is a multiple of one input.
            if source == 1:
                return []
            inputs, outputs = np.arange(source), np.arange(made) // (made // source)
        case Reshape():
            # Element e is of channel e % source before and e % made after: the same elements go.
            period = math.gcd(source, made)
            inputs, outputs = np.arange(source) % period, np.arange(made) % period
        case _:
            inputs = outputs = np.arange(source)
    return [*((name, inputs) for name in operation.inputs), (operation.output, outputs)]


def _slice(operation: Operation, source: Mask, made: Mask) -> Operation:
    """The operation on the channels kept of its input and output."""
    match operation:
        case Conv2D():
            weights = operation.weights[made][..., source]
        case Dense():
            # A flattened image repeats its channels at every position.
            weights = operation.weights[made][:, np.resize(source, operation.weights.shape[1])]
        case DepthwiseConv2D():
            weights = operation.weights[..., made]
        case _:
            return operation
    scale = operation.requantisation
    return replace(
        operation,
        weights=weights,
        bias=operation.bias[made],
        requantisation=Requantisation(scale.multiplier[made], scale.shift[made]),
    )
