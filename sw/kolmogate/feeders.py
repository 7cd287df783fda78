"""What the rows of the array are given where a descriptor's runs are not alike, visit by visit.

In an image every row gets as many activations from a run as the next one. A run of no bytes, or word mode at
addresses between words, may give rows different numbers of them, which then wait for each other. This plays
the window fetcher's visits in its order, and the words that wait in front of each row. Of time it knows
nothing, and need not: who waits for whom depends on order and room alone.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .config import MachineConfig
from .isa import ADDRESS_BITS, WORD_GRAIN
from .network import Int8Array

__all__ = ["FEEDER_DEPTH", "Feeders", "Starved", "is_even", "positions"]

FEEDER_DEPTH = 8
"""Words that a row's feeder holds; the window fetcher counts its credits with it."""

Int64Array = npt.NDArray[np.int64]


class Starved(Exception):
    """The array waits for ever, or for too long."""


@dataclass
class _Word:
    """A word in front of a row, as `kolmogate_hw.feeder.RunLayout`; ``place`` is that of the next byte."""

    content: Int8Array
    place: int
    last: int
    window_end: bool = False


def is_even(fields: Mapping[str, int], columns: int) -> bool:
    """Whether each run of an ARRAY descriptor gives all rows its ``run`` bytes, or in word mode one word."""
    if not fields["word_mode"]:
        return fields["run"] > 0
    addresses = ("input_base", "input_step", "input_wrap", "outer_wrap", "inner_step")
    return 0 < fields["run"] <= columns and not any(fields[name] % WORD_GRAIN for name in addresses)


def positions(fields: Mapping[str, int], prefix: str) -> Int64Array:
    """Address of each output position, in raster order, in the input or the output."""
    step, wrap, x_count = fields[f"{prefix}_step"], fields[f"{prefix}_wrap"], fields["x_count"]
    y, x = np.divmod(np.arange(x_count * fields["y_count"]), x_count)
    return fields[f"{prefix}_base"] + x * step + y * ((x_count - 1) * step + wrap)


def runs(fields: Mapping[str, int]) -> Int64Array:
    """How far behind a window's first byte each of its runs begins."""
    outer_step = fields["outer_wrap"] + (fields["inner_count"] - 1) * fields["inner_step"]
    outer = np.arange(fields["outer_count"]) * outer_step
    inner = np.arange(fields["inner_count"]) * fields["inner_step"]
    return (outer[:, np.newaxis] + inner).ravel()


class Feeders:
    """The words in front of the rows. Some may be left over from one layer to the next."""

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._rows: list[deque[_Word]] = [deque() for _ in range(config.rows)]

    @property
    def empty(self) -> bool:
        return not any(self._rows)

    def tiles(self, fields: Mapping[str, int], memory: Int8Array, limit: int) -> Iterator[Int8Array]:
        """The activations of each tile of a layer: (taps, rows), or (taps, rows, columns) in word mode.

        ``memory`` is looked at when the fetcher comes by. Raises `Starved` where no further tile is finished,
        or not within ``limit`` visits.
        """
        tile: list[Int8Array] = []
        for visit in self._visits(fields, memory, limit):
            while any(len(self._rows[row]) == FEEDER_DEPTH for row, _ in visit):
                if not all(self._rows):
                    raise Starved
                if self._step(tile, fields["word_mode"]):
                    yield np.array(tile)
                    tile.clear()
            for row, word in visit:
                self._rows[row].append(word)
        while all(self._rows):
            if self._step(tile, fields["word_mode"]):
                yield np.array(tile)
                tile.clear()
        raise Starved

    def _step(self, tile: list[Int8Array], word_mode: int) -> bool:
        """A tap, from each row's head; whether the tile is finished with it, which the last row says."""
        taken, end = [], False
        for row in self._rows:
            head = row[0]
            taken.append(head.content if word_mode else head.content[head.place])
            at_last = bool(word_mode) or head.place == head.last
            end = at_last and head.window_end
            head.place = (head.place + 1) % self._config.columns
            if at_last:
                row.popleft()
        tile.append(np.array(taken, np.int8))
        return end

    def _visits(
        self, fields: Mapping[str, int], memory: Int8Array, limit: int
    ) -> Iterator[list[tuple[int, _Word]]]:
        """What the fetcher asks for in a cycle: words, and the rows that they go to."""
        rows, lanes = self._config.rows, self._config.scratchpad_ports
        windows, offsets = positions(fields, "input"), runs(fields)
        for group in range(0, fields["channels"], self._config.columns):
            for first in range(0, len(windows), rows):
                bases = windows[first : first + rows] + (group if fields["word_mode"] else 0)
                for index, offset in enumerate(offsets):
                    last_run, left, more = index == len(offsets) - 1, fields["run"], True
                    while more:
                        more = False
                        for step in range(0, len(bases), lanes):
                            limit -= 1
                            if limit < 0:
                                raise Starved
                            visit = []
                            for row in range(step, min(step + lanes, len(bases))):
                                word, further = self._word(
                                    memory, int(bases[row] + offset), fields["run"], left
                                )
                                more = more or further
                                if word is None:
                                    continue
                                word.window_end = last_run and not further
                                # The last row with a position speaks for those beyond it.
                                through = rows if row == len(bases) - 1 else row + 1
                                visit += [(target, replace(word)) for target in range(row, through)]
                            yield visit
                        left -= self._config.columns

    def _word(self, memory: Int8Array, address: int, run: int, left: int) -> tuple[_Word | None, bool]:
        """The word of a run from ``address`` on for which so many of its bytes are ``left``, or none, and
        whether another one follows."""
        columns = self._config.columns
        skip = address % WORD_GRAIN
        here = left + skip
        if here <= 0:
            return None, False
        start = address - skip + run - left
        addresses = (start + np.arange(columns)) % (1 << ADDRESS_BITS) % len(memory)
        last = columns - 1 if here > columns else (here - 1) % columns
        return _Word(memory[addresses], skip if left == run else 0, last), here > columns
