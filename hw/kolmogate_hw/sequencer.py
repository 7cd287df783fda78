"""The sequencer: reads layer descriptors and starts the units that execute them."""

from typing import NamedTuple

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, FILL, RECORDS, RESIDUAL, UNIT, Opcode

from .ports import ReadPort, word_address_bits
from .records import struct_layout
from .residual import DIGIT_BITS, ROWS

__all__ = ["OverlappingSequencer", "Sequencer", "sequencer"]


def sequencer(config: MachineConfig) -> "Sequencer":
    """That of a machine with so many scratchpad ports."""
    return (OverlappingSequencer if config.scratchpad_ports == 2 else Sequencer)(config)


class Sequencer(wiring.Component):
    """Walks the descriptor list of one inference.

    Members
    -------
    start, base : begin with the descriptor at word address ``base``.
    descriptor : the present one, steady while its layer is fetched and computed, but for what moves on with
        the column groups.
    next_input, input_base : ``input_base`` of the descriptor becomes that of the next column group, and
        ``channels`` what is left with it.
    drained : the descriptor of the layer that is drained, likewise.
    next_output, output_base : its ``output_base`` becomes that of the next column group.
    start_layer : an ARRAY descriptor begins.
    start_drain, layer_done : its outputs may come; the last of them is in the scratchpad.
    end_layer : high for one cycle when the next one takes over.
    start_fill, fill, filling : a FILL descriptor begins; the filler is at work.
    start_residual, row, residual : a RESIDUAL record for the next layer, as `ResidualAdder` takes it.
    done, bad_descriptor : high for one cycle at END, and at an unknown opcode.
    last_tile, leaving, held : only of a machine with two ports (`OverlappingSequencer`).

    Each descriptor is read as if it were the longest; the next begins behind the words that it has. The units
    that an ARRAY descriptor keeps are still there, as no other descriptor is so long. Loading takes the
    longest's words plus 5 cycles, RESIDUAL records another 8.

    This one is that of machines with one scratchpad port. The filler could only take the time of others
    there, so that the next descriptor waits for it; one layer is drained before the next begins, and a
    descriptor is loaded then.
    """

    start: Signal
    base: Signal
    descriptor: data.View
    next_input: Signal
    input_base: Signal
    next_output: Signal
    output_base: Signal
    start_layer: Signal
    drained: data.View
    start_drain: Signal
    layer_done: Signal
    last_tile: Signal
    leaving: Signal
    held: Signal
    end_layer: Signal
    start_fill: Signal
    start_residual: Signal
    row: Signal
    fill: data.View
    filling: Signal
    done: Signal
    bad_descriptor: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "base": In(word_address_bits(config)),
                "port": Out(ReadPort(config)),
                "descriptor": Out(struct_layout(DESCRIPTOR)),
                "next_input": In(1),
                "input_base": In(ADDRESS_BITS),
                "next_output": In(1),
                "output_base": In(ADDRESS_BITS),
                "drained": Out(struct_layout(DESCRIPTOR)),
                "start_layer": Out(1),
                "start_drain": Out(1),
                "last_tile": In(1),
                "leaving": In(1),
                "held": Out(1),
                "layer_done": In(1),
                "end_layer": Out(1),
                "start_fill": Out(1),
                "fill": Out(struct_layout(FILL)),
                "filling": In(1),
                "start_residual": Out(1),
                "row": Out(range(ROWS)),
                "residual": Out(struct_layout(RESIDUAL)),
                "done": Out(1),
                "bad_descriptor": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        loading = self._loading(m)
        stored = loading.stored
        # The registers that hold the descriptor are also those that walk over the column groups.
        self._walk(m, stored, stored)
        m.d.comb += [
            self.descriptor.eq(stored),
            self.drained.eq(stored),
            self.start_drain.eq(self.start_layer),
        ]
        m.d.sync += self.start_layer.eq(0)
        with m.FSM():
            self._states(m, loading)
            with m.State("DISPATCH"), m.Switch(stored.opcode):
                with m.Case(Opcode.END), m.If(~self.filling):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Case(Opcode.ARRAY):
                    m.d.comb += loading.back.eq(self.config.columns == UNIT)
                    m.d.sync += self.start_layer.eq(1)
                    m.next = "ARRAY"
                with m.Case(Opcode.FILL), m.If(~self.filling):
                    m.d.comb += [self.start_fill.eq(1), loading.back.eq(1)]
                    m.next = "BORDER"
                with m.Case(*([Opcode.RESIDUAL] if self.config.residual_adder else [])):
                    m.d.comb += loading.back.eq(1)
                    m.next = "RESIDUAL"
                with m.Default():
                    m.d.comb += self.bad_descriptor.eq(1)
                    m.next = "IDLE"
            with m.State("BORDER"), m.If(~self.filling):
                m.next = "LOAD"
            with m.State("ARRAY"), m.If(self.layer_done):
                m.next = "FILL"
            with m.State("FILL"), m.If(~self.filling):
                m.d.comb += self.end_layer.eq(1)
                m.next = "LOAD"
        return m

    def _loading(self, m: Module) -> "_Loading":
        """What loads a descriptor."""
        columns = self.config.columns
        words = DESCRIPTOR.size(columns) // columns
        address = Signal(word_address_bits(self.config), reset_less=True)
        asked = Signal(range(words + 1))
        wanted = Signal()
        loaded = Signal(range(words + 1))
        storage = Signal(8 * columns * words, reset_less=True)
        stored = data.View(struct_layout(DESCRIPTOR), storage[: DESCRIPTOR.bits])
        m.d.comb += [
            self.residual.eq(storage),
            self.fill.eq(storage),
            self.port.request.payload.eq(address),
        ]
        # Words that were read beyond this descriptor's own.
        beyond = Signal(range(words))
        with m.Switch(stored.opcode):
            for opcode in (Opcode.FILL, Opcode.RESIDUAL):
                with m.Case(opcode):
                    m.d.comb += beyond.eq(words - RECORDS[opcode].size(columns) // columns)
            if columns == UNIT:
                with m.Default():
                    m.d.comb += beyond.eq(stored.keeps_window + stored.keeps_image)
        place = Signal.like(loaded)
        own = Signal()
        if columns == UNIT:
            # Behind the first two words, which all but the shortest have, is what may be kept.
            unkept = (stored.opcode == Opcode.ARRAY) & (loaded + beyond < words)
            m.d.comb += [
                own.eq(~loaded[1] | unkept),
                place.eq(Cat(loaded[0] | (loaded[1] & stored.keeps_window), loaded[1:])),
            ]
        else:
            m.d.comb += [own.eq(1), place.eq(loaded)]
        with m.If(self.port.valid):
            m.d.sync += loaded.eq(loaded + 1)
            with m.If(own):
                m.d.sync += storage.word_select(place, 8 * columns).eq(self.port.data)
        # Where there is a cycle for it, requests, and the way back, wait in registers.
        back, going_back, by = Signal(), Signal(), Signal.like(beyond)
        later = "comb" if self.config.fast else "sync"
        asking = self.port.request.valid & self.port.request.ready
        m.d[later] += [going_back.eq(back), by.eq(beyond)]
        if self.config.fast:
            m.d.comb += self.port.request.valid.eq(wanted)
        else:
            m.d.sync += self.port.request.valid.eq(wanted & ~(asking & (asked == words - 1)))
        with m.If(asking | going_back):
            m.d.sync += address.eq(address + Mux(going_back, -by, 1))
        with m.If(asking):
            m.d.sync += asked.eq(asked + 1)
        with m.If(self.start):
            m.d.sync += address.eq(self.base)
        return _Loading(storage, stored, back, wanted, asked, loaded, words)

    def _walk(self, m: Module, fetched: data.View, drained: data.View) -> None:
        """The descriptors of the layers that are fetched and drained go on to the next column group."""
        with m.If(self.next_input):
            m.d.sync += [
                fetched.input_base.eq(self.input_base),
                fetched.channels.eq(fetched.channels - self.config.columns),
            ]
        with m.If(self.next_output):
            m.d.sync += drained.output_base.eq(self.output_base)

    def _states(self, m: Module, loading: "_Loading") -> None:
        """Those from the start to where a descriptor is loaded, and of a RESIDUAL record."""
        with m.State("IDLE"), m.If(self.start):
            m.next = "LOAD"
        with m.State("LOAD"):
            m.d.comb += loading.wanted.eq(loading.asked != loading.words)
            with m.If(loading.loaded == loading.words):
                m.d.sync += [loading.asked.eq(0), loading.loaded.eq(0)]
                m.next = "DISPATCH"
        record = data.View(struct_layout(RESIDUAL), loading.storage[: RESIDUAL.bits])
        with m.State("RESIDUAL"):
            m.d.comb += self.start_residual.eq(1)
            m.d.sync += self.row.eq(self.row + 1)
            for scale in (record.output_scale, record.operand_scale):
                m.d.sync += scale.eq(scale >> DIGIT_BITS)
            with m.If(self.row == ROWS - 1):
                m.d.sync += self.row.eq(0)
                m.next = "LOAD"


class _Loading(NamedTuple):
    """Registers of the loading, the descriptor in them; that what is behind its own words is next; that words
    are still to be asked for."""

    storage: Signal
    stored: data.View
    back: Signal
    wanted: Signal
    asked: Signal
    loaded: Signal
    words: int


class OverlappingSequencer(Sequencer):
    """As `Sequencer`, with descriptors loaded while a layer runs, and layers that overlap.

    A fill runs beside the layer whose descriptor is before its own, and the next layer waits for both. A
    layer begins in the cycle after ``layer_done``, or, if it says that it ``overlaps``, as soon as the last
    tile of the one before is ``leaving``. Until its ``start_drain`` it is then ``held``: no more than its
    first tile may be fetched, and that not come to its last tap.

    Members
    -------
    last_tile : high for one cycle when the array is through with the layer.
    leaving : its last tile is on its way to memory, and the others are there.
    held : as above.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        loading = self._loading(m)
        stored, columns = loading.stored, self.config.columns
        fetched = Signal(struct_layout(DESCRIPTOR), reset_less=True)
        drained = Signal(struct_layout(DESCRIPTOR), reset_less=True)
        channels = Signal.like(fetched.channels, reset_less=True)
        self._walk(m, fetched, drained)
        # The array is at work on a layer; one is drained; the next has begun meanwhile.
        computing, draining, held = Signal(), Signal(), self.held
        idle = Signal()
        # Whether there is a layer whose end is to be told.
        begun = Signal()
        m.d.comb += [
            self.descriptor.eq(fetched),
            self.drained.eq(drained),
            idle.eq(~computing & ~draining & ~self.filling),
            self.start_drain.eq((self.start_layer | held) & ~draining),
            self.end_layer.eq(begun & (self.start_layer | self.done)),
        ]
        with m.If(self.start):
            m.d.sync += begun.eq(0)
        with m.If(self.last_tile):
            m.d.sync += computing.eq(0)
        with m.If(self.start_layer):
            m.d.sync += [computing.eq(1), held.eq(draining), begun.eq(1)]
        with m.If(self.layer_done):
            m.d.sync += draining.eq(0)
        with m.If(self.start_drain):
            m.d.sync += [draining.eq(1), held.eq(0)]
        with m.If(~draining | self.layer_done):
            m.d.sync += [drained.eq(fetched), drained.channels.eq(channels)]
        with m.FSM():
            self._states(m, loading)
            with m.State("DISPATCH"), m.Switch(stored.opcode):
                with m.Case(Opcode.END), m.If(idle):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Case(Opcode.ARRAY), m.If(~computing | self.last_tile):
                    m.d.comb += loading.back.eq(columns == UNIT)
                    m.d.sync += [fetched.eq(stored), channels.eq(stored.channels)]
                    m.next = "SETTLE"
                with m.Case(Opcode.FILL), m.If(~self.filling):
                    m.d.comb += [self.start_fill.eq(1), loading.back.eq(1)]
                    m.next = "LOAD"
                with m.Case(*([Opcode.RESIDUAL] if self.config.residual_adder else [])), m.If(idle):
                    m.d.comb += loading.back.eq(1)
                    m.next = "RESIDUAL"
                with m.Default(), m.If(idle):
                    m.d.comb += self.bad_descriptor.eq(1)
                    m.next = "IDLE"
            # The units want the descriptor a cycle before they start.
            with m.State("SETTLE"):
                m.next = "READY"
            ready = ~self.filling & (~draining | (stored.overlaps & self.leaving))
            with m.State("READY"), m.If(ready):
                m.d.comb += self.start_layer.eq(1)
                m.next = "LOAD"
        return m
