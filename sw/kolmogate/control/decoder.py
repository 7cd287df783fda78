"""Weight decoder, with what fetches for it: all that depends on the kinds of instructions is here."""

from typing import Any

from numba import njit

from ..registers import Registers
from .arbiter import CODE, LITERALS

__all__ = ["LOOP", "PREDICT", "ROWS", "SEEK", "SKIP", "STOP", "clock_decoder", "clock_engine"]

# Kinds of instructions: those that make rows, or pass literals as if they did; those that only take the time
# to be fetched.
STOP, ROWS, SKIP, PREDICT, LOOP, SEEK = range(6)

# What is known of a row on its way through the pipeline.
ANY_ROW, RECORDS_ROW, LAST_ROW, CODED_ROW = 1, 2, 4, 8


@njit
def clock_decoder(
    machine: Registers,
    program: Registers,
    row_ends: Any,
    decoder: Registers,
    code: Registers,
    literals: Registers,
    engine: Registers,
    columns: Registers,
    constants: Registers,
    granted: int,
) -> None:
    room = constants.reserved != 2 if decoder.records else columns.room
    made = True
    if decoder.reading:
        made = literals.primed == machine.words_held and literals.present
    if decoder.running and decoder.coded:
        # A row is asked for two cycles before it is there, when the one before it has been taken.
        coming = not engine.idle and engine.cycle >= row_ends[engine.row] - 2
        made = coming and not (decoder.seen | decoder.shaped) & CODED_ROW
    step = decoder.running and room and made
    free = not decoder.running or (step and decoder.left == 0)
    instruction = program[code.index]
    looping = instruction.kind == LOOP
    seeking = instruction.kind == SEEK
    # SEEK withdraws no request that waits for its grant.
    settled = literals.room == 0 or granted & LITERALS != 0
    take = code.valid and (free or looping)
    if seeking:
        take = decoder.seek
    seek = code.valid and seeking and settled and not decoder.running and not decoder.seek

    clock_literals(machine, literals, decoder.bits, step and decoder.reading, granted & LITERALS != 0)
    if take and seeking:
        literals.room, literals.popped, literals.answers = machine.literal_words, 0, 0
        literals.written, literals.taken, literals.present = 0, 0, 0
        literals.primed, literals.position = 0, 0
    if decoder.valid and not decoder.of_records:
        columns.written += 1
    if machine.literals_only:
        # The last stage is not there.
        decoder.shaped, decoder.seen = decoder.seen, 0
    if decoder.shaped & CODED_ROW:
        engine.row += 1
        engine.idle = decoder.shaped & LAST_ROW != 0
    decoder.valid = decoder.shaped & ANY_ROW != 0
    decoder.of_records, decoder.last = decoder.shaped & RECORDS_ROW != 0, decoder.shaped & LAST_ROW != 0
    decoder.shaped, decoder.seen = decoder.seen, 0
    if step:
        # Room is kept for rows of weights, and for constants a group at a time.
        if not decoder.silent:
            columns.reserved += not decoder.records
            constants.reserved += decoder.records and decoder.left == 0
            decoder.seen = ANY_ROW
            decoder.seen |= RECORDS_ROW if decoder.records else 0
            decoder.seen |= LAST_ROW if decoder.left == 0 else 0
            decoder.seen |= CODED_ROW if decoder.coded else 0
        decoder.left -= 1
    columns.room = columns.reserved - columns.first != machine.column_buffer_depth
    if free:
        decoder.running = 0
    if take and not looping:
        decoder.left = instruction.rows - 1
        decoder.bits, decoder.records = instruction.bits, instruction.records
        decoder.reading, decoder.coded = instruction.reading, instruction.coded
        decoder.silent = instruction.kind == SKIP
        decoder.running = decoder.silent or instruction.kind == ROWS

    # Instruction fetcher.
    answered = code.answers & 1
    code.answers = code.answers >> 1 | (granted & CODE != 0) << machine.read_latency - 1
    if granted & CODE:
        code.asking = 0
    if answered:
        code.valid = 1
    decoder.seek = seek
    if take:
        code.index += 1
        code.valid = 0
        code.asking = instruction.kind != STOP


# Entropy engine, in the cycles that the golden decoder counted.

ENGINE_START = 1034
"""The first cycle in which it can begin: it has forgotten its contexts and read the first bits."""


@njit
def clock_engine(
    machine: Registers,
    row_ends: Any,
    byte_times: Any,
    engine: Registers,
    running: bool,
    granted: bool,
    cycle: int,
) -> None:
    # The ninth bit is of the second byte.
    emptied = cycle == ENGINE_START - 1
    if cycle >= ENGINE_START:
        if engine.idle:
            engine.idle = not running
        elif engine.cycle != row_ends[engine.row]:
            begins = byte_times[engine.byte, 0] == engine.cycle
            if engine.holding or not begins:
                emptied = byte_times[engine.byte, 1] == engine.cycle
                engine.cycle += 1
    if emptied:
        engine.byte += 1
        engine.holding = 0
    # Reader.
    answered = engine.answers & 1
    engine.answers = engine.answers >> 1 | granted << machine.read_latency - 1
    if granted:
        engine.asking = 0
    if engine.present and not engine.holding:
        engine.holding, engine.present, engine.asking = 1, 0, 1
    if answered:
        engine.present = 1


@njit
def clock_literals(machine: Registers, literals: Registers, bits: int, take: bool, granted: bool) -> None:
    end = literals.position + bits
    primed = literals.primed == machine.words_held
    pop = (take and end >= 8) if primed else literals.present
    answered = literals.answers & 1
    literals.answers = literals.answers >> 1 | granted << machine.read_latency - 1
    literals.room += literals.popped - granted
    literals.popped = pop
    literals.taken += pop
    # A word can be read from the cycle after it was written.
    literals.present = literals.taken != literals.written
    literals.written += answered
    if pop and not primed:
        literals.primed += 1
    if take:
        literals.position = end & 7
