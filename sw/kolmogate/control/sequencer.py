"""Sequencer and filler."""

from numba import njit

from ..isa import FILL_UNIT
from ..registers import Registers

__all__ = [
    "ARRAY",
    "AWAIT_FILL",
    "AWAIT_LAYER",
    "BORDER",
    "DISPATCH",
    "END",
    "FILL",
    "LOAD",
    "READY",
    "RECORD",
    "RESIDUAL",
    "clock_filler",
    "clock_sequencer",
]

# Kinds of descriptors.
END, ARRAY, FILL, RESIDUAL = range(4)

# States of the sequencer.
LOAD, DISPATCH, AWAIT_LAYER, AWAIT_FILL, RECORD, BORDER, SETTLE, READY = range(8)


@njit
def clock_sequencer(
    machine: Registers,
    d: Registers,
    sequencer: Registers,
    wanted: bool,
    granted: bool,
    layer_done: bool,
    start_layer: bool,
    start_drain: bool,
    start_fill: bool,
    idle: bool,
    filled: bool,
    last_tile: bool,
) -> None:
    """``wanted``: words are still to be asked for. ``idle`` as the next descriptor sees it, ``filled`` in the
    states that wait for it."""
    answered = sequencer.answers & 1
    sequencer.answers = sequencer.answers >> 1 | granted << machine.read_latency - 1
    sequencer.asking = wanted and not (granted and sequencer.asked == machine.descriptor_words - 1)
    state = sequencer.state
    sequencer.starting = state == DISPATCH and d.kind == ARRAY
    two_ports = machine.scratchpad_ports == 2
    if two_ports and (layer_done or not sequencer.draining):
        sequencer.drained = sequencer.fetched
    if state == LOAD:
        sequencer.asked += granted
        if sequencer.loaded == machine.descriptor_words:
            sequencer.asked = 0
            sequencer.loaded = 0
            sequencer.state = DISPATCH
    elif state == DISPATCH:
        if d.kind == ARRAY and two_ports:
            if not sequencer.computing or last_tile:
                sequencer.fetched = sequencer.index
                sequencer.state = SETTLE
        elif d.kind == ARRAY:
            sequencer.state = AWAIT_LAYER
        elif d.kind == RESIDUAL and idle:
            sequencer.state = RECORD
        elif start_fill and not two_ports:
            sequencer.state = BORDER
        elif start_fill:
            _next(sequencer)
    elif state == BORDER:
        if filled:
            _next(sequencer)
    elif state == RECORD:
        sequencer.row += 1
        if sequencer.row == machine.residual_rows:
            sequencer.row = 0
            _next(sequencer)
    elif state == SETTLE:
        sequencer.state = READY
    elif state == READY:
        if start_layer:
            _next(sequencer)
    elif state == AWAIT_LAYER:
        if layer_done:
            sequencer.state = AWAIT_FILL
    elif filled:
        _next(sequencer)
    if not two_ports:
        sequencer.fetched, sequencer.drained = sequencer.index, sequencer.index
    if last_tile:
        sequencer.computing = 0
    if start_layer:
        sequencer.computing, sequencer.held, sequencer.begun = 1, sequencer.draining, 1
    if layer_done:
        sequencer.draining = 0
    if start_drain:
        sequencer.draining, sequencer.held = 1, 0
    sequencer.loaded += answered


@njit
def _next(sequencer: Registers) -> None:
    """On to the next descriptor."""
    sequencer.index += 1
    sequencer.state = LOAD


@njit
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
        filler.address, filler.gap = d.output_base, d.output_step
        filler.lines = d.y_count
        filler.run, filler.left = d.run, d.run
