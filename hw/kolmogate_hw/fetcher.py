"""The window fetcher: walks output positions and their windows, and fetches activations for the rows."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR

from .feeder import FEEDER_DEPTH, RunLayout
from .ports import ReadPort
from .records import struct_layout

__all__ = ["WindowFetcher"]


class WindowFetcher(wiring.Component):
    """Turns an ARRAY descriptor into words for the row feeders, in the order the array uses them.

    For each column group, for each tile of R consecutive output positions, for each run of the window:
    the words that hold the run, one visit a row a cycle, until every row has its bytes. Rows beyond the
    layer's last position get the last position's words.

    The fetcher runs ahead of the array as far as the feeders have room; `push` and `run` answer a granted
    request two cycles later.
    """

    start: Signal
    pop: Signal
    push: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "port": Out(ReadPort(config)),
                "push": Out(config.rows),
                "run": Out(RunLayout(config)),
                "pop": In(config.rows),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        rows, columns = config.rows, config.columns
        lane_bits = columns.bit_length() - 1
        address = ADDRESS_BITS

        # Where the walk is: column group, position, row of the tile, run of the window, word of the run. What
        # ends at a count of the descriptor is counted from 1, so that it meets it as it is.
        walking = Signal()
        channels_left = Signal(12, reset_less=True)
        group_base = Signal(address, reset_less=True)
        x = Signal(12, reset_less=True)
        y = Signal(12, reset_less=True)
        position = Signal(address, reset_less=True)
        row = Signal(range(rows))
        bases = [Signal(address, name=f"base_{r}", reset_less=True) for r in range(rows)]
        live_last = Signal(range(rows), reset_less=True)
        final_tile = Signal(reset_less=True)
        outer = Signal(10, reset_less=True)
        inner = Signal(10, reset_less=True)
        outer_offset = Signal(address, reset_less=True)
        run_offset = Signal(address, reset_less=True)
        word_offset = Signal(address, reset_less=True)
        bytes_left = Signal(signed(15), reset_less=True)
        first_run = Signal()
        first_word = Signal()

        # The visit: one row's word. The first pass over a tile's rows takes the positions.
        placing = Signal()
        at_x_end = Signal()
        at_end = Signal()
        last_row = Signal()
        visit = Signal(address)
        m.d.comb += [
            placing.eq(first_run & first_word),
            at_x_end.eq(x == descriptor.x_count),
            at_end.eq(at_x_end & (y == descriptor.y_count)),
            last_row.eq(Mux(placing, at_end | (row == rows - 1), row == live_last)),
            visit.eq(Mux(placing, position, Array(bases)[row] + word_offset)),
        ]
        # Bytes of the run from the start of this word on; the word at hand holds up to `columns` of them.
        skip = Signal(lane_bits)
        remaining = Signal(signed(16))
        wanted = Signal()
        more = Signal()
        m.d.comb += [
            skip.eq(visit[:lane_bits]),
            # Rows differ in alignment, so that one may need a word more than another.
            remaining.eq(bytes_left + skip),
            wanted.eq(remaining > 0),
            more.eq(remaining > columns),
        ]

        credits = [
            Signal(range(FEEDER_DEPTH + 1), init=FEEDER_DEPTH, name=f"credits_{r}") for r in range(rows)
        ]
        targets = Signal(rows)
        m.d.comb += [targets[r].eq((row == r) | (last_row & (row < r))) for r in range(rows)]
        room = Signal()
        m.d.comb += room.eq(~Cat(targets[r] & (credits[r] == 0) for r in range(rows)).any())

        advance = Signal()
        granted = Signal()
        m.d.comb += [
            self.port.request.valid.eq(walking & wanted & room),
            self.port.request.payload.eq(visit[lane_bits:]),
            granted.eq(self.port.request.valid & self.port.request.ready),
            advance.eq(walking & (~wanted | granted)),
        ]
        for r in range(rows):
            m.d.sync += credits[r].eq(credits[r] - (granted & targets[r]) + self.pop[r])

        last_inner = Signal()
        last_outer = Signal()
        m.d.comb += [
            last_inner.eq(inner == descriptor.inner_count),
            last_outer.eq(outer == descriptor.outer_count),
        ]
        # Answers come two cycles after the grant; their tags wait as long.
        tag = Signal(RunLayout(config))
        tag_targets = Signal(rows)
        answer = Signal(RunLayout(config), reset_less=True)
        answer_targets = Signal(rows)
        delayed = Signal(RunLayout(config), reset_less=True)
        m.d.comb += [
            tag.start.eq(Mux(first_word, skip, 0)),
            tag.last.eq(Mux(more, columns - 1, remaining - 1)),
            tag.window_end.eq(last_inner & last_outer & ~more),
            tag.final_tile.eq(Mux(placing, at_end, final_tile)),
            tag_targets.eq(Mux(granted, targets, 0)),
        ]
        m.d.sync += [
            delayed.eq(tag),
            answer.eq(delayed),
            answer_targets.eq(tag_targets),
            self.push.eq(answer_targets),
        ]
        m.d.comb += [self.run.eq(answer), self.run.word.eq(self.port.data)]

        again = Signal()
        with m.If(advance):
            with m.If(placing):
                for r in range(rows):
                    with m.If(row == r):
                        m.d.sync += bases[r].eq(position)
                m.d.sync += [live_last.eq(row), final_tile.eq(at_end)]
                with m.If(at_x_end):
                    m.d.sync += [x.eq(1), y.eq(y + 1), position.eq(position + descriptor.input_wrap)]
                with m.Else():
                    m.d.sync += [x.eq(x + 1), position.eq(position + descriptor.input_step)]
            m.d.sync += [row.eq(row + 1), again.eq(again | more)]
            with m.If(last_row):
                m.d.sync += [row.eq(0), again.eq(0), first_word.eq(0)]
                with m.If(again | more):
                    m.d.sync += [
                        word_offset.eq(word_offset + columns),
                        bytes_left.eq(bytes_left - columns),
                    ]
                with m.Else():
                    m.d.sync += [first_word.eq(1), first_run.eq(0), bytes_left.eq(descriptor.run)]
                    with m.If(~last_inner):
                        m.d.sync += [
                            inner.eq(inner + 1),
                            run_offset.eq(run_offset + descriptor.inner_step),
                            word_offset.eq(run_offset + descriptor.inner_step),
                        ]
                    with m.Else():
                        next_outer = outer_offset + descriptor.outer_step
                        m.d.sync += [
                            inner.eq(1),
                            outer.eq(outer + 1),
                            outer_offset.eq(next_outer),
                            run_offset.eq(next_outer),
                            word_offset.eq(next_outer),
                        ]
                        with m.If(last_outer):
                            m.d.sync += [
                                outer.eq(1),
                                outer_offset.eq(0),
                                run_offset.eq(0),
                                word_offset.eq(0),
                                first_run.eq(1),
                            ]
                            # When the window is a single word, the tile ends in the visit that places it.
                            with m.If(Mux(placing, at_end, final_tile)):
                                next_base = group_base + Mux(descriptor.word_mode, columns, 0)
                                m.d.sync += [
                                    x.eq(1),
                                    y.eq(1),
                                    group_base.eq(next_base),
                                    position.eq(next_base),
                                    channels_left.eq(channels_left - columns),
                                    walking.eq(channels_left > columns),
                                ]
        with m.If(self.start):
            m.d.sync += [
                walking.eq(1),
                channels_left.eq(descriptor.channels),
                group_base.eq(descriptor.input_base),
                position.eq(descriptor.input_base),
                x.eq(1),
                y.eq(1),
                row.eq(0),
                outer.eq(1),
                inner.eq(1),
                outer_offset.eq(0),
                run_offset.eq(0),
                word_offset.eq(0),
                bytes_left.eq(descriptor.run),
                first_run.eq(1),
                first_word.eq(1),
                again.eq(0),
            ]
        return m
