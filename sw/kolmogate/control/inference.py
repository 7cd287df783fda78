"""An inference: the units together."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from numba import njit

from ..registers import Registers
from .arbiter import (
    ACTIVATIONS_0,
    ACTIVATIONS_1,
    BORDERS,
    CODE,
    CODED,
    DESCRIPTORS,
    LITERALS,
    OPERANDS,
    OUTPUTS,
    granted_of,
)
from .array import at_last, clock_columns, clock_compute, clock_feeders, final_tile, window_end
from .decoder import clock_decoder, clock_engine
from .drain import (
    clock_constants,
    clock_counter,
    clock_drain,
    clock_writer,
    last_batch,
    last_follows,
    last_position,
    leaves_in_time,
)
from .fetcher import clock_fetcher
from .pair_fetcher import clock_pair_fetcher
from .requantiser import clock_requantiser, clock_residual, requantiser_ready, residual_takes
from .sequencer import (
    AWAIT_FILL,
    BORDER,
    DISPATCH,
    END,
    FILL,
    LOAD,
    READY,
    RECORD,
    clock_filler,
    clock_sequencer,
)

__all__ = ["DONE", "RUNNING", "STUCK", "run"]

# What `run` returns.
RUNNING, DONE, STUCK = range(3)

PATIENCE = 2000
"""Cycles without a sign of life after which there will be none: more than any unit works by itself."""

SOURCES = int.from_bytes(
    blake2b(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))), digest_size=7
    ).digest()
)
"""Stands for the text of the whole package: numba knows what it compiled and kept by the arguments and by
the file of the function, not by the files of the functions that this one calls."""


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
    sources: int = SOURCES,
) -> int:
    """Up to ``limit`` cycles of an inference; whether it is RUNNING still, DONE or STUCK for ever.

    Arguments are a `MACHINE`, arrays of `DESCRIPTOR` and `INSTRUCTION`, the cycles of the entropy engine in
    which its rows end and its bytes are read (`programs.entropy.Decoder`), a `STATE`, an array of `ROW`, the
    words that wait in the rows' feeders (rows, depth), an array of `LANE`, and one of `SPENT` for each layer
    and one more for what follows the last. ``sources`` is not to be given.
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
        loaded = descriptors[sequencer.index]
        d, drained_d = descriptors[sequencer.fetched], descriptors[sequencer.drained]

        # Sequencer.
        dispatching = sequencer.state == DISPATCH
        filling = filler.busy != 0
        leaving = drain.ending >> machine.leaving_latency & 1 and not residual.adding
        if two_ports:
            idle = not sequencer.computing and not sequencer.draining and not filling
            start_layer = sequencer.state == READY and not filling
            start_layer = start_layer and (not sequencer.draining or (loaded.overlaps and leaving))
            start_drain = (start_layer or sequencer.held) and not sequencer.draining
            filled = False
            last_tile = drain.ending & 3 == 1
        else:
            idle = not filling
            start_layer = sequencer.starting != 0
            start_drain = start_layer
            filled = (sequencer.state == AWAIT_FILL or sequencer.state == BORDER) and not filling
            last_tile = False
        start_fill = dispatching and loaded.kind == FILL and not filling
        start_residual = sequencer.state == RECORD
        done = dispatching and loaded.kind == END and idle
        end_layer = sequencer.state == AWAIT_FILL and filled
        if two_ports:
            end_layer = sequencer.begun and (start_layer or done)

        # Scratchpad.
        requests = OUTPUTS if writer.port_valid else 0
        requests |= ACTIVATIONS_0 if lanes[0].request else 0
        requests |= ACTIVATIONS_1 if two_ports and lanes[1].request else 0
        requests |= OPERANDS if residual.asking else 0
        requests |= CODE if code.asking else 0
        requests |= LITERALS if literals.room != 0 and not decoder.seek else 0
        requests |= CODED if engine.asking else 0
        loading = sequencer.state == LOAD and sequencer.asked != machine.descriptor_words
        requests |= DESCRIPTORS if (loading if two_ports else sequencer.asking) else 0
        requests |= BORDERS if filler.busy else 0
        granted = granted_of(machine, requests)

        # Compute: a tap is taken.
        fed = True
        for r in range(machine.rows):
            fed = fed and rows[r].valid
        row = rows[machine.rows - 1]
        last = row.valid and window_end(row.head) and at_last(d, row)
        final = final_tile(row.head)
        weighted = columns.available != 0
        held = sequencer.held != 0
        step = fed and weighted and not (last and (compute.undrained or held)) and not compute.resting
        captured = compute.captured & 1
        for r in range(machine.rows):
            rows[r].pop = step and at_last(d, rows[r])

        # Drain: a batch goes to the requantisers.
        offered = drain.draining and not drain.skipping and constants.readable != 0
        offered = offered and not (machine.interval == 1 and constants.released)
        transfer = offered and requantiser_ready(machine, requantiser)
        batch_end = last_batch(machine, draining)
        position_end = last_position(drained_d, draining)
        next_position = transfer and batch_end
        tile_end = position_end or drain.row == machine.rows - 1
        follows = transfer and not batch_end and tile_end and last_follows(machine, draining)
        drained = next_position and tile_end
        if not residual.adding:
            drained = leaves_in_time(
                machine, drain, draining, transfer and not batch_end, next_position, tile_end
            )
        release = next_position and position_end
        taken = residual_takes(machine, requantiser, residual)
        accepted_output = residual.taken & 1 if residual.adding else requantiser.valid
        written = residual.full if residual.adding else requantiser.valid

        # Where the time goes.
        spent = layers[core.layer]
        spent.total += 1
        spent.compute += step
        spent.decode += fed and not weighted
        spent.drain += fed and weighted and not step
        fetching = fetcher.walking or fetcher.lagging or fetcher.pending
        spent.memory += not fed and fetching and core.begun
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
        if two_ports:
            clock_pair_fetcher(machine, d, fetcher, rows, lanes, granted, start_layer, held)
        else:
            clock_fetcher(machine, d, fetcher, rows, lanes, granted, start_layer)
        group_made = decoder.last
        accepted = decoder.valid and decoder.of_records
        coding = decoder.running and decoder.coded
        clock_engine(machine, row_ends, byte_times, engine, coding, granted & CODED != 0, core.cycles)
        rows_written = columns.written
        clock_decoder(
            machine, program, row_ends, decoder, code, literals, engine, columns, constants, granted
        )
        clock_columns(d, columns, rows_written, step, last, final)
        captured_final = compute.final_tile
        clock_compute(machine, compute, step and last, final, drained)
        clock_constants(constants, accepted and group_made, release)
        last_group = draining.group_channels <= machine.columns
        clock_drain(
            machine,
            drain,
            captured,
            transfer,
            batch_end,
            tile_end,
            follows,
            captured_final,
            last_group,
            start_drain,
        )
        clock_counter(machine, drained_d, draining, transfer and not batch_end, next_position, start_drain)
        late = residual.adding != 0
        clock_writer(machine, drained_d, writer, writing, accepted_output, late, written, start_drain)
        operand_granted = granted & OPERANDS != 0
        wanted = requantiser.valid and residual.adding and not residual.taken & 2
        clock_residual(machine, residual, wanted, operand_granted, taken, writer_done, start_residual)
        clock_requantiser(machine, requantiser, offered, taken)
        clock_filler(machine, loaded, filler, granted & BORDERS != 0, start_fill)
        descriptor_granted = granted & DESCRIPTORS != 0
        clock_sequencer(
            machine,
            loaded,
            sequencer,
            loading,
            descriptor_granted,
            writer_done,
            start_layer,
            start_drain,
            start_fill,
            idle,
            filled,
            last_tile,
        )
    return RUNNING
