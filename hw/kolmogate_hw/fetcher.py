"""The window fetcher: walks output positions and their windows, and fetches activations for the rows."""

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, WORD_GRAIN

from .feeder import RunLayout
from .ports import UnalignedReadPort
from .raster import RasterWalk
from .records import struct_layout
from .visits import VisitPort

__all__ = ["WindowFetcher"]


class WindowFetcher(wiring.Component):
    """Turns an ARRAY descriptor into words for the row feeders, in the order the array uses them.

    For each column group, for each tile of R consecutive output positions, for each run of the window:
    the words that hold the run, one visit a row and a cycle, until every row has its bytes, and a cycle for
    the next run, two for the next column group. Rows beyond the layer's last position get the last
    position's words.

    The descriptor must be there from the cycle before ``start`` on. With ``next_group`` its ``input_base``
    must become ``group_base``, its ``channels`` those that are left, from the next cycle on.

    The fetcher runs ahead of the array as far as the feeders have room; ``push`` and ``run`` answer a granted
    request of a port (`VisitPort`). ``walking`` is high while there is a word left to ask for.

    This one has a single port; `kolmogate_hw.pair_fetcher` is that of machines with two.
    """

    walking: Signal
    next_group: Signal
    group_base: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        ports = config.scratchpad_ports
        super().__init__(
            {
                "start": In(1),
                "held": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "ports": Out(UnalignedReadPort(config)).array(ports),
                "push": Out(config.rows).array(ports),
                "run": Out(RunLayout(config)).array(ports),
                "pop": In(config.rows),
                "walking": Out(1),
                "next_group": Out(1),
                "group_base": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        rows, columns = config.rows, config.columns
        lane_bits = columns.bit_length() - 1
        grain_bits = WORD_GRAIN.bit_length() - 1
        address = ADDRESS_BITS

        # Where the walk is: position, row of the tile, run of the window, word of the run. Of runs, those
        # that come next are counted, from 1, so that they meet the counts to end at as these are.
        walking = self.walking
        position = Signal(address, reset_less=True)
        step = Signal(range(rows))
        bases = [Signal(address, name=f"base_{r}", reset_less=True) for r in range(rows)]
        live_step = Signal(range(rows), reset_less=True)
        final_tile = Signal(reset_less=True)
        outer = Signal(10, reset_less=True)
        inner = Signal(10, reset_less=True)
        run_offset = Signal(address, reset_less=True)
        word_offset = Signal(address, reset_less=True)
        # Bytes of the run behind the word at hand, less one, if it begins where that does.
        beyond = Signal(signed(15), reset_less=True)
        first_word = Signal()
        # The fetcher is at a visit, and not between two runs.
        visiting = Signal()

        # Whether a count has reached its end is registered along with it; whether it will next, or with the
        # first run, is known a cycle after it was counted, which is sooner than the next run.
        last_inner, last_outer = (Signal(name=f"last_{name}", reset_less=True) for name in ("inner", "outer"))
        inner_ends, outer_ends = (
            Signal(2, name=f"{name}_ends", reset_less=True) for name in ("inner", "outer")
        )
        m.d.sync += [
            inner_ends.eq(Cat(inner == descriptor.inner_count, descriptor.inner_count == 1)),
            outer_ends.eq(Cat(outer == descriptor.outer_count, descriptor.outer_count == 1)),
        ]

        def on(counter: Signal, last: Signal, ends: Value) -> list[Any]:
            """To the next run."""
            return [last.eq(descriptor.single_run | ends[0]), counter.eq(Mux(ends[0], 1, counter + 1))]

        def begin(counter: Signal, last: Signal, ends: Value) -> list[Any]:
            """To the first run."""
            return [last.eq(descriptor.single_run | ends[1]), counter.eq(Mux(ends[1], 1, 2))]

        # The first pass over a tile's rows takes the positions.
        placing = Signal()
        m.submodules.walk = walk = RasterWalk()
        m.d.comb += [walk.x_count.eq(descriptor.x_count), walk.y_count.eq(descriptor.y_count)]
        following = Signal(address)
        m.d.comb += following.eq(position + Mux(walk.line_end, descriptor.input_wrap, descriptor.input_step))
        last_step = Signal()
        m.d.comb += last_step.eq(Mux(placing, walk.end | (step == rows - 1), step == live_step))

        # A visit: the row has a word to fetch, or none.
        depth = config.feeder_depth
        credits = [Signal(range(depth + 1), init=depth, name=f"credits_{r}") for r in range(rows)]
        # Registered, off the array's path: what leaves a feeder makes room a cycle later.
        has_room = Signal(rows, init=-1)
        advance = Signal()
        run_end = Signal()
        more = Signal()
        m.submodules.port = port = VisitPort(config)
        visit = Signal(address)
        m.d.comb += visit.eq(Mux(placing, position, Array(bases)[step] + word_offset))
        # Rows differ in alignment, so that one may need a word more than another: in the first pass of a run
        # all need one, then those that needed more. Where in its first word a row's run begins is found along
        # with the run's offset, off the critical path.
        skips = [Signal(grain_bits, name=f"skip_{r}", reset_less=True) for r in range(rows)]
        needs = Signal(rows, reset_less=True)
        skip = Signal(grain_bits)
        ending = Signal(lane_bits)
        # The row needs it; registered with the step that gets there.
        wanted = Signal(reset_less=True)
        # Each row's, as which row it is comes late.
        over = Signal(rows)
        m.d.comb += [
            skip.eq(Array(skips)[step]),
            ending.eq(beyond[:lane_bits] + skip),
            over.eq(Cat((beyond[:lane_bits] + one)[lane_bits] for one in skips)),
            # Bytes are left behind the word; or would be, as many as a word less, and the row's run begins so
            # far behind the word's beginning.
            more.eq(~beyond[-1] | (beyond[lane_bits] & over.bit_select(step, 1))),
        ]
        # The last live row speaks for those beyond it. All of them must have room, which is known sooner than
        # which one is the last.
        targets = Signal(rows)
        room = Signal()
        for r in range(rows):
            m.d.comb += targets[r].eq((step == r) | ((step < r) & last_step))
        m.d.comb += [
            room.eq(~Cat((step <= r) & ~has_room[r] for r in range(rows)).any()),
            advance.eq(visiting & (~wanted | room) & port.free),
            port.advance.eq(advance),
            port.wanted.eq(wanted),
            port.address.eq(visit),
            port.targets.eq(targets),
            port.tag.start.eq(Mux(first_word, skip, 0)),
            port.tag.last.eq(Mux(more, columns - 1, ending)),
            port.tag.window_end.eq(last_inner & last_outer & ~more),
            port.tag.final_tile.eq(Mux(placing, walk.end, final_tile)),
            # Of the last live row, whose words the last row gets too.
            port.tag.last_row.eq(step),
            self.push[0].eq(port.push),
            self.run[0].eq(port.run),
        ]
        wiring.connect(m, port.port, wiring.flipped(self.ports[0]))
        for r in range(rows):
            taken = advance & wanted & targets[r]
            m.d.sync += [
                credits[r].eq(credits[r] - taken + self.pop[r]),
                has_room[r].eq(Mux(taken, credits[r] > 1, credits[r] != 0)),
            ]

        # What ends with a pass that leaves no row in need takes place in the cycle after it, with nothing but
        # registers to depend on.
        again = Signal()
        m.d.comb += self.group_base.eq(descriptor.input_base + Mux(descriptor.word_mode, columns, 0))
        with m.If(advance):
            with m.If(placing):
                for r in range(rows):
                    with m.If(step == r):
                        m.d.sync += bases[r].eq(position)
                    with m.If(step == r - 1):
                        m.d.sync += skips[r].eq(following)
                m.d.sync += [live_step.eq(step), final_tile.eq(walk.end)]
                m.d.comb += walk.step.eq(1)
                m.d.sync += position.eq(following)
            m.d.sync += [
                step.eq(step + 1),
                again.eq(again | more),
                needs.bit_select(step, 1).eq(more),
                # Of the row that comes next. If that is the same one, it needs a word or the run ends.
                wanted.eq(Mux(last_step, needs[0] | (step == 0), first_word | needs.bit_select(step + 1, 1))),
            ]
            with m.If(last_step):
                m.d.sync += [
                    step.eq(0),
                    again.eq(0),
                    first_word.eq(0),
                    placing.eq(0),
                    run_end.eq(~(again | more)),
                    visiting.eq(again | more),
                ]
        run_begins = Signal()
        m.d.comb += run_begins.eq(run_end | self.start)
        with m.If(run_begins | (advance & last_step)):
            m.d.sync += beyond.eq(
                Mux(run_begins, descriptor.run, beyond) + Mux(run_begins, -columns - 1, -columns)
            )
        # From word to word, and from run to run.
        following_word = Signal(address)
        onward = Mux(last_inner, descriptor.outer_wrap, descriptor.inner_step)
        m.d.comb += following_word.eq(Mux(run_end, run_offset, word_offset) + Mux(run_end, onward, columns))
        with m.If(run_end | (advance & last_step)):
            m.d.sync += word_offset.eq(following_word)
        with m.If(first_word):
            m.d.sync += run_offset.eq(word_offset)
        # A column group begins.
        regroup = Signal()
        with m.If(run_end):
            m.d.sync += [
                run_end.eq(0),
                visiting.eq(1),
                first_word.eq(1),
                wanted.eq(1),
                placing.eq(last_inner & last_outer),
                *(
                    skip.eq(base[:grain_bits] + following_word[:grain_bits])
                    for skip, base in zip(skips, bases, strict=True)
                ),
                *on(inner, last_inner, inner_ends),
            ]
            with m.If(last_inner):
                m.d.sync += on(outer, last_outer, outer_ends)
                with m.If(last_outer):
                    m.d.sync += [word_offset.eq(0), skips[0].eq(position)]
                    with m.If(final_tile):
                        another = descriptor.channels > columns
                        m.d.comb += self.next_group.eq(1)
                        m.d.sync += [visiting.eq(0), regroup.eq(another), walking.eq(another)]
        with m.If(regroup | self.start):
            m.d.sync += [
                regroup.eq(0),
                visiting.eq(1),
                position.eq(descriptor.input_base),
                skips[0].eq(descriptor.input_base),
            ]
        with m.If(self.start):
            m.d.comb += walk.start.eq(1)
            m.d.sync += [
                walking.eq(1),
                run_end.eq(0),
                step.eq(0),
                *begin(outer, last_outer, outer_ends),
                *begin(inner, last_inner, inner_ends),
                word_offset.eq(0),
                placing.eq(1),
                first_word.eq(1),
                wanted.eq(1),
                again.eq(0),
            ]
        return m
