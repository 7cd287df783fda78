"""The axis along which a layer's output positions are walked: along lines, or down.

With two scratchpad ports the array's rows share words where their windows lie on one line of the walk, one or
two words apart. Walking down, strides and kernels change their roles with their axes, and so do the ends of
lines: the better axis is that with fewer visits.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from .config import MachineConfig
from .network import DepthwiseConv2D

__all__ = ["MAXIMUM_APART", "least_visits", "turn", "visits"]

MAXIMUM_APART = 2
"""Words from a window to the next, up to which rows share them."""

PAIR = 2
"""Rows that share words; a port fetches for one pair."""


def visits(fields: Mapping[str, int], config: MachineConfig) -> int:
    """Cycles that visits take for a column group of a layer in word mode, with these descriptor fields."""
    lines, words = fields["outer_count"], fields["inner_count"]
    positions = fields["x_count"] * fields["y_count"]
    if config.scratchpad_ports == 1:
        return lines * words * positions
    first = np.arange(0, positions, config.rows)
    alone = words * np.minimum(PAIR, positions - first)
    steps = range(1, MAXIMUM_APART + 1)
    apart = next((step for step in steps if fields["input_step"] == step * fields["inner_step"]), None)
    if apart is None or lines == words == 1:
        return lines * int(alone.sum())
    # Tiles with all rows, no line ending within a pair.
    together = first + config.rows <= positions
    for row in range(0, config.rows, PAIR):
        together &= (first + row) % fields["x_count"] != fields["x_count"] - 1
    return lines * int(np.where(together, words + apart, alone).sum())


def least_visits(size: tuple[int, int], apart: tuple[int, int], config: MachineConfig) -> int:
    """Those of a tile that shares words where it can, along the better axis.

    Windows have ``size`` words down and across, and from one to the next below or beside it are ``apart``.
    """
    if config.scratchpad_ports == 1:
        return size[0] * size[1] * config.rows
    return min(
        lines * (words + (distance if distance <= MAXIMUM_APART else words))
        for lines, words, distance in ((size[1], size[0], apart[0]), (size[0], size[1], apart[1]))
    )


def turn(operation: DepthwiseConv2D) -> DepthwiseConv2D:
    """The operation with its kernels' axes exchanged, as it is where positions are walked down."""
    return replace(operation, weights=operation.weights.transpose(1, 0, 2))
