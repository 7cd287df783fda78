"""The control of the core, cycle by cycle: what the gateware does, without the data it does it to.

Each section is a unit of `kolmogate_hw`, with its registers under its names. In a cycle all signals between
the units are worked out first, from the registers alone; then each unit's ``clock_*`` function gives its
registers their next values. Addresses count where alignment does: they need not wrap, as only their lowest
bits are looked at. Pointers that the gateware counts modulo something count on.

All of it is in one module, and what it takes from `kolmogate.isa` comes as arguments: a function that numba
has compiled and cached is compiled again when its own file changes, and not when another does.
"""

from typing import Any

from numba import njit

__all__ = [
    "ARRAY",
    "DONE",
    "END",
    "FILL",
    "LOOP",
    "PREDICT",
    "RESIDUAL",
    "ROWS",
    "RUNNING",
    "SEEK",
    "SKIP",
    "STOP",
    "STUCK",
    "run",
]

# A record of `kolmogate.registers`, which the functions change in place.
Registers = Any

# What `run` returns.
RUNNING, DONE, STUCK = range(3)
PATIENCE = 2000
"""Cycles without a sign of life after which there will be none: more than any unit works by itself."""

# Kinds of descriptors.
END, ARRAY, FILL, RESIDUAL = range(4)

# Who asks for the scratchpad, highest priority first. With two ports those that read have one for themselves,
# all but the activations of every second row.
OUTPUTS, ACTIVATIONS_1, ACTIVATIONS_0, OPERANDS = 1, 2, 4, 8
CODE, LITERALS, CODED, DESCRIPTORS, BORDERS = 16, 32, 64, 128, 256
READS = ACTIVATIONS_1 | OPERANDS | CODE | LITERALS | CODED | DESCRIPTORS

# Kinds of instructions: those that make rows, or pass literals as if they did; those that only take the time
# to be fetched.
STOP, ROWS, SKIP, PREDICT, LOOP, SEEK = range(6)


