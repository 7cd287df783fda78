"""Channels in another order, where what reads them absorbs it: the order of their scales.

In which order a layer makes its channels is of no account to a network whose other operations follow. The
constants of a program are fewer bytes where those of neighbouring channels are alike: sorted by scale, shifts
and the highest bits of multipliers hardly differ from one channel to the next.
"""

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

__all__ = ["reorder"]

Order = npt.NDArray[np.int64]


def reorder(network: Network) -> tuple[Network, tuple[str, ...]]:
    """``network`` with the channels of its inner tensors in ascending order of their scales, and the names of
    the operations that make them in another order than before.

    Its input, its output and every output bit are the same. Tensors that have to keep one order together, as
    operands of an addition do, have that of the last operation with weights that makes one of them.
    """
    orders: dict[str, Order] = {}
    for members in _free(network):
        makers = [one for one in network.operations if isinstance(one, Weighted) and one.output in members]
        if makers:
            scale = makers[-1].requantisation
            size = scale.shift + np.log2(np.maximum(scale.multiplier, 1))
            orders |= dict.fromkeys(members, np.argsort(size, kind="stable"))

    def of(name: str) -> Order:
        return orders.get(name, np.arange(network.tensors[name].shape[-1]))

    for operation in network.operations:
        if operation.output not in orders and _absorbed(network, operation):
            made = network.tensors[operation.output].shape[-1]
            orders[operation.output] = _at_every_position(of(operation.inputs[0]), made)
    operations = tuple(_permuted(one, of(one.inputs[0]), of(one.output)) for one in network.operations)
    moved = tuple(
        one.name
        for one in network.operations
        if isinstance(one, Weighted) and np.any(np.diff(of(one.output)) != 1)
    )
    return replace(network, operations=operations), moved


def _free(network: Network) -> list[frozenset[str]]:
    """Sets of tensors that have their channels in one order, whatever it is."""
    together = {name: frozenset([name]) for name in network.tensors}
    fixed = {network.input, network.output}
    for operation in network.operations:
        names = [*operation.inputs, operation.output]
        channels = {network.tensors[name].shape[-1] for name in names}
        if isinstance(operation, Conv2D | Dense):
            continue
        if isinstance(operation, Softmax) or (len(channels) > 1 and not _absorbed(network, operation)):
            fixed.update(names)
        elif len(channels) == 1:
            members = frozenset().union(*(together[name] for name in names))
            together |= dict.fromkeys(members, members)
    return [members for members in set(together.values()) if not members & fixed]


def _absorbed(network: Network, operation: Operation) -> bool:
    """Whether an operation flattens an image for dense layers alone."""
    image, flat = (network.tensors[name].shape[-1] for name in (operation.inputs[0], operation.output))
    readers = [one for one in network.operations if operation.output in one.inputs]
    return (
        isinstance(operation, Reshape)
        and flat % image == 0
        and operation.output != network.output
        and all(isinstance(one, Dense) for one in readers)
    )


def _at_every_position(order: Order, count: int) -> Order:
    """The order of all ``count`` values of an image whose channels are in this one."""
    positions = np.arange(0, count, len(order))
    result: Order = (positions[:, np.newaxis] + order).ravel()
    return result


def _permuted(operation: Operation, source: Order, made: Order) -> Operation:
    """The operation with its input's and its output's channels in these orders."""
    match operation:
        case Conv2D():
            weights = operation.weights[made][..., source]
        case Dense():
            weights = operation.weights[made][:, _at_every_position(source, operation.weights.shape[1])]
        case DepthwiseConv2D():
            weights = operation.weights[..., made]
        case _:
            return operation
    scale = operation.requantisation
    return replace(
        operation,
        weights=np.ascontiguousarray(weights),
        bias=operation.bias[made],
        requantisation=Requantisation(scale.multiplier[made], scale.shift[made]),
    )
