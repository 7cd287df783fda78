"""Window fetcher of a machine with two scratchpad ports, whose rows share words."""

from numba import njit

from ..axis import FOUR, FOUR_WORDS, PAIR
from ..registers import Registers
from .array import tag_of
from .visits import ask, clock_visits, has_room, look_ahead

__all__ = ["clock_pair_fetcher"]

ROWS = 2 * PAIR

# Rows of the pairs that a visit is for.
FIRST, SECOND = 1, 2


@njit
def words_apart(d: Registers) -> int:
    """From a window to the next along a line, where if a pair can share words; else 0."""
    if not d.word_mode or d.inner_count == d.outer_count == 1:
        return 0
    if d.input_step == 2 * d.inner_step:
        return 2
    return d.input_step == d.inner_step


@njit
def clock_pair_fetcher(
    machine: Registers,
    d: Registers,
    fetcher: Registers,
    rows: Registers,
    lanes: Registers,
    granted: int,
    start: bool,
    held: bool,
) -> None:
    # The lanes' next requests come when all have been granted; they were found a cycle before, or earlier.
    asking = clock_visits(machine, lanes, granted) and fetcher.pending
    for p in range(2):
        asking = asking and has_room(machine, lanes[p], rows, lanes[p].rows)
    for r in range(ROWS):
        rows[r].credits += rows[r].pop
    if asking:
        for p in range(2):
            ask(machine, lanes[p], rows)
    # Two visits may wait.
    advance = (fetcher.active or fetcher.lagging) and not fetcher.behind
    here = asking or not fetcher.pending
    if here:
        fetcher.pending = fetcher.behind or advance
        for p in range(2):
            lane = lanes[p]
            if fetcher.behind:
                lane.wanted, lane.rows, lane.made = lane.next_wanted, lane.next_rows, lane.next_made
        fetcher.behind = 0
    else:
        fetcher.behind = fetcher.behind or advance
    tile_end = False
    lagging = fetcher.lagging
    if advance:
        if not here:
            for p in range(2):
                swap_visits(lanes[p])
        if fetcher.four or not fetcher.active:
            tile_end = advance_four(machine, d, fetcher, lanes)
        else:
            tile_end = advance_pairs(machine, d, fetcher, rows, lanes)
        if not here:
            for p in range(2):
                swap_visits(lanes[p])
    clock_finder(machine, d, fetcher, rows, tile_end, lagging or (tile_end and fetcher.four), start, held)


@njit
def swap_visits(lane: Registers) -> None:
    wanted, for_rows, made = lane.wanted, lane.rows, lane.made
    lane.wanted, lane.rows, lane.made = lane.next_wanted, lane.next_rows, lane.next_made
    lane.next_wanted, lane.next_rows, lane.next_made = wanted, for_rows, made


@njit
def advance_four(machine: Registers, d: Registers, fetcher: Registers, lanes: Registers) -> bool:
    """A visit of the first words of a line, and one of the last of the line before; whether the tile ends."""
    twice = words_apart(d) == 2
    slots = len(FOUR[1]) if twice else len(FOUR[0])
    lead, lag = lanes[0], lanes[1]
    lead.rows, lag.rows = 0, 0
    if fetcher.lagging:
        lag.rows = FOUR[1][fetcher.lag][1] if twice else FOUR[0][fetcher.lag][1]
        fetcher.lag += 1
        ends = fetcher.lag == slots
        lag.made = tag_of(0, machine.columns - 1, ends and fetcher.lag_last, fetcher.lag_final)
        fetcher.lagging = not ends
    tile_end = False
    if fetcher.active:
        lead.rows = FOUR[1][fetcher.inner][0] if twice else FOUR[0][fetcher.inner][0]
        lead.made = tag_of(0, machine.columns - 1, False, fetcher.final_tile)
        fetcher.inner += 1
        if fetcher.inner == slots:
            tile_end = fetcher.outer == d.outer_count - 1
            fetcher.lagging, fetcher.lag = 1, 0
            fetcher.lag_last, fetcher.lag_final = tile_end, fetcher.final_tile
            fetcher.inner = 0
            fetcher.outer += 1
    lead.wanted, lag.wanted = lead.rows != 0, lag.rows != 0
    return tile_end


@njit
def advance_pairs(
    machine: Registers, d: Registers, fetcher: Registers, rows: Registers, lanes: Registers
) -> bool:
    """A word for each pair; whether the tile ends."""
    inner_end = d.inner_count + (words_apart(d) if fetcher.shared else 0)
    window_last = fetcher.inner == inner_end - 1 and fetcher.outer == d.outer_count - 1
    for_rows = rows_of_visit(fetcher)
    more = False
    for p in range(2):
        lane = lanes[p]
        lane.rows = for_rows[p]
        row = 2 * p + (fetcher.visited == SECOND and not fetcher.shared)
        lane.visit = rows[row].base + fetcher.word_offset
        look_ahead(machine, lane, fetcher.bytes_left, fetcher.first_word, window_last, fetcher.final_tile)
        more = more or lane.more
    more = more or fetcher.again
    if not fetcher.shared and fetcher.last_row != 0 and fetcher.visited == FIRST:
        fetcher.visited, fetcher.again = SECOND, more
        return False
    fetcher.again, fetcher.first_word = 0, 0
    if not fetcher.shared:
        fetcher.visited = FIRST
    if more:
        fetcher.word_offset += machine.columns
        fetcher.bytes_left -= machine.columns
        return False
    return next_run(d, fetcher, inner_end)


