"""Requantisers and residual adder."""

from numba import njit

from ..registers import Registers

__all__ = ["clock_requantiser", "clock_residual", "requantiser_ready", "residual_takes"]

PIPELINED_LATENCY = 7
SERIAL_LATENCY = 6
"""Of multiplier and rounding unit; the output register comes on top."""


@njit
def requantiser_ready(machine: Registers, requantiser: Registers) -> bool:
    if machine.interval == 1:
        return requantiser.left != 0
    return requantiser_advances(requantiser) and requantiser.room != 0


@njit
def requantiser_advances(requantiser: Registers) -> bool:
    """The digit-serial form holds when an output is to join a batch and the one before is still there."""
    return not (requantiser.pipeline & 1 and requantiser.valid)


@njit
def clock_requantiser(machine: Registers, requantiser: Registers, offered: bool, taken: bool) -> None:
    if machine.interval == 1:
        entered = offered and requantiser.left != 0
        if requantiser.valid and taken:
            requantiser.left += 1
            requantiser.valid = 0
        requantiser.left -= entered
        # The pipeline never stops: behind it batches wait for each other.
        requantiser.waiting += requantiser.pipeline & 1
        if requantiser.waiting != 0 and not requantiser.valid:
            requantiser.waiting -= 1
            requantiser.valid = 1
        requantiser.pipeline = requantiser.pipeline >> 1 | entered << PIPELINED_LATENCY - 1
        return
    advance = requantiser_advances(requantiser)
    digits = machine.interval // machine.requantisers
    last_digit = requantiser.busy and requantiser.step % digits == digits - 1
    last_step = requantiser.busy and requantiser.step == machine.interval - 1
    if taken:
        requantiser.valid = 0
    if advance:
        if requantiser.batch & 1:
            requantiser.valid = 1
        requantiser.pipeline = requantiser.pipeline >> 1 | last_digit << SERIAL_LATENCY - 1
        requantiser.batch = requantiser.batch >> 1 | last_step << SERIAL_LATENCY - 1
        if not requantiser.room:
            requantiser.room = requantiser.step == machine.interval - 2
            requantiser.step += 1
        elif offered:
            requantiser.busy, requantiser.step, requantiser.room = 1, 0, 0
        else:
            requantiser.busy = 0


@njit
def residual_takes(machine: Registers, requantiser: Registers, residual: Registers) -> bool:
    """Whether the output of the requantisers is taken: passed on, or added to."""
    if not residual.adding:
        return True
    # Fast machines look at a register behind the one that says it.
    here = residual.noticed if machine.fast else residual.here
    return here and requantiser.valid and residual.rows_left == 0 and not residual.summed


@njit
def clock_residual(
    machine: Registers,
    residual: Registers,
    wanted: bool,
    granted: bool,
    take: bool,
    done: bool,
    start: bool,
) -> None:
    idle = not (residual.asking or residual.answers or residual.here)
    residual.asking = (residual.asking and not granted) or (idle and wanted)
    answered = residual.answers & 1
    residual.answers = residual.answers >> 1 | granted << machine.read_latency - 1
    residual.noticed = residual.here and not take
    residual.here = (residual.here or answered) and not take
    residual.taken = residual.taken >> 1 | (take and residual.adding) << 1
    # The writer takes what is there.
    residual.full = residual.rounded
    residual.rounded = residual.summed
    residual.summed = residual.rows_left == 1
    if residual.rows_left != 0:
        residual.rows_left -= 1
    if take and residual.adding:
        residual.rows_left = machine.residual_rows - 1
    if done:
        residual.adding = 0
    if start:
        residual.adding = 1
