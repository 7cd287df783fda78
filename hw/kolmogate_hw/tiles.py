"""Finds the tiles of a layer, one ahead of the fetcher that walks them."""

from amaranth.hdl import Array, C, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.axis import FOUR_WORDS, PAIR
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, WRAP

from .raster import RasterWalk
from .records import struct_layout

__all__ = ["TILE_ROWS", "TileFinder", "TileLayout"]

TILE_ROWS = 2 * PAIR

TileLayout = data.StructLayout(
    {
        # addresses of the rows' windows
        "bases": data.ArrayLayout(ADDRESS_BITS, TILE_ROWS),
        # the last row with a position
        "last_row": range(TILE_ROWS),
        # the last tile of a column group; of the last one
        "final": 1,
        "ends": 1,
        # no row is alone in its pair, no line ends within one, and the windows of neighbours are so far apart
        # that they can share words; all rows are on one line and share them
        "shared": 1,
        "four": 1,
    }
)


class TileFinder(wiring.Component):
    """The tiles of an ARRAY descriptor, for each column group, of `TILE_ROWS` positions in raster order.

    Members
    -------
    start, descriptor : the descriptor must be there from the cycle before ``start`` on.
    next_group, group_base : its ``input_base`` and ``channels`` are to change, as for `WindowFetcher`.
    ready, tile, take : the next tile; it is taken.
    apart : the windows of neighbours on a line are one, or two, words apart; there with the first tile.

    Finds a position a cycle, the first in that of ``start``: a tile is ready in the cycle in which its last
    position is found, and the next one is begun when it has been taken.
    """

    start: Signal
    next_group: Signal
    group_base: Signal
    ready: Signal
    take: Signal
    tile: data.View
    apart: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "next_group": Out(1),
                "group_base": Out(ADDRESS_BITS),
                "ready": Out(1),
                "tile": Out(TileLayout),
                "take": In(1),
                "apart": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        descriptor, columns, tile = self.descriptor, self.config.columns, self.tile
        sharing = descriptor.word_mode & ~descriptor.single_run
        same = [descriptor.input_step == words * descriptor.inner_step for words in (1, 2)]
        # Two words apart, changes between the kinds of tiles cost more than they gain.
        whole_lines = descriptor.x_count % TILE_ROWS == 0
        four = Signal(reset_less=True)
        m.d.sync += [
            *(apart.eq(sharing & one) for apart, one in zip(self.apart, same, strict=True)),
            four.eq(sharing & (descriptor.inner_count == FOUR_WORDS) & Mux(same[1], whole_lines, same[0])),
        ]

        # Registered, as it comes in two parts.
        wrap = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += wrap.eq(descriptor.input_wrap + WRAP * descriptor.input_wrap_high)

        finding = Signal()
        find = Signal()
        found = Signal()
        row = Signal(range(TILE_ROWS))
        position = Signal(ADDRESS_BITS, reset_less=True)
        last_group = Signal()
        at_last = Signal()
        complete = Signal()
        m.submodules.walk = walk = RasterWalk()
        m.d.comb += [
            walk.x_count.eq(descriptor.x_count),
            walk.y_count.eq(descriptor.y_count),
            last_group.eq(descriptor.channels <= columns),
            find.eq(self.start | (finding & ~found)),
            at_last.eq(walk.end | (row == TILE_ROWS - 1)),
            complete.eq(find & at_last),
            # Not of a position found with the start, which comes late.
            self.ready.eq(found | (finding & at_last)),
            self.group_base.eq(descriptor.input_base + Mux(descriptor.word_mode, columns, 0)),
        ]

        # What is known of the tile, with what is found in this cycle.
        known = Signal(TileLayout, reset_less=True)
        m.d.sync += known.eq(tile)
        m.d.comb += tile.eq(known)
        # Whether or not it finds: that comes late, and before the first tile nobody looks.
        with m.If(~found):
            for r in range(TILE_ROWS):
                with m.If(row == r):
                    m.d.comb += tile.bases[r].eq(position)
            shares = (self.apart.any() & ~walk.line_end, C(1), ~walk.line_end, C(1))
            m.d.comb += [
                tile.last_row.eq(row),
                tile.final.eq(walk.end),
                tile.ends.eq(walk.end & last_group),
                tile.shared.eq(Array(shares)[row] & (known.shared | (row == 0))),
                tile.four.eq(Mux(row == 0, four, known.four) & ((row == TILE_ROWS - 1) | ~walk.line_end)),
            ]
        with m.If(find):
            m.d.comb += walk.step.eq(1)
            m.d.sync += [
                row.eq(Mux(complete, 0, row + 1)),
                found.eq(complete),
                finding.eq(~tile.ends),
                position.eq(position + Mux(walk.line_end, wrap, descriptor.input_step)),
            ]
            with m.If(walk.end):
                m.d.comb += self.next_group.eq(1)
                m.d.sync += position.eq(self.group_base)
        with m.Elif(~finding):
            # The first position of the layer that starts next.
            m.d.comb += walk.start.eq(1)
            m.d.sync += position.eq(descriptor.input_base)
        with m.If(self.take):
            m.d.sync += found.eq(0)
        return m
