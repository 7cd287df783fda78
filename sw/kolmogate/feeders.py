"""What the rows of the array are given where a descriptor's runs are not alike, visit by visit.

In an image every row gets as many activations from a run as the next one. A run of no bytes, or word mode at
addresses between words, may give rows different numbers of them, which then wait for each other. This plays
the window fetcher's visits in its order, and the words that wait in front of each row. Of time it knows
nothing, and need not: who waits for whom depends on order and room alone.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .axis import FOUR, PAIR, four_share, shares, words_apart
from .config import MachineConfig
from .isa import ADDRESS_BITS, WORD_GRAIN, wrap_of

__all__ = ["Feeders", "Starved", "is_even", "positions", "tile_reads", "tile_writes"]

Int64Array = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class Starved(Exception):
    """The array waits for ever, or for too long."""


@dataclass
class _Word:
    """A word in front of a row, as `kolmogate_hw.feeder.RunLayout`; ``place`` is that of the next byte."""

    content: Bytes
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
    step, wrap, x_count = fields[f"{prefix}_step"], wrap_of(fields, prefix), fields["x_count"]
    y, x = np.divmod(np.arange(x_count * fields["y_count"]), x_count)
    return fields[f"{prefix}_base"] + x * step + y * ((x_count - 1) * step + wrap)


def tile_reads(fields: Mapping[str, int], columns: int, tile: slice) -> Int64Array:
    """Scratchpad words that hold what the first column group reads for the positions of ``tile``."""
    run = columns if fields["word_mode"] else fields["run"]
    starts = positions(fields, "input")[tile, np.newaxis] + runs(fields)
    return _words(starts.ravel(), run, columns)


def tile_writes(fields: Mapping[str, int], columns: int, tile: slice) -> Int64Array:
    """Scratchpad words that the last column group writes to for the positions of ``tile``."""
    group = (fields["channels"] - 1) // columns * columns
    starts = positions(fields, "output")[tile] + group
    return _words(starts, fields["channels"] - group, columns)


def _words(starts: Int64Array, size: int, columns: int) -> Int64Array:
    """The words that ``size`` bytes from each of the addresses on lie in."""
    ends = np.arange(0, size + columns - 1, columns)
    touched = np.minimum(starts[:, np.newaxis] + ends, starts[:, np.newaxis] + size - 1)
    return np.unique(touched % (1 << ADDRESS_BITS) // columns)


def runs(fields: Mapping[str, int]) -> Int64Array:
    """How far behind a window's first byte each of its runs begins."""
    outer_step = fields["outer_wrap"] + (fields["inner_count"] - 1) * fields["inner_step"]
    outer = np.arange(fields["outer_count"]) * outer_step
    inner = np.arange(fields["inner_count"]) * fields["inner_step"]
    return (outer[:, np.newaxis] + inner).ravel()


class _Visit(NamedTuple):
    """A word of a line that all rows share, and those (bits) that it is for."""

    address: int
    rows: int
    window_end: bool = False


def _line(fields: Mapping[str, int], start: int) -> tuple[list[_Visit], list[_Visit]]:
    """The visits of a line from ``start`` on: those of the first port, and then those of the second."""
    parts: tuple[list[_Visit], list[_Visit]] = ([], [])
    word = 0
    for port, part in enumerate(parts):
        for both in FOUR[(words_apart(fields) or 1) - 1]:
            part.append(_Visit(start + word * fields["inner_step"], both[port]))
            word += both[port] != 0
    return parts


