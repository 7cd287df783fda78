"""The channels of a network in an order whose programs are short, found by trying.

In which order a layer makes its channels is of no account to the network's outputs, but the entropy coder
expects numbers like those before: neighbours that are alike take fewer bytes.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..compiler import materials
from ..config import MachineConfig
from ..network import Conv2D, Dense, Network
from ..parameters import program_rows
from ..programs.search import NOTHING, Choice, Material, Writer

__all__ = ["shortest_order"]

CODED = Choice(records=True, weights=True, references=NOTHING)

Order = NDArray[np.int64]


def shortest_order(network: Network, config: MachineConfig, tries: int, seed: int) -> Network:
    """``network`` with the channels between its layers in the best of so many random orders, each a move of
    one channel or an exchange of two away from the best before.

    It is a chain of convolutions and dense layers, perhaps with poolings between them, without channels that
    `kolmogate.simplify` drops.
    """
    every = materials(network, config)
    layers = [_Layer(one) for one in every if one.weights.any()]
    weighted = [one for one in network.operations if isinstance(one, Conv2D | Dense)]
    assert len(layers) == len(weighted)

    def bits(orders: Sequence[Order]) -> int:
        writer, rest, source = Writer(config.columns), iter(zip(layers, orders, strict=True)), None
        total = 0
        for material in every:
            if material.weights.any():
                layer, order = next(rest)
                material = layer.ordered(source, order, config.columns)
                source = order
            total += sum(writer.layer(material, CODED))
        return total

    rng = np.random.default_rng(seed)
    unmoved = [np.arange(len(one.bias)) for one in weighted]
    least, best = bits(unmoved), unmoved
    for _ in tqdm(range(tries if len(layers) > 1 else 0), desc="order", leave=False):
        index = rng.integers(len(layers) - 1)
        order = best[index].copy()
        a, b = rng.integers(len(order), size=2)
        if rng.random() < 0.5:
            order[[a, b]] = order[[b, a]]
        else:
            order = np.insert(np.delete(order, a), b, order[a])
        orders = [*best[:index], order, *best[index + 1 :]]
        if (length := bits(orders)) <= least:
            least, best = length, orders
    return _reordered(network, best)


class _Layer:
    """What the program of a layer makes, by channel."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.records = np.concatenate(material.records)
        taps = material.weights.shape[1]
        self.filters = material.weights.transpose(0, 2, 1).reshape(-1, taps)[: material.channels]

    def ordered(self, source: Order | None, made: Order, columns: int) -> Material:
        """With its input's and its output's channels in these orders."""
        weights = program_rows(_ordered(self.filters, source, made), columns)
        records = self.records[made]
        blocks = tuple(records[start : start + columns] for start in range(0, len(records), columns))
        return replace(self.material, weights=weights, records=blocks)


def _ordered(filters: NDArray[np.int8], source: Order | None, made: Order) -> NDArray[np.int8]:
    """Filters (channels, taps), whose taps end with the input's channels."""
    filters = filters[made]
    if source is not None:
        filters = filters.reshape(len(filters), -1, len(source))[..., source].reshape(filters.shape)
    return np.ascontiguousarray(filters)


def _reordered(network: Network, orders: Sequence[Order]) -> Network:
    operations, rest, source = [], iter(orders), None
    for one in network.operations:
        if isinstance(one, Conv2D | Dense):
            made, scale = next(rest), one.requantisation
            filters = _ordered(one.weights.reshape(len(one.weights), -1), source, made)
            one = replace(
                one,
                weights=filters.reshape(one.weights.shape),
                bias=one.bias[made],
                requantisation=replace(scale, multiplier=scale.multiplier[made], shift=scale.shift[made]),
            )
            source = made
        operations.append(one)
    return replace(network, operations=tuple(operations))
