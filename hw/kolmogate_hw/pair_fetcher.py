"""The window fetcher of machines with two scratchpad ports, whose rows share words in pairs."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import wiring
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, WORD_GRAIN

from .feeder import FEEDER_DEPTH
from .fetcher import WindowFetcher
from .raster import RasterWalk
from .visits import VisitPort

__all__ = ["PairFetcher", "window_fetcher"]

ROWS, PORTS = 4, 2


def window_fetcher(config: MachineConfig) -> WindowFetcher:
    """That of a machine with so many scratchpad ports."""
    return (PairFetcher if config.scratchpad_ports == PORTS else WindowFetcher)(config)


class PairFetcher(WindowFetcher):
    """As `WindowFetcher`, with a visit a cycle on each port: port p fetches for rows 2p and 2p + 1.

    In word mode a word may be for both rows of a pair. Where windows are s words apart along a line, s being
    1 or 2, and n words wide, row 2p takes the first n of n + s words and its neighbour the last n: the pairs
    of a tile that are on a line each walk them once instead of 2n. A tile that has not all of its rows, or
    where a line ends within a pair, is fetched row by row.

    ``window_end`` of a word is that of the last of the rows it is for. Rows beyond the layer's last position
    get the words of the last.

    A tile's positions are found while the one before is fetched, one a cycle; a layer's first request comes
    as many cycles after ``start`` as its first tile has positions, and another.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        columns = config.columns
        lane_bits = columns.bit_length() - 1
        grain_bits = WORD_GRAIN.bit_length() - 1
        address = ADDRESS_BITS

        # What is the same for the whole layer, registered as the descriptor is there early enough: whether
        # windows are one or two words apart, the words that a pair walks, and from their last to the first of
        # the next line.
        apart = {s: Signal(name=f"apart_{s}", reset_less=True) for s in (1, 2)}
        shared_count = Signal(11, reset_less=True)
        shared_wrap = Signal(address, reset_less=True)
        for s, flag in apart.items():
            m.d.sync += flag.eq(descriptor.word_mode & (descriptor.input_step == s * descriptor.inner_step))
        m.d.sync += [
            shared_count.eq(descriptor.inner_count + Mux(apart[2], 2, 1)),
            shared_wrap.eq(descriptor.outer_wrap - descriptor.input_step),
        ]

        # The next tile, as far as it is found; in the cycle in which a position is, it is part of it.
        finding = Signal()
        find = Signal()
        found = Signal()
        complete = Signal()
        ready = Signal()
        load = Signal()
        row = Signal(range(ROWS))
        position = Signal(address, reset_less=True)
        group_base = Signal(address, reset_less=True)
        channels_left = Signal(12, reset_less=True)
        last_group = Signal()
        m.submodules.walk = walk = RasterWalk()
        m.d.comb += [
            walk.x_count.eq(descriptor.x_count),
            walk.y_count.eq(descriptor.y_count),
            last_group.eq(channels_left <= columns),
            find.eq(self.start | (finding & ~found)),
            complete.eq(find & (walk.end | (row == ROWS - 1))),
            ready.eq(found | complete),
        ]

        def up_to_now(name: str, value: Value, when: ValueLike) -> Signal:
            """What is noted of the tile: ``value``, from a cycle on in which a position is found."""
            now = Signal(value.shape(), name=name)
            noted = Signal.like(now, name=f"{name}_noted", reset_less=True)
            m.d.comb += now.eq(Mux(when, value, noted))
            m.d.sync += noted.eq(now)
            return now

        next_bases = [up_to_now(f"next_base_{r}", position, find & (row == r)) for r in range(ROWS)]
        next_last_row = up_to_now("next_last_row", row, find)
        next_final = up_to_now("next_final", walk.end, find)
        next_ends = up_to_now("next_ends", walk.end & last_group, find)
        # Whether its pairs are on a line each, one after the other, and it has all rows.
        next_shared = Signal()
        shared_so_far = Signal(reset_less=True)
        pairs_on = Array(
            (
                (apart[1] | apart[2]) & ~walk.line_end,
                shared_so_far & ~walk.end,
                shared_so_far & ~walk.line_end,
                shared_so_far,
            )
        )
        m.d.comb += next_shared.eq(Mux(find, pairs_on[row], shared_so_far))
        m.d.sync += shared_so_far.eq(next_shared)
        with m.If(find):
            next_base = group_base + Mux(descriptor.word_mode, columns, 0)
            m.d.comb += walk.step.eq(1)
            m.d.sync += [
                row.eq(row + 1),
                position.eq(position + Mux(walk.line_end, descriptor.input_wrap, descriptor.input_step)),
                finding.eq(~(walk.end & last_group)),
            ]
            with m.If(complete):
                m.d.sync += [row.eq(0), found.eq(1)]
            with m.If(walk.end):
                m.d.comb += walk.start.eq(1)
                m.d.sync += [
                    group_base.eq(next_base),
                    position.eq(next_base),
                    channels_left.eq(channels_left - columns),
                ]
        with m.Elif(~finding):
            # The first position of the layer that starts next.
            m.d.comb += walk.start.eq(1)
            m.d.sync += [
                group_base.eq(descriptor.input_base),
                position.eq(descriptor.input_base),
                channels_left.eq(descriptor.channels),
            ]
        with m.If(load):
            m.d.sync += found.eq(0)

        # The tile at hand, and where the walk is in it. What ends at a count is counted from 1, so that it
        # meets it as it is; whether it has is registered along with it, off the critical path.
        walking = self.walking
        active = Signal()
        bases = [Signal(address, name=f"base_{r}", reset_less=True) for r in range(ROWS)]
        last_row = Signal(range(ROWS), reset_less=True)
        final_tile = Signal(reset_less=True)
        ends = Signal(reset_less=True)
        shared = Signal(reset_less=True)
        single = Signal(reset_less=True)
        inner_end = Signal(11, reset_less=True)
        wrap = Signal(address, reset_less=True)
        outer = Signal(10, reset_less=True)
        inner = Signal(11, reset_less=True)
        last_outer = Signal(reset_less=True)
        last_inner = Signal(reset_less=True)
        last_of_first = Signal(reset_less=True)
        run_offset = Signal(address, reset_less=True)
        word_offset = Signal(address, reset_less=True)
        skips = [Signal(grain_bits, name=f"skip_of_{r}", reset_less=True) for r in range(ROWS)]
        bytes_left = Signal(signed(15), reset_less=True)
        first_word = Signal(reset_less=True)
        again = Signal(reset_less=True)
        # Which rows of the pairs the visit is for; in a shared tile the second joins in after so many words.
        visited = Signal(2, reset_less=True)
        second_after = Signal(reset_less=True)

        def word_offset_becomes(value: Value) -> list[ValueLike]:
            return [
                word_offset.eq(value),
                *(
                    skip.eq(base[:grain_bits] + value[:grain_bits])
                    for skip, base in zip(skips, bases, strict=True)
                ),
            ]

        # Far from its end a run takes whole words. Near it, where the bytes left are more than minus a word
        # (as rows differ in alignment) and less than two, few bits tell how many the word at hand holds.
        far = Signal()
        odd = Signal()
        last_visit = Signal()
        m.d.comb += [
            far.eq(~bytes_left[-1] & bytes_left[lane_bits + 1 :].any()),
            odd.eq(visited[1] & ~shared),
            last_visit.eq(single | shared | visited[1]),
        ]
        credits = [
            Signal(range(FEEDER_DEPTH + 1), init=FEEDER_DEPTH, name=f"credits_{r}") for r in range(ROWS)
        ]
        empty = Signal(ROWS)
        m.d.comb += empty.eq(Cat(credit == 0 for credit in credits))
        advance = Signal()
        possible, free, more = Signal(PORTS), Signal(PORTS), Signal(PORTS)
        reserved: Value = C(0)
        # The last live row speaks for those beyond it.
        first, second = visited
        speaks = [
            (first, second | (first & (last_row == 0)))
            + ((first & (last_row == 0)) | (second & (last_row == 1)),) * 2,
            (C(0), C(0), first & last_row[1], Mux(last_row[0], second, first) & last_row[1]),
        ]
        for p in range(PORTS):
            m.submodules[f"port_{p}"] = port = VisitPort(config)
            wiring.connect(m, port.port, wiring.flipped(self.ports[p]))
            targets = Signal(ROWS, name=f"targets_{p}")
            visit = Signal(address, name=f"visit_{p}")
            skip = Signal(grain_bits, name=f"skip_{p}")
            # Bytes of the run from the start of this word on; the word at hand holds up to `columns` of them.
            # Rows differ in alignment, so that one may need a word more than another.
            remaining = Signal(signed(lane_bits + 3), name=f"remaining_{p}")
            wanted = Signal(name=f"wanted_{p}")
            m.d.comb += [
                targets.eq(Cat(speaks[p])),
                visit.eq(Mux(odd, bases[2 * p + 1], bases[2 * p]) + word_offset),
                skip.eq(Mux(odd, skips[2 * p + 1], skips[2 * p])),
                remaining.eq(bytes_left[: lane_bits + 2].as_signed() + skip),
                wanted.eq(targets.any() & (far | (remaining > 0))),
                more[p].eq(targets.any() & (far | (remaining > columns))),
                free[p].eq(port.free),
                possible[p].eq(~wanted | ~(targets & empty).any()),
                port.advance.eq(advance),
                port.wanted.eq(wanted),
                port.address.eq(visit),
                port.targets.eq(targets),
                port.tag.start.eq(Mux(first_word, skip, 0)),
                port.tag.last.eq(Mux(more[p], columns - 1, remaining - 1)),
                port.tag.window_end.eq(last_inner & last_outer & ~more[p]),
                port.tag.final_tile.eq(final_tile),
                port.tag.last_row.eq(last_row),
                self.push[p].eq(port.push),
                self.run[p].eq(port.run),
            ]
            reserved = reserved | Mux(advance & wanted, targets, 0)
        # The ports ask again when both are granted, so that no request overtakes another.
        m.d.comb += advance.eq(active & possible.all() & free.all())
        for r in range(ROWS):
            m.d.sync += credits[r].eq(credits[r] - reserved[r] + self.pop[r])

        tile_end = Signal()
        with m.If(advance):
            with m.If(~last_visit):
                m.d.sync += [again.eq(again | more.any()), visited.eq(0b10)]
            with m.Else():
                m.d.sync += [again.eq(0), first_word.eq(0), visited.eq(Mux(shared, visited, 0b01))]
                with m.If(again | more.any()):
                    m.d.sync += [
                        *word_offset_becomes(word_offset + columns),
                        bytes_left.eq(bytes_left - columns),
                    ]
                with m.Else():
                    following = Signal(address)
                    m.d.comb += following.eq(run_offset + Mux(last_inner, wrap, descriptor.inner_step))
                    m.d.sync += [
                        first_word.eq(1),
                        bytes_left.eq(descriptor.run),
                        run_offset.eq(following),
                        *word_offset_becomes(following),
                        inner.eq(inner + 1),
                        last_inner.eq(inner + 1 == inner_end),
                        last_of_first.eq(inner + 1 == descriptor.inner_count),
                    ]
                    with m.If(shared):
                        m.d.sync += [
                            visited[0].eq(visited[0] & ~last_of_first),
                            visited[1].eq(visited[1] | ~second_after),
                            second_after.eq(0),
                        ]
                    with m.If(last_inner):
                        m.d.comb += tile_end.eq(last_outer)
                        m.d.sync += [
                            inner.eq(1),
                            last_inner.eq(inner_end == 1),
                            last_of_first.eq(descriptor.inner_count == 1),
                            outer.eq(outer + 1),
                            last_outer.eq(outer + 1 == descriptor.outer_count),
                            visited.eq(0b01),
                            second_after.eq(apart[2]),
                        ]
        m.d.comb += load.eq(ready & (~active | tile_end))
        with m.If(tile_end):
            m.d.sync += active.eq(0)
            with m.If(ends):
                m.d.sync += walking.eq(0)
        with m.If(load):
            m.d.sync += [
                active.eq(1),
                *(base.eq(value) for base, value in zip(bases, next_bases, strict=True)),
                *(skip.eq(value[:grain_bits]) for skip, value in zip(skips, next_bases, strict=True)),
                last_row.eq(next_last_row),
                single.eq(next_last_row == 0),
                final_tile.eq(next_final),
                ends.eq(next_ends),
                shared.eq(next_shared),
                inner_end.eq(Mux(next_shared, shared_count, descriptor.inner_count)),
                wrap.eq(Mux(next_shared, shared_wrap, descriptor.outer_wrap)),
                inner.eq(1),
                last_inner.eq(~next_shared & (descriptor.inner_count == 1)),
                last_of_first.eq(descriptor.inner_count == 1),
                outer.eq(1),
                last_outer.eq(descriptor.outer_count == 1),
                run_offset.eq(0),
                word_offset.eq(0),
                bytes_left.eq(descriptor.run),
                first_word.eq(1),
                again.eq(0),
                visited.eq(0b01),
                second_after.eq(apart[2]),
            ]
        with m.If(self.start):
            m.d.sync += walking.eq(1)
        return m