@njit(cache=True)
def run(
    machine: Registers,
    descriptors: Registers,
    program: Registers,
    row_ends: Any,
    byte_times: Any,
    state: Registers,
    rows: Registers,
    waiting: Any,
    lanes: Registers,
    layers: Registers,
    limit: int,
) -> int:
    """Up to ``limit`` cycles of an inference; whether it is RUNNING still, DONE or STUCK for ever.

    Arguments are a `MACHINE`, arrays of `DESCRIPTOR` and `INSTRUCTION`, the cycles of the entropy engine in
    which its rows end and its bytes are read (`programs.entropy.Decoder`), a `STATE`, an array of `ROW`, the
    words that wait in the rows' feeders (rows, depth), an array of `LANE`, and one of `SPENT` for each layer
    and one more for what follows the last.
    """
    core, sequencer, filler = state.core, state.sequencer, state.filler
    fetcher, compute, columns = state.fetcher, state.compute, state.columns
    decoder, code, literals, engine = state.decoder, state.code, state.literals, state.engine
    constants, drain, draining = state.constants, state.drain, state.draining
    requantiser, residual = state.requantiser, state.residual
    writer, writing = state.writer, state.writing
    two_ports = machine.scratchpad_ports == 2

    for _ in range(limit):
        core.cycles += 1
        d = descriptors[sequencer.index]

        # Sequencer.
        dispatching = sequencer.state == DISPATCH
        start_layer = dispatching and d.kind == ARRAY
        start_fill = dispatching and d.kind == FILL and not filler.busy
        start_residual = sequencer.state == RECORD
        done = dispatching and d.kind == END and not filler.busy
        end_layer = sequencer.state == AWAIT_FILL and not filler.busy

        # Scratchpad.
        requests = OUTPUTS if writer.port_valid else 0
        requests |= ACTIVATIONS_0 if lanes[0].request else 0
        requests |= ACTIVATIONS_1 if two_ports and lanes[1].request else 0
        asking = requantiser.valid and residual.adding and not residual.asked
        requests |= OPERANDS if asking else 0
        requests |= CODE if code.asking else 0
        requests |= LITERALS if literals.room != 0 else 0
        requests |= CODED if engine.asking else 0
        loading = sequencer.state == LOAD and sequencer.asked != machine.descriptor_words
        requests |= DESCRIPTORS if loading else 0
        requests |= BORDERS if filler.busy else 0
        granted = requests & -requests
        if two_ports:
            reads, others = requests & READS, requests & ~READS
            granted = (reads & -reads) | (others & -others)

        # Compute: a tap is taken.
        fed = True
        for r in range(machine.rows):
            fed = fed and rows[r].valid
        row = rows[machine.rows - 1]
        last = row.valid and window_end(row.head) and at_last(d, row)
        final = final_tile(row.head)
        weighted = d.unit_weights or columns.written != columns.taken
        step = fed and weighted and not (last and compute.undrained) and not compute.resting
        captured = compute.captured & 1
        for r in range(machine.rows):
            rows[r].pop = step and at_last(d, rows[r])

        # Drain: a batch goes to the requantisers.
        offered = drain.draining and not drain.skipping and constants.readable != 0
        transfer = offered and requantiser_ready(machine, requantiser, residual)
        batch_end = last_batch(machine, draining)
        position_end = last_position(d, draining)
        next_position = transfer and batch_end
        tile_end = position_end or drain.row == machine.rows - 1
        follows = transfer and not batch_end and tile_end and last_follows(machine, draining)
        drained = next_position and tile_end
        if not residual.adding:
            drained = leaves_in_time(machine, drain, draining, next_position, tile_end)
        release = next_position and position_end
        taken = residual_takes(machine, requantiser, residual)
        accepted_output = taken and requantiser.valid
        written = residual.full if residual.adding else requantiser.valid

        # Where the time goes.
        spent = layers[core.layer]
        spent.total += 1
        spent.compute += step
        spent.decode += fed and not weighted
        spent.drain += fed and weighted and not step
        spent.memory += not fed and fetcher.walking and core.begun
        core.begun = (core.begun or step) and not start_layer
        core.layer += end_layer
        if done:
            return DONE
        core.idle = 0 if step or transfer or granted else core.idle + 1
        if core.idle > PATIENCE:
            return STUCK

        # All registers. The order matters where a unit looks at another's: fetched words and the outputs of
        # the requantisers are taken before what comes behind them.
        writer_done = writer.done
        clock_feeders(machine, d, rows, waiting, lanes, step)
        clock_fetcher(machine, d, fetcher, rows, lanes, granted, start_layer)
        group_made = decoder.last
        accepted = decoder.valid and decoder.of_records and constants.here != 2
        coding = decoder.running and decoder.coded
        clock_engine(row_ends, byte_times, engine, coding, granted & CODED != 0, core.cycles)
        clock_decoder(
            machine, program, row_ends, decoder, code, literals, engine, columns, constants, granted
        )
        clock_columns(d, columns, step, last, final)
        clock_compute(machine, compute, step and last, drained)
        clock_constants(constants, accepted and group_made, release)
        clock_drain(machine, drain, captured, transfer, batch_end, tile_end, follows)
        clock_counter(machine, d, draining, transfer and not batch_end, next_position, start_layer)
        late = residual.adding != 0
        clock_writer(machine, d, writer, writing, accepted_output, late, written, start_layer)
        operand_granted = granted & OPERANDS != 0
        clock_residual(machine, residual, operand_granted, taken, writer_done, start_residual)
        clock_requantiser(machine, requantiser, offered, taken)
        clock_filler(machine, d, filler, granted & BORDERS != 0, start_fill)
        descriptor_granted = granted & DESCRIPTORS != 0
        clock_sequencer(machine, d, sequencer, descriptor_granted, writer_done, end_layer, start_fill)
    return RUNNING


# Sequencer.

LOAD, DISPATCH, AWAIT_LAYER, AWAIT_FILL, RECORD = range(5)


@njit(cache=True)
def clock_sequencer(
    machine: Registers,
    d: Registers,
    sequencer: Registers,
    granted: bool,
    layer_done: bool,
    end_layer: bool,
    start_fill: bool,
) -> None:
    answered = sequencer.answers & 1
    sequencer.answers = sequencer.answers >> 1 | granted << 1
    state = sequencer.state
    if state == LOAD:
        sequencer.asked += granted
        if sequencer.loaded == machine.descriptor_words:
            sequencer.asked = 0
            sequencer.loaded = 0
            sequencer.state = DISPATCH
    elif state == DISPATCH:
        if d.kind == ARRAY:
            sequencer.state = AWAIT_LAYER
        elif d.kind == RESIDUAL:
            sequencer.state = RECORD
        elif start_fill:
            sequencer.index += 1
            sequencer.state = LOAD
    elif state == RECORD:
        sequencer.row += 1
        if sequencer.row == machine.residual_rows:
            sequencer.row = 0
            sequencer.index += 1
            sequencer.state = LOAD
    elif state == AWAIT_LAYER:
        if layer_done:
            sequencer.state = AWAIT_FILL
    elif end_layer:
        sequencer.index += 1
        sequencer.state = LOAD
    sequencer.loaded += answered


# Filler.


FILL_UNIT = 8


