"""Row feeders, column buffers, and the array's steps."""

from typing import Any

from numba import njit

from ..registers import Registers

__all__ = ["at_last", "clock_columns", "clock_compute", "clock_feeders", "final_tile", "tag_of", "window_end"]


@njit
def tag_of(start: int, last: int, window_end: int, final_tile: int) -> int:
    """A word on its way to a row: bytes ``start`` to ``last`` of it are activations."""
    return start | last << 8 | window_end << 16 | final_tile << 17


@njit
def window_end(tag: int) -> int:
    return tag >> 16 & 1


@njit
def final_tile(tag: int) -> int:
    return tag >> 17 & 1


@njit
def at_last(d: Registers, row: Registers) -> bool:
    """Whether the row is at the last activation of the word at its head."""
    return d.word_mode != 0 or row.pointer == row.head >> 8 & 255


@njit
def clock_feeders(
    machine: Registers, d: Registers, rows: Registers, waiting: Any, lanes: Registers, step: bool
) -> None:
    depth = waiting.shape[1]
    for r in range(machine.rows):
        row = rows[r]
        take = (row.pop or not row.valid) and row.written != row.taken
        row.pointer += step
        if row.pop:
            row.valid = 0
        if take:
            row.valid = 1
            row.head = waiting[r, row.taken % depth]
            row.pointer = row.head & 255
            row.taken += 1
    for p in range(machine.scratchpad_ports):
        lane = lanes[p]
        if lane.push:
            for r in range(machine.rows):
                if lane.push >> r & 1:
                    waiting[r, rows[r].written % depth] = lane.answer
                    rows[r].written += 1


@njit
def clock_columns(d: Registers, columns: Registers, written: int, step: int, last: int, final: int) -> None:
    """``written`` is what it was in this cycle."""
    if step:
        following = columns.taken + 1
        columns.taken = columns.first if last or d.unit_weights else following
        if (last and final) or d.stream_weights:
            columns.first, columns.taken = following, following
    columns.available = written != columns.taken


@njit
def clock_compute(machine: Registers, compute: Registers, tile_end: int, final: int, drained: bool) -> None:
    compute.resting = machine.tile_gap and tile_end
    compute.captured >>= 1
    if drained:
        compute.undrained = 0
    if tile_end:
        compute.undrained, compute.final_tile = 1, final
        # Told a cycle before the tile is there.
        compute.captured |= 1 << machine.capture_latency - 2