class Feeders:
    """The words in front of the rows. Some may be left over from one layer to the next."""

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._rows: list[deque[_Word]] = [deque() for _ in range(config.rows)]

    @property
    def empty(self) -> bool:
        return not any(self._rows)

    def tiles(self, fields: Mapping[str, int], memory: Bytes, limit: int) -> Iterator[Bytes]:
        """The activations of each tile of a layer: (taps, rows), or (taps, rows, columns) in word mode.

        ``memory`` is looked at when the fetcher comes by. Raises `Starved` where no further tile is finished,
        or not within ``limit`` visits.
        """
        tile: list[Bytes] = []
        for visit in self._visits(fields, memory):
            limit -= 1
            if limit < 0:
                raise Starved
            while any(len(self._rows[row]) == self._config.feeder_depth for row, _ in visit):
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

    def _step(self, tile: list[Bytes], word_mode: int) -> bool:
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
        tile.append(np.array(taken, np.uint8))
        return end

    def _visits(self, fields: Mapping[str, int], memory: Bytes) -> Iterator[list[tuple[int, _Word]]]:
        """What the fetcher asks for in a cycle: words, and the rows that they go to."""
        config, run = self._config, fields["run"]
        windows = positions(fields, "input")
        # Visits of the second port that are left of a line that all rows share.
        behind: list[_Visit] = []
        for group in range(0, fields["channels"], config.columns):
            for first in range(0, len(windows), config.rows):
                bases = windows[first : first + config.rows] + (group if fields["word_mode"] else 0)
                if config.scratchpad_ports == PAIR and four_share(fields, first, config.rows):
                    for offset in runs(fields)[:: fields["inner_count"]]:
                        ahead, following = _line(fields, int(bases[0] + offset))
                        for k, shared in enumerate(ahead):
                            both = [shared, *behind[k : k + 1]]
                            yield [pair for one in both for pair in self._shared(memory, one)]
                        behind = following
                    behind[-1] = behind[-1]._replace(window_end=True)
                    continue
                yield from (self._shared(memory, one) for one in behind)
                behind = []
                for last_run, passes in self._passes(fields, bases, first):
                    left, more = run, True
                    while more:
                        more = False
                        for words in passes:
                            visit = []
                            for address, targets in words:
                                word, further = self._word(memory, address, run, left)
                                more = more or further
                                if word is None:
                                    continue
                                word.window_end = last_run and not further
                                visit += [(target, replace(word)) for target in targets]
                            yield visit
                        left -= config.columns

        yield from (self._shared(memory, one) for one in behind)

    def _shared(self, memory: Bytes, visit: _Visit) -> list[tuple[int, _Word]]:
        """The word of a visit for each of its rows."""
        columns = self._config.columns
        start = visit.address // WORD_GRAIN * WORD_GRAIN
        content = memory[(start + np.arange(columns)) % (1 << ADDRESS_BITS) % len(memory)]
        word = _Word(content, 0, columns - 1, visit.window_end)
        return [(row, replace(word)) for row in range(self._config.rows) if visit.rows >> row & 1]

    def _passes(
        self, fields: Mapping[str, int], bases: Int64Array, first: int
    ) -> Iterator[tuple[bool, list[list[tuple[int, list[int]]]]]]:
        """For each run of a tile's windows, whether it is the last, and what each cycle of a pass over the
        rows visits: an address a port and the rows that its word is for."""
        rows, ports = self._config.rows, self._config.scratchpad_ports
        apart = words_apart(fields) if ports == PAIR and shares(fields, first, rows) else None
        offsets = runs(fields)
        # The last row with a position speaks for those beyond it.
        through = {row: [row] for row in range(len(bases) - 1)}
        through[len(bases) - 1] = list(range(len(bases) - 1, rows))
        if apart is None:
            block = rows // ports
            live = [
                [row for row in range(step, rows, block) if row < len(bases)]
                for step in range(min(block, len(bases)))
            ]
            for index, offset in enumerate(offsets):
                passes = [[(int(bases[row] + offset), through[row]) for row in step] for step in live]
                yield index == len(offsets) - 1, passes
            return
        words = fields["inner_count"]
        for line, offset in enumerate(offsets[::words]):
            for word in range(words + apart):
                taken = [row for row, ahead in enumerate((0, apart)) if ahead <= word < ahead + words]
                place = offset + word * fields["inner_step"]
                visits = [
                    (int(bases[row] + place), [target for k in taken for target in through[row + k]])
                    for row in range(0, len(bases), PAIR)
                    if taken
                ]
                yield (line, word) == (fields["outer_count"] - 1, words + apart - 1), [visits]

    def _word(self, memory: Bytes, address: int, run: int, left: int) -> tuple[_Word | None, bool]:
        """The word of a run from ``address`` on for which so many of its bytes are ``left``, or none, and
        whether another one follows."""
        columns = self._config.columns
        skip = address % WORD_GRAIN
        here = left + skip
        # With one port the first pass of a run asks for a word of each row, whatever is left.
        if here <= 0 and (left < run or self._config.scratchpad_ports == PAIR):
            return None, False
        start = address - skip + run - left
        addresses = (start + np.arange(columns)) % (1 << ADDRESS_BITS) % len(memory)
        last = columns - 1 if here > columns else (here - 1) % columns
        return _Word(memory[addresses], skip if left == run else 0, last), here > columns
