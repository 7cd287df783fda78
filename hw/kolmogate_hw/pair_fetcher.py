"""The window fetcher of machines with two scratchpad ports, whose rows share words in pairs."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, wiring
from kolmogate.axis import FOUR
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, WORD_GRAIN

from .feeder import RunLayout
from .fetcher import WindowFetcher
from .tiles import TILE_ROWS, TileFinder, TileLayout
from .visits import VisitPort

__all__ = ["PairFetcher", "window_fetcher"]

ROWS, PORTS = TILE_ROWS, 2


def window_fetcher(config: MachineConfig) -> WindowFetcher:
    """That of a machine with so many scratchpad ports."""
    return (PairFetcher if config.scratchpad_ports == PORTS else WindowFetcher)(config)


class PairFetcher(WindowFetcher):
    """As `WindowFetcher`, with a visit a cycle on each port: port p fetches for rows 2p and 2p + 1.

    In word mode a word may be for both rows of a pair. Where windows are s words apart along a line, s being
    1 or 2, and n words wide, row 2p takes the first n of n + s words and its neighbour the last n: the pairs
    of a tile that are on a line each walk them once instead of 2n. A tile with a row that is alone in its
    pair, or where a line ends within one, is fetched row by row.

    Where all four rows of a tile are on a line and windows are three words wide, they share its words
    (`axis.FOUR`): port 0 has the first ones of each line, and port 1, which is a line behind, the last ones.
    So port 1 is at the end of a tile while port 0 begins the next, if that is of this kind.

    ``window_end`` of a word is that of the last of the rows it is for. Rows beyond the layer's last position
    get the words of the last.

    A tile's positions are found while the one before is fetched, one a cycle; a layer's first request comes
    as many cycles after ``start`` as its first tile has positions, at least two, and another. While a layer
    is ``held``, no tile is fetched but its first.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        columns = config.columns
        lane_bits = columns.bit_length() - 1
        grain_bits = WORD_GRAIN.bit_length() - 1
        address = ADDRESS_BITS

        m.submodules.tiles = tiles = TileFinder(config)
        m.d.comb += [
            tiles.start.eq(self.start),
            tiles.descriptor.eq(descriptor),
            self.next_group.eq(tiles.next_group),
            self.group_base.eq(tiles.group_base),
        ]
        # For tiles that are shared: the words that a pair walks, and from their last to the first of the next
        # line. Both are the layer's, and registered.
        shared_count = Signal(11, reset_less=True)
        shared_wrap = Signal(address, reset_less=True)
        twice = tiles.apart[1]
        m.d.sync += [
            shared_count.eq(descriptor.inner_count + Mux(twice, 2, 1)),
            shared_wrap.eq(descriptor.outer_wrap - descriptor.input_step),
        ]

        # The tile at hand, and where the walk is in it. What ends at a count is counted from 1, so that it
        # meets it as it is; whether it has is registered along with it, off the critical path.
        walking = Signal()
        active = Signal()
        tile = Signal(TileLayout, reset_less=True)
        bases, last_row, shared = tile.bases, tile.last_row, tile.shared
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
        # Whether it is for the second alone, from its own base.
        visited = Signal(2, reset_less=True)
        odd = Signal(reset_less=True)
        second_after = Signal(reset_less=True)

        # Far from its end a run takes whole words. Near it, where the bytes left are more than minus a word
        # (as rows differ in alignment) and less than two, few bits tell how many the word at hand holds for a
        # row: some, or more than it can.
        far = Signal(reset_less=True)
        some = Signal(ROWS, reset_less=True)
        beyond = Signal(ROWS, reset_less=True)
        last_visit = Signal()
        m.d.comb += last_visit.eq(single | shared | odd)

        def word_becomes(left: Value, starts: list[Value]) -> list[ValueLike]:
            """Bytes left, and where the rows' words begin, with what follows from both.

            For use outside of conditions: within one, its sums would wait for it.
            """
            assignments: list[ValueLike] = [
                bytes_left.eq(left),
                far.eq(~left[-1] & left[lane_bits + 1 :].any()),
            ]
            for r, start in enumerate(starts):
                skip = Signal(grain_bits, name=f"next_skip_of_{r}")
                remaining = Signal(signed(lane_bits + 3), name=f"next_remaining_of_{r}")
                m.d.comb += [
                    skip.eq(start),
                    remaining.eq(left[: lane_bits + 2].as_signed() + skip),
                ]
                assignments += [
                    skips[r].eq(skip),
                    some[r].eq(remaining > 0),
                    beyond[r].eq(remaining > columns),
                ]
            return assignments

        run = Cat(descriptor.run, C(0, len(bytes_left) - len(descriptor.run)))

        # Port 1's end of a line that all rows share: its first word, how far behind that the visit is, and
        # which of them it is; whether it ends the tile, and of what kind that is.
        four = tile.four
        lagging = Signal()
        lag = Signal(3, reset_less=True)
        lag_base = Signal(address, reset_less=True)
        lag_offset = Signal(address, reset_less=True)
        lag_last = Signal(reset_less=True)
        lag_final = Signal(reset_less=True)
        lag_end = Signal()
        m.d.comb += lag_end.eq(lag == Mux(twice, len(FOUR[1]), len(FOUR[0])))

        def rows_of(count: Value, port: int) -> Value:
            """The rows that a port visits for, counted from 1 along a line that all share."""
            taken = []
            for row in range(ROWS):
                once, other = (
                    C(sum((each[port] >> row & 1) << k for k, each in enumerate(line, 1)), 8) for line in FOUR
                )
                taken.append(Mux(twice, other, once).bit_select(count[:3], 1))
            return Cat(taken)

        depth = config.feeder_depth
        credits = [Signal(range(depth + 1), init=depth, name=f"credits_{r}") for r in range(ROWS)]
        empty = Signal(ROWS)
        m.d.comb += empty.eq(Cat(credit == 0 for credit in credits))
        # The walk goes on; what it found is asked for. Between the two visits wait, up to two of each port,
        # so that the walk need not know whether the feeders have room and the ports are free.
        advance = Signal()
        ask = Signal()
        pending = Signal()
        behind = Signal()
        possible, free, more = Signal(PORTS), Signal(PORTS), Signal(PORTS)
        reserved: Value = C(0)
        # The last live row speaks for those beyond it.
        first, second = visited
        speaks = [
            (first, second | (first & (last_row == 0)))
            + ((first & (last_row == 0)) | (second & (last_row == 1)),) * 2,
            (C(0), C(0), first & last_row[1], Mux(last_row[0], second, first) & last_row[1]),
        ]
        fours = rows_of(inner, 0) & active.replicate(ROWS), rows_of(lag, 1) & lagging.replicate(ROWS)
        visits = (
            Mux(odd, bases[1], bases[0]) + word_offset,
            Mux(four, lag_base, Mux(odd, bases[3], bases[2])) + Mux(four, lag_offset, word_offset),
        )
        tile_ends = last_inner & last_outer
        ends = (tile_ends & ~four, Mux(four, lag_end & lag_last, tile_ends))
        finals = (tile.final, Mux(four, lag_final, tile.final))
        for p in range(PORTS):
            m.submodules[f"port_{p}"] = port = VisitPort(config)
            wiring.connect(m, port.port, wiring.flipped(self.ports[p]))
            visit_layout = data.StructLayout(
                {"wanted": 1, "address": address, "targets": ROWS, "tag": RunLayout(config)}
            )
            made = Signal(visit_layout, name=f"made_{p}")
            here = Signal(visit_layout, name=f"here_{p}", reset_less=True)
            following = Signal(visit_layout, name=f"following_{p}", reset_less=True)
            with m.If(~behind):
                m.d.sync += following.eq(made)
            with m.If(ask | ~pending):
                m.d.sync += here.eq(Mux(behind, following, made))
            targets = Signal(ROWS, name=f"targets_{p}")
            visit = Signal(address, name=f"visit_{p}")
            skip = Signal(grain_bits, name=f"skip_{p}")
            # Bytes of the run from the start of this word on; the word at hand holds up to `columns` of them.
            # Rows differ in alignment, so that one may need a word more than another.
            remaining = Signal(signed(lane_bits + 3), name=f"remaining_{p}")
            wanted = Signal(name=f"wanted_{p}")
            m.d.comb += [
                targets.eq(Mux(four, fours[p], Cat(speaks[p]))),
                visit.eq(visits[p]),
                skip.eq(Mux(odd, skips[2 * p + 1], skips[2 * p])),
                remaining.eq(bytes_left[: lane_bits + 2].as_signed() + skip),
                wanted.eq(targets.any() & (four | far | Mux(odd, some[2 * p + 1], some[2 * p]))),
                more[p].eq(targets.any() & ~four & (far | Mux(odd, beyond[2 * p + 1], beyond[2 * p]))),
                free[p].eq(port.free),
                made.wanted.eq(wanted),
                made.address.eq(visit),
                made.targets.eq(targets),
                made.tag.start.eq(Mux(first_word & ~four, skip, 0)),
                made.tag.last.eq(Mux(more[p] | four, columns - 1, remaining - 1)),
                made.tag.window_end.eq(ends[p] & ~more[p]),
                made.tag.final_tile.eq(finals[p]),
                made.tag.last_row.eq(last_row),
                possible[p].eq(~here.wanted | ~(here.targets & empty).any()),
                port.advance.eq(ask),
                port.wanted.eq(here.wanted),
                port.address.eq(here.address),
                port.targets.eq(here.targets),
                port.tag.eq(here.tag),
                self.push[p].eq(port.push),
                self.run[p].eq(port.run),
            ]
            reserved = reserved | Mux(ask & here.wanted, here.targets, 0)
        # The ports ask again when both are granted, so that no request overtakes another.
        m.d.comb += [
            ask.eq(pending & possible.all() & free.all()),
            advance.eq((active | lagging) & ~behind),
            self.walking.eq(walking | lagging | pending),
        ]
        m.d.sync += behind.eq(pending & ~ask & (behind | advance))
        with m.If(ask | ~pending):
            m.d.sync += pending.eq(behind | advance)
        for r in range(ROWS):
            m.d.sync += credits[r].eq(credits[r] - reserved[r] + self.pop[r])

        # What the next word of the run is, the first of the next run, or of the next tile.
        next_run = Signal(address)
        m.d.comb += next_run.eq(run_offset + Mux(last_inner, wrap, descriptor.inner_step))
        word_follows = word_becomes((bytes_left - columns)[: len(bytes_left)], skips)
        run_follows = word_becomes(run, [base[:grain_bits] + next_run[:grain_bits] for base in bases])
        tile_follows = word_becomes(run, [base[:grain_bits] for base in tiles.tile.bases])

        tile_end = Signal()
        with m.If(advance & lagging):
            m.d.sync += [lag.eq(lag + 1), lag_offset.eq(lag_offset + descriptor.inner_step)]
            with m.If(lag_end):
                m.d.sync += lagging.eq(0)
        with m.If(active & ~behind):
            with m.If(~last_visit):
                m.d.sync += [again.eq(again | more.any()), visited.eq(0b10), odd.eq(1)]
            with m.Else():
                m.d.sync += [again.eq(0), first_word.eq(0), visited.eq(Mux(shared, visited, 0b01)), odd.eq(0)]
                with m.If(again | more.any()):
                    m.d.sync += [word_offset.eq(word_offset + columns), *word_follows]
                with m.Else():
                    m.d.sync += [
                        first_word.eq(1),
                        run_offset.eq(next_run),
                        word_offset.eq(next_run),
                        *run_follows,
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
                        with m.If(four):
                            m.d.sync += [
                                lagging.eq(1),
                                lag.eq(1),
                                lag_base.eq(visits[0]),
                                lag_offset.eq(Mux(twice, 0, descriptor.inner_step)),
                                lag_last.eq(last_outer),
                                lag_final.eq(tile.final),
                            ]
                        m.d.sync += [
                            inner.eq(1),
                            last_inner.eq(inner_end == 1),
                            last_of_first.eq(descriptor.inner_count == 1),
                            outer.eq(outer + 1),
                            last_outer.eq(outer + 1 == descriptor.outer_count),
                            visited.eq(0b01),
                            second_after.eq(twice),
                        ]
        with m.If(tile_end):
            m.d.sync += active.eq(0)
            with m.If(tile.ends):
                m.d.sync += walking.eq(0)
        # A layer that is held back may have its first tile.
        first_taken = Signal(reset_less=True)
        # Tiles of another kind need port 1.
        waits = ~tiles.tile.four & (lagging | (tile_end & four))
        m.d.comb += tiles.take.eq(tiles.ready & (~active | tile_end) & ~(self.held & first_taken) & ~waits)
        with m.If(tiles.take):
            # A line that four rows share has as many visits as a window words, or a pair two words apart.
            following_shares = tiles.tile.shared & (twice | ~tiles.tile.four)
            m.d.sync += [
                active.eq(1),
                first_taken.eq(1),
                tile.eq(tiles.tile),
                single.eq(tiles.tile.last_row == 0),
                *tile_follows,
                inner_end.eq(Mux(following_shares, shared_count, descriptor.inner_count)),
                wrap.eq(Mux(following_shares, shared_wrap, descriptor.outer_wrap)),
                inner.eq(1),
                last_inner.eq(descriptor.single_run | (~following_shares & (descriptor.inner_count == 1))),
                last_of_first.eq(descriptor.inner_count == 1),
                outer.eq(1),
                last_outer.eq(descriptor.single_run | (descriptor.outer_count == 1)),
                run_offset.eq(0),
                word_offset.eq(0),
                first_word.eq(1),
                again.eq(0),
                visited.eq(0b01),
                odd.eq(0),
                second_after.eq(twice),
            ]
        with m.If(self.start):
            m.d.sync += [walking.eq(1), first_taken.eq(0)]
        return m
