"""Exact simplification: a smaller network with every output bit unchanged, for every input.

Trained networks hold channels that give one value whatever the input is, and channels that nothing reads.
Constants are folded into the biases of what reads them where that is exact, then what nothing reads is
dropped. Padding operations need nothing here: the schedule reads through them.
"""

import math
from collections import Counter
from dataclasses import dataclass

from ..network import DepthwiseConv2D, Network, Operation, Weighted
from .channels import drop_channels, drop_operations
from .folding import fold_constants
from .intervals import constant_channels, ranges

__all__ = ["Dropped", "Simplified", "simplify"]


@dataclass(frozen=True)
class Dropped:
    """What an operation lost, and why.

    Parameters
    ----------
    name, op : str
        The operation's name and kind.
    channels : int
        Output channels that it had.
    constant : int
        Those dropped because they held one value for every input: what reads them has it in its biases.
    unread : int
        Those dropped because nothing reads them. If it is all, the operation is gone.
    frozen : int
        Those that are constant or unread too but have to stay; their weights are zeros.
    weights, macs : int
        Weights and multiply-accumulates dropped, those of dropped input channels too.
    """

    name: str
    op: str
    channels: int
    constant: int
    unread: int
    frozen: int
    weights: int
    macs: int


@dataclass(frozen=True)
class Simplified:
    """A simplified network, and what each operation lost, in order; those that lost nothing are left out."""

    network: Network
    dropped: tuple[Dropped, ...]


def simplify(network: Network) -> Simplified:
    """The smallest network that these passes find; its input, its output and every output bit are the same.

    A round that drops nothing is the last. The first finds all but a few: with one input left, the outputs
    of a depthwise convolution no longer depend on each other.
    """
    small = drop_operations(network)
    small.check()
    constant = Counter[str]()
    while True:
        bounds = ranges(small)
        small = fold_constants(small, bounds)
        small.check()
        small, kept = drop_channels(small)
        small.check()
        for name, mask in kept.items():
            constant[name] += int((constant_channels(bounds[name], mask.size)[0] & ~mask).sum())
        if all(mask.all() for mask in kept.values()):
            break
    left = {operation.output: operation for operation in small.operations}
    lost = (
        _compare(network, operation, small, left.get(operation.output), constant[operation.output])
        for operation in network.operations
    )
    return Simplified(
        small, tuple(one for one in lost if one.constant or one.unread or one.frozen or one.weights)
    )


def _compare(
    before: Network, operation: Operation, after: Network, left: Operation | None, constant: int
) -> Dropped:
    """What ``operation`` lost to become ``left``, None if it is gone."""
    channels = before.tensors[operation.output].shape[-1]
    now = after.tensors[left.output].shape[-1] if left else 0
    (weights, macs), (live_weights, live_macs) = _cost(before, operation), _cost(after, left)
    return Dropped(
        name=operation.name,
        op=operation.kind,
        channels=channels,
        constant=constant,
        unread=channels - now - constant,
        frozen=_zero_filters(left),
        weights=weights - live_weights,
        macs=macs - live_macs,
    )


def _cost(network: Network, operation: Operation | None) -> tuple[int, int]:
    """Weights and multiply-accumulates."""
    if not isinstance(operation, Weighted):
        return 0, 0
    weights = operation.weights.size
    return weights, weights * math.prod(network.tensors[operation.output].shape[:-1])


def _zero_filters(operation: Operation | None) -> int:
    if not isinstance(operation, Weighted):
        return 0
    axes = (0, 1) if isinstance(operation, DepthwiseConv2D) else tuple(range(1, operation.weights.ndim))
    return int((~operation.weights.any(axis=axes)).sum())