@njit
def rows_of_visit(fetcher: Registers) -> tuple[int, int]:
    """Rows that each lane's visit is for. The last live row speaks for those beyond it."""
    first, second = fetcher.visited & FIRST, fetcher.visited >> 1
    if fetcher.last_row == 3:
        return first | second << 1, first << 2 | second << 3
    if fetcher.last_row == 2:
        return first | second << 1, 0b1100 * first
    if fetcher.last_row == 1:
        return first | 0b1110 * second, 0
    return 0b1111 * first, 0


@njit
def next_run(d: Registers, fetcher: Registers, inner_end: int) -> bool:
    """On to the next run of the window; whether there is none."""
    fetcher.first_word = 1
    fetcher.bytes_left = d.run
    fetcher.inner += 1
    if fetcher.inner == inner_end:
        apart = inner_end - d.inner_count
        fetcher.run_offset += d.outer_wrap - (d.input_step if apart else 0)
        fetcher.inner, fetcher.visited = 0, FIRST
        fetcher.outer += 1
    else:
        fetcher.run_offset += d.inner_step
        if fetcher.shared:
            share(d, fetcher)
    fetcher.word_offset = fetcher.run_offset
    return fetcher.outer == d.outer_count


@njit
def share(d: Registers, fetcher: Registers) -> None:
    """The rows of the pairs that take the word at hand."""
    fetcher.visited = FIRST if fetcher.inner < d.inner_count else 0
    if fetcher.inner >= words_apart(d):
        fetcher.visited |= SECOND


@njit
def clock_finder(
    machine: Registers,
    d: Registers,
    fetcher: Registers,
    rows: Registers,
    tile_end: bool,
    lagging: int,
    start: bool,
    held: bool,
) -> None:
    """Finds the next tile, a position a cycle, and makes it the one at hand when that has ended."""
    held = held and fetcher.first_taken
    if start:
        fetcher.walking, fetcher.finding, fetcher.first_taken = 1, 1, 0
        fetcher.channels_left = d.channels
        fetcher.group_base, fetcher.position = d.input_base, d.input_base
        fetcher.x, fetcher.y = 0, 0
    if fetcher.finding and not fetcher.found:
        find_position(machine, d, fetcher, rows)
    if tile_end:
        fetcher.active = 0
        fetcher.walking = not fetcher.ends
    free = not start and not fetcher.active and not held and (fetcher.next_four or not lagging)
    if fetcher.found and free:
        fetcher.found, fetcher.active, fetcher.first_taken = 0, 1, 1
        for r in range(ROWS):
            rows[r].base = rows[r].next_base
        fetcher.last_row, fetcher.shared = fetcher.next_last_row, fetcher.next_shared
        fetcher.four = fetcher.next_four
        fetcher.final_tile, fetcher.ends = fetcher.next_final, not fetcher.finding
        fetcher.outer, fetcher.inner = 0, 0
        fetcher.run_offset, fetcher.word_offset = 0, 0
        fetcher.bytes_left = d.run
        fetcher.first_word, fetcher.again, fetcher.visited = 1, 0, FIRST


@njit
def find_position(machine: Registers, d: Registers, fetcher: Registers, rows: Registers) -> None:
    row = fetcher.row
    line_end = fetcher.x == d.x_count - 1
    end = line_end and fetcher.y == d.y_count - 1
    if row == 0:
        fetcher.next_shared = words_apart(d) != 0
        apart = words_apart(d)
        fetcher.next_four = d.inner_count == FOUR_WORDS and (
            apart == 1 or (apart == 2 and d.x_count % ROWS == 0)
        )
    # A line that ends between pairs parts none.
    if line_end and row % PAIR == 0:
        fetcher.next_shared = 0
    if (line_end or end) and row != ROWS - 1:
        fetcher.next_four = 0
    rows[row].next_base = fetcher.position
    fetcher.next_last_row, fetcher.next_final = row, end
    fetcher.found = end or row == ROWS - 1
    fetcher.row = 0 if fetcher.found else row + 1
    fetcher.position += d.input_wrap if line_end else d.input_step
    fetcher.x = 0 if line_end else fetcher.x + 1
    fetcher.y += line_end
    if end:
        fetcher.x, fetcher.y = 0, 0
        fetcher.group_base += machine.columns if d.word_mode else 0
        # In byte mode each column group reads the same windows.
        fetcher.position = fetcher.group_base
        fetcher.finding = fetcher.channels_left > machine.columns
        fetcher.channels_left -= machine.columns