@njit(cache=True)
def clock_filler(machine: Registers, d: Registers, filler: Registers, granted: bool, start: bool) -> None:
    # All in units.
    if granted:
        units = machine.columns // FILL_UNIT
        whole = filler.address & (units - 1) == 0 and filler.left >= units
        taken = units if whole else 1
        filler.address += taken
        filler.left -= taken
        if filler.left == 0:
            filler.address += filler.gap
            filler.left = filler.run
            filler.busy = filler.lines != 1
            filler.lines -= 1
    if start:
        filler.busy = 1
        filler.address, filler.gap = d.output_base // FILL_UNIT, d.output_step // FILL_UNIT
        filler.lines = d.y_count
        filler.run, filler.left = d.run // FILL_UNIT, d.run // FILL_UNIT


# Window fetcher.


@njit(cache=True)
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


@njit(cache=True)
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


@njit(cache=True)
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


# Row feeders.


@njit(cache=True)
def tag_of(start: int, last: int, window_end: int, final_tile: int) -> int:
    """A word on its way to a row: bytes ``start`` to ``last`` of it are activations."""
    return start | last << 8 | window_end << 16 | final_tile << 17


@njit(cache=True)
def window_end(tag: int) -> int:
    return tag >> 16 & 1


@njit(cache=True)
def final_tile(tag: int) -> int:
    return tag >> 17 & 1


@njit(cache=True)
def at_last(d: Registers, row: Registers) -> bool:
    """Whether the row is at the last activation of the word at its head."""
    return d.word_mode != 0 or row.pointer == row.head >> 8 & 255


@njit(cache=True)
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


# Column buffers, array.


@njit(cache=True)
def clock_columns(d: Registers, columns: Registers, step: int, last: int, final: int) -> None:
    if step and not d.unit_weights:
        following = columns.taken + 1
        columns.taken = columns.first if last else following
        if (last and final) or d.stream_weights:
            columns.first, columns.taken = following, following


@njit(cache=True)
def clock_compute(machine: Registers, compute: Registers, tile_end: int, drained: bool) -> None:
    compute.resting = machine.tile_gap and tile_end
    compute.captured >>= 1
    if drained:
        compute.undrained = 0
    if tile_end:
        compute.undrained = 1
        compute.captured |= 1 << machine.capture_latency - 1


# Weight decoder: all that depends on the kinds of instructions is here.

# What is known of a row on its way through the pipeline.
ANY_ROW, RECORDS_ROW, LAST_ROW, CODED_ROW = 1, 2, 4, 8


@njit(cache=True)
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
    ready = constants.here != 2 if decoder.of_records else columns.room
    made = True
    if decoder.reading:
        made = literals.primed == machine.words_held and literals.present
    if decoder.running and decoder.coded:
        # A row is asked for two cycles before it is there, when the one before it has been taken.
        coming = not engine.idle and engine.cycle >= row_ends[engine.row] - 2
        made = coming and not (decoder.seen | decoder.shaped) & CODED_ROW
    moving = not decoder.valid or ready
    step = decoder.running and moving and made
    free = not decoder.running or (step and decoder.left == 0)
    instruction = program[code.index]
    looping = instruction.kind == LOOP
    seeking = instruction.kind == SEEK
    # SEEK withdraws no request that waits for its grant.
    settled = literals.room == 0 or granted & LITERALS != 0
    take = code.valid and (free or looping) and (not seeking or settled)

    clock_literals(machine, literals, decoder.bits, step and decoder.reading, granted & LITERALS != 0)
    if take and seeking:
        literals.room, literals.answers = machine.literal_words, 0
        literals.written, literals.taken, literals.present = 0, 0, 0
        literals.primed, literals.position = 0, 0
    columns.written += decoder.valid and ready and not decoder.of_records
    columns.room = columns.written - columns.first != machine.column_buffer_depth
    if moving:
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
        if not decoder.silent:
            decoder.seen = ANY_ROW
            decoder.seen |= RECORDS_ROW if decoder.records else 0
            decoder.seen |= LAST_ROW if decoder.left == 0 else 0
            decoder.seen |= CODED_ROW if decoder.coded else 0
        decoder.left -= 1
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
    code.answers = code.answers >> 1 | (granted & CODE != 0) << 1
    if granted & CODE:
        code.asking = 0
    if answered:
        code.valid = 1
    if take:
        code.index += 1
        code.valid = 0
        code.asking = instruction.kind != STOP


# Entropy engine, in the cycles that the golden decoder counted.

ENGINE_START = 1034
"""The first cycle in which it can begin: it has forgotten its contexts and read the first bits."""


