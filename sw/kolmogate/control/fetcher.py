"""Window fetcher of a machine with one scratchpad port."""

from numba import njit

from ..registers import Registers
from .visits import ask, clock_visits, has_room, look_ahead

__all__ = ["clock_fetcher"]


@njit
def clock_fetcher(
    machine: Registers,
    d: Registers,
    fetcher: Registers,
    rows: Registers,
    lanes: Registers,
    granted: int,
    start: bool,
) -> None:
    lane, step = lanes[0], fetcher.step
    placing = fetcher.first_run and fetcher.first_word
    line_end = fetcher.x == d.x_count - 1
    end = line_end and fetcher.y == d.y_count - 1
    last_step = step == fetcher.live_step
    if placing:
        last_step = end or step == machine.rows - 1
    run_end = fetcher.run_end
    advance = clock_visits(machine, lanes, granted) and fetcher.walking and not run_end
    advance = advance and not fetcher.regroup
    # The cycle before a column group's first visit.
    fetcher.regroup = 0
    if advance:
        lane.visit = fetcher.position if placing else rows[step].base + fetcher.word_offset
        # The last live row speaks for those beyond it. All of them must have room.
        onward = (1 << machine.rows) - (1 << step)
        lane.rows = onward if last_step else 1 << step
        window_last = fetcher.inner == d.inner_count - 1 and fetcher.outer == d.outer_count - 1
        final_tile = end if placing else fetcher.final_tile
        look_ahead(machine, lane, fetcher.bytes_left, fetcher.first_word, window_last, final_tile)
        advance = has_room(machine, lane, rows, onward)
    for r in range(machine.rows):
        rows[r].credits += rows[r].popped
        rows[r].popped = rows[r].pop
    if advance:
        if placing:
            rows[step].base = fetcher.position
            fetcher.live_step, fetcher.final_tile = step, end
            fetcher.position += d.input_wrap if line_end else d.input_step
            fetcher.x = 0 if line_end else fetcher.x + 1
            fetcher.y += line_end
        ask(machine, lane, rows)
        more = fetcher.again or lane.more
        fetcher.step += 1
        fetcher.again = more
        if last_step:
            fetcher.step, fetcher.again, fetcher.first_word = 0, 0, 0
            if more:
                fetcher.word_offset += machine.columns
                fetcher.bytes_left -= machine.columns
            else:
                fetcher.run_end = 1
    if run_end:
        # The cycle after a run's last visit.
        fetcher.run_end = 0
        next_run(machine, d, fetcher)
    if start:
        fetcher.run_end = 0
        fetcher.walking = 1
        fetcher.channels_left = d.channels
        fetcher.group_base, fetcher.position = d.input_base, d.input_base
        fetcher.x, fetcher.y, fetcher.step = 0, 0, 0
        fetcher.outer, fetcher.inner = 0, 0
        fetcher.run_offset, fetcher.word_offset = 0, 0
        fetcher.bytes_left = d.run
        fetcher.first_run, fetcher.first_word, fetcher.again = 1, 1, 0


@njit
def next_run(machine: Registers, d: Registers, fetcher: Registers) -> None:
    """On to the next run of the window, the next tile, the next column group."""
    fetcher.first_word, fetcher.first_run = 1, 0
    fetcher.bytes_left = d.run
    if fetcher.inner != d.inner_count - 1:
        fetcher.inner += 1
        fetcher.run_offset += d.inner_step
        fetcher.word_offset = fetcher.run_offset
        return
    last_outer = fetcher.outer == d.outer_count - 1
    fetcher.inner = 0
    fetcher.outer += 1
    fetcher.run_offset += d.outer_wrap
    fetcher.word_offset = fetcher.run_offset
    if last_outer:
        fetcher.outer, fetcher.run_offset, fetcher.word_offset = 0, 0, 0
        fetcher.first_run = 1
        if fetcher.final_tile:
            fetcher.x, fetcher.y = 0, 0
            fetcher.group_base += machine.columns if d.word_mode else 0
            # In byte mode each column group reads the same windows.
            fetcher.position = fetcher.group_base
            fetcher.regroup = 1
            fetcher.walking = fetcher.channels_left > machine.columns
            fetcher.channels_left -= machine.columns
