"""The window fetcher: walks output positions and their windows, and fetches activations for the rows."""

from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, WORD_GRAIN

from .feeder import FEEDER_DEPTH, RunLayout
from .ports import UnalignedReadPort, turned
from .raster import RasterWalk
from .records import struct_layout

__all__ = ["WindowFetcher"]


class WindowFetcher(wiring.Component):
    """Turns an ARRAY descriptor into words for the row feeders, in the order the array uses them.

    For each column group, for each tile of R consecutive output positions, for each run of the window:
    the words that hold the run, one visit a row, until every row has its bytes. Each scratchpad port makes a
    visit a cycle: port p those of rows p, p + ports and so on. Rows beyond the layer's last position get the
    last position's words.

    The descriptor must be there from the cycle before ``start`` on. With ``next_group`` its ``input_base``
    must become ``group_base``, its ``channels`` those that are left, from the next cycle on.

    The fetcher runs ahead of the array as far as the feeders have room; ``push`` and ``run`` answer a granted
    request of a port with its `UnalignedReadPort`. ``walking`` is high while there is a word left to ask for.
    """

    walking: Signal
    next_group: Signal
    group_base: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lanes = config.scratchpad_ports
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "ports": Out(UnalignedReadPort(config)).array(lanes),
                "push": Out(config.rows).array(lanes),
                "run": Out(RunLayout(config)).array(lanes),
                "pop": In(config.rows),
                "walking": Out(1),
                "next_group": Out(1),
                "group_base": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        rows, columns, lanes = config.rows, config.columns, config.scratchpad_ports
        lane_bits = columns.bit_length() - 1
        grain_bits = WORD_GRAIN.bit_length() - 1
        address = ADDRESS_BITS

        # Where the walk is: position, rows of the tile (one a lane), run of the window, word of the run. What
        # ends at a count of the descriptor is counted from 1, so that it meets it as it is.
        walking = self.walking
        position = Signal(address, reset_less=True)
        step = Signal(range(rows // lanes))
        bases = [Signal(address, name=f"base_{r}", reset_less=True) for r in range(rows)]
        live_step = Signal(range(rows // lanes), reset_less=True)
        live_lanes = Signal(lanes, reset_less=True)
        final_tile = Signal(reset_less=True)
        outer = Signal(10, reset_less=True)
        inner = Signal(10, reset_less=True)
        run_offset = Signal(address, reset_less=True)
        word_offset = Signal(address, reset_less=True)
        bytes_left = Signal(signed(15), reset_less=True)
        first_run = Signal()
        first_word = Signal()

        # Whether a count has reached its end is registered along with it, off the critical path.
        last_inner, last_outer = (Signal(name=f"last_{name}", reset_less=True) for name in ("inner", "outer"))

        def inner_becomes(value: ValueLike) -> list[Any]:
            return [
                inner.eq(value),
                last_inner.eq(descriptor.single_run | (value == descriptor.inner_count)),
            ]

        def outer_becomes(value: ValueLike) -> list[Any]:
            return [
                outer.eq(value),
                last_outer.eq(descriptor.single_run | (value == descriptor.outer_count)),
            ]

        # The first pass over a tile's rows takes the positions, as many at once as there are lanes.
        placing = Signal()
        m.d.comb += placing.eq(first_run & first_word)
        m.submodules.walk = walk = RasterWalk(lanes)
        m.d.comb += [walk.x_count.eq(descriptor.x_count), walk.y_count.eq(descriptor.y_count)]
        places: list[ValueLike] = [position]
        placed = Signal(lanes)
        ended = walk.end[-1]
        m.d.comb += placed.eq(~Cat(C(0, 1), walk.end[:-1]))
        for lane in range(lanes):
            following = Signal(address, name=f"following_{lane}")
            m.d.comb += following.eq(
                places[-1] + Mux(walk.line_end[lane], descriptor.input_wrap, descriptor.input_step)
            )
            places.append(following)
        last_step = Signal()
        live = Signal(lanes)
        m.d.comb += [
            last_step.eq(Mux(placing, ended | (step == rows // lanes - 1), step == live_step)),
            live.eq(Mux(placing, placed, Mux(last_step, live_lanes, (1 << lanes) - 1))),
        ]

        # Where the next words of the rows begin in theirs. Two lanes are for fast machines: there they are
        # registers, made along with the offset, and the base of a row that has its place only now.
        ahead = lanes > 1
        skips = [Signal(grain_bits, name=f"skip_of_{r}", reset_less=True) for r in range(rows)]

        def word_offset_becomes(value: ValueLike) -> list[Any]:
            assignments = [word_offset.eq(value)]
            for r in range(rows if ahead else 0):
                here = placing & (step == r // lanes)
                base = Mux(here, places[r % lanes], bases[r])[:grain_bits]
                assignments.append(skips[r].eq(base + Value.cast(value)[:grain_bits]))
            return assignments

        # Visits: each lane has a word of its row to fetch, or none.
        credits = [
            Signal(range(FEEDER_DEPTH + 1), init=FEEDER_DEPTH, name=f"credits_{r}") for r in range(rows)
        ]
        # Far from its end a run takes whole words. Near it, where the bytes left are more than minus a word
        # (as rows differ in alignment) and less than two, few bits tell how many the word at hand holds.
        far = Signal()
        m.d.comb += far.eq(~bytes_left[-1] & bytes_left[lane_bits + 1 :].any())
        advance = Signal()
        possible = Signal(lanes)
        free = Signal(lanes)
        more = Signal(lanes)
        reserved = []
        for lane, port in enumerate(self.ports):
            visit = Signal(address, name=f"visit_{lane}")
            own_bases = Array(bases[lane::lanes])
            m.d.comb += visit.eq(Mux(placing, places[lane], own_bases[step] + word_offset))
            # Bytes of the run from the start of this word on; the word at hand holds up to `columns` of them.
            # Rows differ in alignment, so that one may need a word more than another.
            skip = Signal(grain_bits, name=f"skip_{lane}")
            remaining = Signal(signed(lane_bits + 3), name=f"remaining_{lane}")
            wanted = Signal(name=f"wanted_{lane}")
            m.d.comb += [
                skip.eq(Mux(placing, places[lane], Array(skips[lane::lanes])[step]) if ahead else visit),
                remaining.eq(bytes_left[: lane_bits + 2].as_signed() + skip),
                wanted.eq(live[lane] & (far | (remaining > 0))),
                more[lane].eq(live[lane] & (far | (remaining > columns))),
            ]
            # The last live row speaks for those beyond it.
            targets = Signal(rows, name=f"targets_{lane}")
            room = Signal(name=f"room_{lane}")
            last_live = last_step & live[lane] & (C(1) if lane == lanes - 1 else ~live[lane + 1])
            for r in range(rows):
                own = C(1) if r % lanes == lane else last_live if r % lanes > lane else C(0)
                m.d.comb += targets[r].eq(((step == r // lanes) & own) | ((step < r // lanes) & last_live))
            m.d.comb += room.eq(~Cat(targets[r] & (credits[r] == 0) for r in range(rows)).any())
            # Requests wait for their grant in a register, which keeps the arbiter and the walk apart.
            # The lanes ask again when all are granted, so that no request overtakes another.
            asked_targets = Signal(rows, name=f"asked_targets_{lane}", reset_less=True)
            tag = Signal(RunLayout(config), name=f"tag_{lane}", reset_less=True)
            m.d.comb += [
                free[lane].eq(~port.request.valid | port.request.ready),
                possible[lane].eq(~wanted | room),
            ]
            with m.If(port.request.ready):
                m.d.sync += port.request.valid.eq(0)
            with m.If(advance):
                m.d.sync += [
                    port.request.valid.eq(wanted),
                    port.request.payload.eq(visit[grain_bits:]),
                    asked_targets.eq(targets),
                    tag.start.eq(Mux(first_word, skip, 0)),
                    tag.last.eq(Mux(more[lane], columns - 1, remaining - 1)),
                    tag.window_end.eq(last_inner & last_outer & ~more[lane]),
                    tag.final_tile.eq(Mux(placing, ended, final_tile)),
                    # Of the last live row, whose words the last row gets too.
                    tag.last_row.eq(Cat(live[1:], step)),
                ]
            reserved.append(Mux(advance & wanted, targets, 0))
            # Answers come two cycles after the grant, or three; their tags wait as long.
            granted = port.request.valid & port.request.ready
            pushed: Value = Mux(granted, asked_targets, 0)
            answer = tag
            for stage in range(3 if turned(config) else 2):
                delayed = Signal(RunLayout(config), name=f"delayed_{lane}_{stage}", reset_less=True)
                pushing = Signal(rows, name=f"pushed_{lane}_{stage}")
                m.d.sync += [delayed.eq(answer), pushing.eq(pushed)]
                answer, pushed = delayed, pushing
            m.d.comb += [
                self.push[lane].eq(pushed),
                self.run[lane].eq(answer),
                self.run[lane].word.eq(port.data),
            ]
        m.d.comb += advance.eq(walking & possible.all() & free.all())
        for r in range(rows):
            taken = Cat(reserved[lane][r] for lane in range(lanes)).any()
            m.d.sync += credits[r].eq(credits[r] - taken + self.pop[r])

        again = Signal()
        m.d.comb += self.group_base.eq(descriptor.input_base + Mux(descriptor.word_mode, columns, 0))
        with m.If(advance):
            with m.If(placing):
                for r in range(rows):
                    with m.If(step == r // lanes):
                        m.d.sync += bases[r].eq(places[r % lanes])
                m.d.sync += [live_step.eq(step), live_lanes.eq(placed), final_tile.eq(ended)]
                m.d.comb += walk.step.eq(1)
                m.d.sync += position.eq(places[-1])
            m.d.sync += [step.eq(step + 1), again.eq(again | more.any())]
            with m.If(last_step):
                m.d.sync += [step.eq(0), again.eq(0), first_word.eq(0)]
                with m.If(again | more.any()):
                    m.d.sync += [
                        *word_offset_becomes(word_offset + columns),
                        bytes_left.eq(bytes_left - columns),
                    ]
                with m.Else():
                    m.d.sync += [first_word.eq(1), first_run.eq(0), bytes_left.eq(descriptor.run)]
                    following_run = Signal(address)
                    m.d.comb += following_run.eq(
                        run_offset + Mux(last_inner, descriptor.outer_wrap, descriptor.inner_step)
                    )
                    m.d.sync += [
                        *inner_becomes((inner + 1)[:10]),
                        run_offset.eq(following_run),
                        *word_offset_becomes(following_run),
                    ]
                    with m.If(last_inner):
                        m.d.sync += [*inner_becomes(C(1)), *outer_becomes((outer + 1)[:10])]
                        with m.If(last_outer):
                            m.d.sync += [
                                *outer_becomes(C(1)),
                                run_offset.eq(0),
                                word_offset.eq(0),
                                first_run.eq(1),
                            ]
                            # When the window is a single word, the tile ends in the visit that places it.
                            with m.If(Mux(placing, ended, final_tile)):
                                m.d.comb += [walk.start.eq(1), self.next_group.eq(1)]
                                m.d.sync += [
                                    position.eq(self.group_base),
                                    walking.eq(descriptor.channels > columns),
                                ]
        with m.If(self.start):
            m.d.comb += walk.start.eq(1)
            m.d.sync += [
                walking.eq(1),
                position.eq(descriptor.input_base),
                step.eq(0),
                *outer_becomes(C(1)),
                *inner_becomes(C(1)),
                run_offset.eq(0),
                word_offset.eq(0),
                bytes_left.eq(descriptor.run),
                first_run.eq(1),
                first_word.eq(1),
                again.eq(0),
            ]
        return m