@njit(cache=True)
def clock_engine(
    row_ends: Any, byte_times: Any, engine: Registers, running: bool, granted: bool, cycle: int
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
    engine.answers = engine.answers >> 1 | granted << 1
    if granted:
        engine.asking = 0
    if engine.present and not engine.holding:
        engine.holding, engine.present, engine.asking = 1, 0, 1
    if answered:
        engine.present = 1


@njit(cache=True)
def clock_literals(machine: Registers, literals: Registers, bits: int, take: bool, granted: bool) -> None:
    end = literals.position + bits
    primed = literals.primed == machine.words_held
    pop = (take and end >= 8) if primed else literals.present
    answered = literals.answers & 1
    literals.answers = literals.answers >> 1 | granted << 1
    literals.room += pop - granted
    literals.taken += pop
    # A word can be read from the cycle after it was written.
    literals.present = literals.taken != literals.written
    literals.written += answered
    if pop and not primed:
        literals.primed += 1
    if take:
        literals.position = end & 7


# Constants buffer.


@njit(cache=True)
def clock_constants(constants: Registers, arrived: bool, release: bool) -> None:
    constants.here += arrived - release
    constants.readable += constants.arrived - release
    constants.arrived = arrived


# Drain.


@njit(cache=True)
def leaves_in_time(
    machine: Registers, drain: Registers, counter: Registers, next_position: bool, tile_end: bool
) -> bool:
    """Whether what is left of a tile leaves before the next is captured, if that ends from now on."""
    if machine.interval == 1:
        rows = min(machine.rows - 1, machine.capture_latency * machine.requantisers // machine.columns)
        enough = machine.rows - 1 - rows
        return next_position and (drain.row == enough or (tile_end and drain.row < enough))
    final = next_position and tile_end
    if machine.interval <= machine.capture_latency:
        return drain.follows or (final and counter.batch == 0)
    return final


@njit(cache=True)
def clock_drain(
    machine: Registers,
    drain: Registers,
    captured: int,
    transfer: bool,
    batch_end: bool,
    tile_end: bool,
    follows: bool,
) -> None:
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
        drain.draining = 1


# Batch counter, of the drain and of the writer.


@njit(cache=True)
def last_batch(machine: Registers, counter: Registers) -> bool:
    return (counter.batch + 1) * machine.requantisers == machine.columns or (
        counter.live <= machine.requantisers
    )


@njit(cache=True)
def last_follows(machine: Registers, counter: Registers) -> bool:
    return (counter.batch + 2) * machine.requantisers == machine.columns or (
        counter.live <= 2 * machine.requantisers
    )


@njit(cache=True)
def last_position(d: Registers, counter: Registers) -> bool:
    return counter.x == d.x_count - 1 and counter.y == d.y_count - 1


@njit(cache=True)
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


# Requantiser.

PIPELINED_LATENCY = 6
SERIAL_LATENCY = 5
"""Of multiplier and rounding unit; the output register comes on top."""


@njit(cache=True)
def requantiser_ready(machine: Registers, requantiser: Registers, residual: Registers) -> bool:
    if machine.interval == 1:
        return not requantiser.valid or residual_takes(machine, requantiser, residual)
    return requantiser_advances(requantiser) and requantiser.room != 0


@njit(cache=True)
def requantiser_advances(requantiser: Registers) -> bool:
    """The digit-serial form holds when an output is to join a batch and the one before is still there."""
    return not (requantiser.pipeline & 1 and requantiser.valid)


@njit(cache=True)
def clock_requantiser(machine: Registers, requantiser: Registers, offered: bool, taken: bool) -> None:
    if machine.interval == 1:
        if not requantiser.valid or taken:
            requantiser.valid = requantiser.pipeline & 1
            requantiser.pipeline = requantiser.pipeline >> 1 | offered << PIPELINED_LATENCY - 1
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


# Residual adder.


@njit(cache=True)
def residual_takes(machine: Registers, requantiser: Registers, residual: Registers) -> bool:
    """Whether the output of the requantisers is taken: passed on, or added to."""
    if not residual.adding:
        return True
    return residual.here and requantiser.valid and residual.rows_left == 0 and not residual.full


@njit(cache=True)
def clock_residual(
    machine: Registers, residual: Registers, granted: bool, take: bool, done: bool, start: bool
) -> None:
    answered = residual.answers & 1
    residual.answers = residual.answers >> 1 | granted << 1
    residual.asked = (residual.asked or granted) and not take
    residual.here = (residual.here or answered) and not take
    # The writer takes what is there.
    residual.full = residual.rows_left == 1
    if residual.rows_left != 0:
        residual.rows_left -= 1
    if take and residual.adding:
        residual.rows_left = machine.residual_rows - 1
    if done:
        residual.adding = 0
    if start:
        residual.adding = 1


# Writer.


@njit(cache=True)
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
