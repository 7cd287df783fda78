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
    "RECORD",
    "RESIDUAL",
    "clock_filler",
    "clock_sequencer",
]

# Kinds of descriptors.
END, ARRAY, FILL, RESIDUAL = range(4)

# States of the sequencer.
LOAD, DISPATCH, AWAIT_LAYER, AWAIT_FILL, RECORD, BORDER = range(6)


@njit
def clock_sequencer(
    machine: Registers,
    d: Registers,
    sequencer: Registers,
    granted: bool,
    layer_done: bool,
    end_layer: bool,
    start_fill: bool,
    filled: bool,
) -> None:
    answered = sequencer.answers & 1
    sequencer.answers = sequencer.answers >> 1 | granted << machine.read_latency - 1
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
        elif start_fill and machine.scratchpad_ports == 1:
            sequencer.state = BORDER
        elif start_fill:
            sequencer.index += 1
            sequencer.state = LOAD
    elif state == BORDER:
        if filled:
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
