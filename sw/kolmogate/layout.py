"""How an activation tensor lies in the scratchpad: rows of pixels with a physical border.

Byte (y, x, c) of a tensor lies at ``origin + y * row_pitch + x * pixel_pitch + c`` of its region. The border
that the windows of its consumers reach into is real memory that holds the zero point, so that the array
never masks a tap. The positions between two rows serve as the right border of the upper and the left
border of the lower one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .errors import InputError
from .isa import FILL, FILL_UNIT
from .network import Int8Array

__all__ = ["Fill", "Layout"]

MAXIMUM_RUN = FILL_UNIT * ((1 << FILL.widths["run"]) - 1)
MAXIMUM_LINES = (1 << FILL.widths["y_count"]) - 1
"""Longest line, and most lines, of a FILL descriptor."""


class Fill(NamedTuple):
    """``lines`` lines of ``run`` bytes, ``step`` bytes apart, the first at ``offset`` of the region."""

    offset: int
    run: int
    lines: int
    step: int


@dataclass(frozen=True)
class Layout:
    """Storage of one activation tensor.

    Parameters
    ----------
    height, width, channels : int
        Shape of the tensor; a vector is one pixel.
    padding : tuple of int
        Border in positions: (top, bottom, left, right).
    pixel_pitch : int
        Bytes from one position to the next, at least ``channels``.
    zero_point : int
        What the border holds.
    """

    height: int
    width: int
    channels: int
    padding: tuple[int, int, int, int]
    pixel_pitch: int
    zero_point: int

    @property
    def row_pitch(self) -> int:
        """Bytes from one row to the next."""
        _, _, left, right = self.padding
        return (self.width + max(left, right)) * self.pixel_pitch

    @property
    def origin(self) -> int:
        """Offset of byte (0, 0, 0) in the region."""
        top, _, left, _ = self.padding
        return top * self.row_pitch + left * self.pixel_pitch

    @property
    def size(self) -> int:
        """Bytes of the region."""
        _, bottom, _, right = self.padding
        rows = self.height - 1 + bottom
        return self.origin + rows * self.row_pitch + (self.width + right) * self.pixel_pitch

    @property
    def elements(self) -> int:
        return self.height * self.width * self.channels

    def _pixels(self, region: Int8Array) -> Int8Array:
        """The (height, width, channels) view of a region's bytes."""
        return np.lib.stride_tricks.as_strided(
            region[self.origin :],
            (self.height, self.width, self.channels),
            (self.row_pitch, self.pixel_pitch, 1),
        )

    def pack(self, x: Int8Array) -> bytes:
        """The whole region, border included, of a tensor of ``elements`` int8 numbers."""
        if x.dtype != np.int8 or x.size != self.elements:
            raise InputError(f"expected {self.elements} int8 numbers, got {x.size} of type {x.dtype}")
        region = np.full(self.size, self.zero_point, np.int8)
        self._pixels(region)[...] = x.reshape(self.height, self.width, self.channels)
        return region.tobytes()

    def unpack(self, region: bytes) -> Int8Array:
        """The tensor (height, width, channels) in the bytes of a region."""
        if len(region) != self.size:
            raise InputError(f"expected a region of {self.size} bytes, got {len(region)}")
        return self._pixels(np.frombuffer(region, np.int8)).copy()

    def _border_lines(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of each stretch of border; lengths may be 0."""
        row = self.width * self.pixel_pitch
        last = self.origin + (self.height - 1) * self.row_pitch + row
        yield 0, self.origin
        yield last, self.size - last
        for y in range(self.height - 1):
            yield self.origin + y * self.row_pitch + row, self.row_pitch - row

    def whole(self) -> list[Fill]:
        """One FILL of the whole region, if a line can be so long; else as `border`."""
        return [Fill(0, self.size, 1, 0)] if self.size <= MAXIMUM_RUN else self.border()

    def border(self) -> list[Fill]:
        """The fewest FILLs of equal, equally spaced lines that a greedy search finds for the border."""
        lines = sorted(
            (min(length - start, MAXIMUM_RUN), offset + start)
            for offset, length in self._border_lines()
            for start in range(0, length, MAXIMUM_RUN)
        )
        fills: list[Fill] = []
        for run, offset in lines:
            if fills and fills[-1].run == run and fills[-1].lines < MAXIMUM_LINES:
                first, _, count, step = fills[-1]
                if count == 1 or offset == first + count * step:
                    fills[-1] = Fill(first, run, count + 1, step or offset - first)
                    continue
            fills.append(Fill(offset, run, 1, 0))
        return fills
