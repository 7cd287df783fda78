"""Window fetcher."""

from numba import njit

from ..registers import Registers
from .arbiter import ACTIVATIONS_0, ACTIVATIONS_1
from .array import tag_of

__all__ = ["clock_fetcher"]


@njit
def look_ahead(
    machine: Registers, d: Registers, fetcher: Registers, rows: Registers, lanes: Registers
) -> bool:
    """What each lane asks for next, and where that goes; whether all of them have room for it."""
    columns, ports = machine.columns, machine.scratchpad_ports
    placing = fetcher.first_run and fetcher.first_word
    ended = False
    step = fetcher.step
    if placing:
        x, y, position = fetcher.x, fetcher.y, fetcher.position
        for p in range(ports):
            lanes[p].placed = not ended
            lanes[p].visit = position
            if x == d.x_count - 1:
                ended = ended or y == d.y_count - 1
                position += d.input_wrap
                x = 0
                y += 1
            else:
                position += d.input_step
                x += 1
        fetcher.next_x, fetcher.next_y, fetcher.next_position = x, y, position
        last_step = ended or step == machine.rows // ports - 1
    else:
        last_step = step == fetcher.live_step
    fetcher.placing, fetcher.ended, fetcher.last_step = placing, ended, last_step
    for p in range(ports):
        if placing:
            lanes[p].live = lanes[p].placed
        else:
            lanes[p].live = not last_step or fetcher.live_lanes >> p & 1
            lanes[p].visit = rows[step * ports + p].base + fetcher.word_offset

    possible = True
    for p in range(ports):
        lane = lanes[p]
        row = step * ports + p
        lane.remaining = fetcher.bytes_left + lane.visit % machine.word_grain
        lane.wanted = lane.live and lane.remaining > 0
        lane.more = lane.live and lane.remaining > columns
        # The last live row speaks for those beyond it.
        last_live = last_step and (p == ports - 1 or not lanes[p + 1].live)
        through = machine.rows - 1 if last_live else row
        lane.reserved = 0
        if lane.wanted:
            lane.reserved = (2 << through) - (1 << row)
            for r in range(row, through + 1):
                possible = possible and rows[r].credits != 0
    return possible


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
    columns, ports = machine.columns, machine.scratchpad_ports
    # Answers come two cycles after the grant, one later where words are turned; their tags wait as long.
    advance = fetcher.walking != 0
    turned = columns != machine.word_grain
    for p in range(ports):
        lane = lanes[p]
        if turned:
            lane.push, lane.answer = lane.turning, lane.turned
            lane.turning, lane.turned = lane.pushed, lane.delayed
        else:
            lane.push, lane.answer = lane.pushed, lane.delayed
        lane.pushed, lane.delayed = 0, lane.tag
        if granted & (ACTIVATIONS_1 if p else ACTIVATIONS_0):
            lane.request = 0
            lane.pushed = lane.targets
        advance = advance and not lane.request

    # The lanes' next requests come when all have been granted.
    advance = advance and look_ahead(machine, d, fetcher, rows, lanes)
    for r in range(machine.rows):
        rows[r].credits += rows[r].pop
    if advance:
        step = fetcher.step
        more = fetcher.again
        window_last = fetcher.inner == d.inner_count - 1 and fetcher.outer == d.outer_count - 1
        if fetcher.placing:
            fetcher.live_lanes = 0
            for p in range(ports):
                rows[step * ports + p].base = lanes[p].visit
                fetcher.live_lanes |= lanes[p].placed << p
            fetcher.live_step = step
            fetcher.final_tile = fetcher.ended
            fetcher.x, fetcher.y, fetcher.position = fetcher.next_x, fetcher.next_y, fetcher.next_position
        for p in range(ports):
            lane = lanes[p]
            lane.request = lane.wanted
            lane.targets = lane.reserved
            lane.tag = tag_of(
                lane.visit % machine.word_grain if fetcher.first_word else 0,
                columns - 1 if lane.more else lane.remaining - 1,
                window_last and not lane.more,
                fetcher.final_tile,
            )
            more = more or lane.more
            for r in range(machine.rows):
                rows[r].credits -= lane.reserved >> r & 1
        fetcher.step += 1
        fetcher.again = more
        if fetcher.last_step:
            fetcher.step, fetcher.again, fetcher.first_word = 0, 0, 0
            if more:
                fetcher.word_offset += columns
                fetcher.bytes_left -= columns
            else:
                next_run(machine, d, fetcher)
    if start:
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
            fetcher.walking = fetcher.channels_left > machine.columns
            fetcher.channels_left -= machine.columns
