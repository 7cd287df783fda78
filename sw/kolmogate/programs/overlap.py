"""How decoding overlaps computing: an estimate of what programs cost in time, for searches of thousands.

Its grain is the column group. The decoder makes the constants and weights of one group after the other, and
has room for the constants of two; the array takes a group's first tile as its weights come, and the others as
they are. What `kolmogate.cycles` predicts of a whole image has the last word.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["ENGINE_START", "Pace", "pace_table", "waits"]

ENGINE_START = 1035
"""Cycles before the entropy engine makes its first row."""


class Pace(NamedTuple):
    """The array's work on a layer.

    Parameters
    ----------
    groups : int
        Column groups.
    cycles : int
        Of all of them, where nothing waits for the decoder.
    tiles : int
        Tiles of a group.
    rows : int
        Rows that the program makes.
    """

    groups: int
    cycles: int
    tiles: int
    rows: int


def pace_table(paces: Sequence[Pace]) -> npt.NDArray[np.float64]:
    """The paces of all layers as `waits` takes them, (layers, fields)."""
    return np.array(paces, np.float64).reshape(-1, len(Pace._fields))


def waits(paces: npt.NDArray[np.float64], engine: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Cycles that the array waits in each layer, if the entropy engine takes so many for its program, in so
    many of its column groups, spread evenly."""
    found: npt.NDArray[np.float64] = _waits(paces, np.array(engine, np.float64).reshape(-1, 2))
    return found


@njit(cache=True)
def _waits(paces: Any, engine: Any) -> Any:
    found = np.zeros(len(paces))
    made, done, before = 0.0, 0.0, 0.0
    for i in range(len(paces)):
        groups, cycles, tiles, rows = paces[i]
        each, (engine_cycles, coded) = cycles / groups, engine[i]
        for group in range(groups):
            made = max(made, before) + rows / groups
            if engine_cycles and coded * (group + 1) // groups > coded * group // groups:
                made = max(made, ENGINE_START) + engine_cycles / coded
            end = max(done + each, made + each - each / tiles)
            found[i] += end - done - each
            before, done = done, end
    return found
