"""The window fetcher's ends of the scratchpad ports (lanes)."""

from numba import njit

from ..registers import Registers
from .arbiter import ACTIVATIONS_0, ACTIVATIONS_1
from .array import tag_of

__all__ = ["ask", "clock_visits", "has_room", "look_ahead"]


@njit
def clock_visits(machine: Registers, lanes: Registers, granted: int) -> bool:
    """Whether all requests are granted, so that the next may come."""
    # The tags wait as long as the answers.
    turned = machine.columns != machine.word_grain
    free = True
    for p in range(machine.scratchpad_ports):
        lane = lanes[p]
        lane.push, lane.answer = lane.pushed, lane.delayed
        if turned:
            lane.push, lane.answer = lane.turning, lane.turned
            lane.turning, lane.turned = lane.pushed, lane.delayed
        lane.pushed, lane.delayed = 0, lane.tag
        if machine.fast:
            lane.pushed, lane.delayed = lane.choosing, lane.chosen
            lane.choosing, lane.chosen = 0, lane.tag
        if granted & (ACTIVATIONS_1 if p else ACTIVATIONS_0):
            lane.request = 0
            if machine.fast:
                lane.choosing = lane.targets
            else:
                lane.pushed = lane.targets
        free = free and not lane.request
    return free


@njit
def look_ahead(
    machine: Registers,
    lane: Registers,
    bytes_left: int,
    first_word: int,
    window_last: bool,
    final_tile: int,
) -> None:
    """What there is for the rows ``lane.rows`` in the word at ``lane.visit``.

    So many bytes are left of the run for a row whose word begins at a multiple of the grain.
    """
    lane.remaining = bytes_left + lane.visit % machine.word_grain
    lane.wanted = lane.rows != 0 and lane.remaining > 0
    lane.more = lane.rows != 0 and lane.remaining > machine.columns
    lane.made = tag_of(
        lane.visit % machine.word_grain if first_word else 0,
        machine.columns - 1 if lane.more else lane.remaining - 1,
        window_last and not lane.more,
        final_tile,
    )


@njit
def has_room(machine: Registers, lane: Registers, rows: Registers, room_in: int) -> bool:
    """Whether the rows ``room_in`` have room for what `look_ahead` looked at."""
    room = True
    for r in range(machine.rows):
        room = room and not (lane.wanted and room_in >> r & 1 and rows[r].credits == 0)
    return room


@njit
def ask(machine: Registers, lane: Registers, rows: Registers) -> None:
    """Request it."""
    lane.request, lane.targets, lane.tag = lane.wanted, lane.rows, lane.made
    for r in range(machine.rows):
        rows[r].credits -= lane.wanted and lane.rows >> r & 1
