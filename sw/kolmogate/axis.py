"""The axis along which a layer's output positions are walked: along lines, or down.

With two scratchpad ports the array's rows share words where their windows lie on one line of the walk, one or
two words apart. Walking down, strides and kernels change their roles with their axes, and so do the ends of
lines: the better axis is that with fewer visits.
"""

from collections.abc import Mapping
from dataclasses import replace

from .config import MachineConfig
from .network import DepthwiseConv2D

__all__ = [
    "FOUR",
    "FOUR_WORDS",
    "MAXIMUM_APART",
    "PAIR",
    "four_share",
    "least_visits",
    "shares",
    "turn",
    "visits",
    "words_apart",
]

MAXIMUM_APART = 2
"""Words from a window to the next, up to which rows share them."""

PAIR = 2
"""Rows that share words; a port fetches for one pair."""

FOUR_WORDS = 3
"""Words across a window that all four rows of a tile share, where lines are whole tiles."""

FOUR = (
    ((0b0001, 0b1110), (0b0011, 0b1100), (0b0111, 0b1000)),
    ((0b0001, 0b0110), (0b0001, 0b0100), (0b0011, 0b1100), (0b0010, 0b1000), (0b0000, 0b1000)),
)
"""Their visits of a line where windows are one word apart, and two: in each cycle, the rows that one of its
first words is for, and meanwhile on the other port one of the last words of the line before. So each row gets
its words in order, and no two at once."""


def words_apart(fields: Mapping[str, int]) -> int | None:
    """Words from a window of a layer in word mode to its neighbour's on a line, if rows can share them."""
    if not fields["word_mode"] or fields["outer_count"] == fields["inner_count"] == 1:
        return None
    steps = range(MAXIMUM_APART, 0, -1)
    return next((step for step in steps if fields["input_step"] == step * fields["inner_step"]), None)


def shares(fields: Mapping[str, int], first: int, rows: int) -> bool:
    """Whether the tile from position ``first`` on has all rows of its pairs, and no line ends within one."""
    live = min(rows, fields["x_count"] * fields["y_count"] - first)
    ends = ((first + row) % fields["x_count"] == fields["x_count"] - 1 for row in range(0, live, PAIR))
    return live % PAIR == 0 and not any(ends)


def four_share(fields: Mapping[str, int], first: int, rows: int) -> bool:
    """Whether all rows of the tile from position ``first`` on share words: on one line, and where windows are
    two words apart only if every tile is, as changes from one kind of tile to another cost time."""
    apart, line = words_apart(fields), fields["x_count"]
    if apart is None or fields["inner_count"] != FOUR_WORDS:
        return False
    return first % line + rows <= line and (apart == 1 or line % rows == 0)


def visits(fields: Mapping[str, int], config: MachineConfig) -> int:
    """Cycles that visits take for a column group of a layer in word mode, with these descriptor fields."""
    lines, words = fields["outer_count"], fields["inner_count"]
    positions = fields["x_count"] * fields["y_count"]
    if config.scratchpad_ports == 1:
        return lines * words * positions
    fields = {**fields, "word_mode": 1}
    apart = words_apart(fields)
    if apart is None:
        full, rest = divmod(positions, config.rows)
        return lines * words * (full * PAIR + min(PAIR, rest))
    total, behind = 0, 0
    for first in range(0, positions, config.rows):
        if four_share(fields, first, config.rows):
            behind = len(FOUR[apart - 1])
            total += lines * behind
            continue
        if behind:
            # The line that one port is behind comes first, and the change takes a cycle.
            total, behind = total + behind + 1, 0
        if shares(fields, first, config.rows):
            total += lines * (words + apart)
        else:
            total += lines * words * min(PAIR, positions - first)
    return total + behind


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
