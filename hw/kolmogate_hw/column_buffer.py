"""The column buffers: a ring of weight rows that decoders fill and the array replays."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig

from .block_ram import BlockRam
from .ports import RowPort

__all__ = ["ColumnBuffer", "weight_row"]


def weight_row(config: MachineConfig) -> data.ArrayLayout:
    """One weight a column."""
    return data.ArrayLayout(8, config.columns)


class ColumnBuffer(wiring.Component):
    """A ring of ``config.column_buffer_depth`` weight rows.

    The decoder sends rows through ``i`` as far as there is room; what is freed makes room a cycle later,
    and what is written is available a cycle later.
    The array reads the rows of its column group again for every tile: ``step`` takes a row, the one with
    ``rewind`` returns to the group's first row, the one with ``release`` frees everything read so far and
    makes the next row the first.

    Members
    -------
    available : there is a row to read.
    follows : whether there will be one in the next cycle, without a ``step`` and with one.
    row : the row taken by ``step``, in the next cycle.
    """

    i: wiring.PureInterface
    available: Signal
    follows: Signal
    step: Signal
    rewind: Signal
    release: Signal
    row: data.View

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(RowPort(config, weight_row(config))),
                "available": Out(1),
                "follows": Out(2),
                "step": In(1),
                "rewind": In(1),
                "release": In(1),
                "row": Out(weight_row(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = self.config.column_buffer_depth
        m.submodules.memory = rows = BlockRam(weight_row(self.config), depth)

        # Pointers count modulo twice the depth, so that full and empty differ.
        reserved = Signal(range(2 * depth))
        written = Signal(range(2 * depth))
        taken = Signal(range(2 * depth))
        first = Signal(range(2 * depth))
        following = Signal(range(2 * depth))
        # The last row that was written.
        newest = Signal(range(2 * depth), init=2 * depth - 1)
        used = Signal(range(2 * depth))
        # What is freed makes room a cycle later. Whether a row sets out is known late.
        m.d.comb += used.eq(reserved - first)
        following_room = Mux(self.i.reserve, used != depth - 1, used != depth)
        if self.config.fast:
            m.d.comb += self.i.room.eq(following_room)
        else:
            room = Signal(init=1)
            m.d.sync += room.eq(following_room)
            m.d.comb += self.i.room.eq(room)
        m.d.comb += [
            rows.write.en.eq(self.i.write),
            rows.write.addr.eq(written),
            rows.write.data.eq(self.i.row),
            rows.read_enable.eq(1),
            rows.read_address.eq(taken),
            self.row.eq(rows.read_data),
            following.eq(taken + 1),
        ]
        m.d.sync += reserved.eq(reserved + self.i.reserve)
        # What the pointer becomes is compared without counting first, so that ``step`` need only choose.
        back = self.rewind & ~self.release
        stepped = Mux(back, written != first, newest != taken)
        m.d.comb += self.follows.eq(Cat(written != taken, stepped))
        m.d.sync += self.available.eq(Mux(self.step, stepped, written != taken))
        with m.If(rows.write.en):
            m.d.sync += [written.eq(written + 1), newest.eq(written)]
        with m.If(self.step):
            m.d.sync += taken.eq(Mux(self.rewind, first, following))
            with m.If(self.release):
                m.d.sync += [first.eq(following), taken.eq(following)]
        return m
