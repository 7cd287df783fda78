"""Drain, with its constants, and writer: both count batches and positions."""

from numba import njit

from ..registers import Registers

__all__ = [
    "clock_constants",
    "clock_counter",
    "clock_drain",
    "clock_writer",
    "last_batch",
    "last_follows",
    "last_position",
    "leaves_in_time",
]


@njit
def clock_constants(constants: Registers, arrived: bool, release: bool) -> None:
    constants.reserved -= release
    constants.readable += constants.arrived - release
    constants.arrived, constants.released = arrived, release


@njit
def leaves_in_time(
    machine: Registers,
    drain: Registers,
    counter: Registers,
    next_batch: bool,
    next_position: bool,
    tile_end: bool,
) -> bool:
    """Whether what is left of a tile leaves before the next is captured, if that ends from now on."""
    if machine.interval == 1:
        batches = machine.columns // machine.requantisers
        behind = min(machine.rows - 1, machine.capture_latency // batches)
        enough = machine.rows - 1 - behind
        if drain.row < enough:
            return next_position and tile_end
        # Batches of this row that may follow, too.
        more = machine.capture_latency - behind * batches
        end = min(batches, counter.batch + -(-counter.live // machine.requantisers)) - 1
        left = (next_batch or next_position) and counter.batch == max(end - more, 0)
        return drain.row == enough and left
    final = next_position and tile_end
    if machine.interval <= machine.capture_latency:
        return drain.follows or (final and counter.batch == 0)
    return final


@njit
def clock_drain(
    machine: Registers,
    drain: Registers,
    captured: int,
    transfer: bool,
    batch_end: bool,
    tile_end: bool,
    follows: bool,
    final: int,
    last_group: bool,
    start: bool,
) -> None:
    """``final`` is of the tile that is captured."""
    last_tile = drain.draining and drain.final_tile and last_group
    drain.ending = 0 if start else drain.ending << 1 | (last_tile or drain.ending & 1)
    drain.follows = follows
    if transfer or drain.skipping:
        row_end = (drain.column + 1) * machine.requantisers == machine.columns
        drain.column += 1
        if row_end:
            drain.column, drain.skipping = 0, 0
    if transfer and batch_end:
        drain.row += 1
        drain.skipping = not row_end
        if tile_end:
            drain.draining, drain.skipping, drain.row, drain.column = 0, 0, 0, 0
    if captured:
        drain.draining, drain.final_tile = 1, final


# Batch counter, of the drain and of the writer.


@njit
def last_batch(machine: Registers, counter: Registers) -> bool:
    return (counter.batch + 1) * machine.requantisers == machine.columns or (
        counter.live <= machine.requantisers
    )


@njit
def last_follows(machine: Registers, counter: Registers) -> bool:
    return (counter.batch + 2) * machine.requantisers == machine.columns or (
        counter.live <= 2 * machine.requantisers
    )


@njit
def last_position(d: Registers, counter: Registers) -> bool:
    return counter.x == d.x_count - 1 and counter.y == d.y_count - 1


@njit
def clock_counter(
    machine: Registers, d: Registers, counter: Registers, next_batch: bool, next_position: bool, start: bool
) -> None:
    if next_batch:
        counter.batch += 1
        counter.live -= machine.requantisers
    if next_position:
        group_end = last_position(d, counter)
        counter.batch = 0
        counter.x += 1
        if counter.x == d.x_count:
            counter.x = 0
            counter.y += 1
        if group_end:
            counter.y = 0
            counter.group_channels -= machine.columns
        counter.live = counter.group_channels
    if start:
        counter.x, counter.y, counter.batch = 0, 0, 0
        counter.live, counter.group_channels = d.channels, d.channels


@njit
def clock_writer(
    machine: Registers,
    d: Registers,
    writer: Registers,
    counter: Registers,
    accept: bool,
    late: bool,
    valid: bool,
    start: bool,
) -> None:
    writer.done = writer.finished
    flush, finish = writer.flush, writer.finish
    if accept:
        batch_end = last_batch(machine, counter)
        full = (writer.address + machine.requantisers) & (machine.written_bytes - 1) == 0
        writer.flush = batch_end or full
        writer.finish = 0
        writer.address += machine.requantisers
        if batch_end:
            line_end = counter.x == d.x_count - 1
            writer.position += d.output_wrap if line_end else d.output_step
            if last_position(d, counter):
                writer.group += machine.columns
                writer.position = writer.group
                writer.finish = counter.group_channels <= machine.columns
            writer.address = writer.position
        clock_counter(machine, d, counter, not batch_end, batch_end, False)
    # What was accepted is there at once, or later.
    if not late:
        flush, finish = writer.flush, writer.finish
    writer.port_valid = valid and flush
    writer.finished = valid and finish
    if start:
        writer.group, writer.position, writer.address = d.output_base, d.output_base, d.output_base
        clock_counter(machine, d, counter, False, False, True)
