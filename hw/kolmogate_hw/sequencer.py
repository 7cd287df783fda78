"""The sequencer: reads layer descriptors and starts the units that execute them."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, FILL, RECORDS, RESIDUAL, UNIT, Opcode

from .ports import ReadPort, word_address_bits
from .records import struct_layout
from .residual import DIGIT_BITS, ROWS

__all__ = ["Sequencer"]


class Sequencer(wiring.Component):
    """Walks the descriptor list of one inference.

    Members
    -------
    start, base : begin with the descriptor at word address ``base``.
    descriptor : the present one, steady while its layer runs, but for what moves on with the column groups.
    next_input, input_base : ``input_base`` of the descriptor becomes that of the next column group, and
        ``channels`` what is left with it.
    next_output, output_base : ``output_base`` becomes that of the next column group.
    start_layer, layer_done : an ARRAY descriptor begins; its last output is in the scratchpad.
    end_layer : high for one cycle when its borders are there too.
    start_fill, fill, filling : a FILL descriptor begins; the filler is at work. If the scratchpad has one
        port, where the filler could only take the time of others, the next descriptor waits for it.
    start_residual, row, residual : a RESIDUAL record for the next layer, as `ResidualAdder` takes it.
    done, bad_descriptor : high for one cycle at END, and at an unknown opcode.

    Each descriptor is read as if it were the longest; the next begins behind the words that it has. The units
    that an ARRAY descriptor keeps are still there, as no other descriptor is so long. Loading takes the
    longest's words plus 4 cycles (5 in fast machines), RESIDUAL records another 8.
    """

    start: Signal
    base: Signal
    descriptor: data.View
    next_input: Signal
    input_base: Signal
    next_output: Signal
    output_base: Signal
    start_layer: Signal
    layer_done: Signal
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
                "start_layer": Out(1),
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
        columns = self.config.columns
        words = DESCRIPTOR.size(columns) // columns
        address = Signal(word_address_bits(self.config), reset_less=True)
        asked = Signal(range(words + 1))
        loaded = Signal(range(words + 1))
        storage = Signal(8 * columns * words, reset_less=True)
        descriptor = data.View(struct_layout(DESCRIPTOR), storage[: DESCRIPTOR.bits])
        record = data.View(struct_layout(RESIDUAL), storage[: RESIDUAL.bits])
        m.d.comb += [
            self.descriptor.eq(storage),
            self.residual.eq(record),
            self.fill.eq(storage),
            self.port.request.payload.eq(address),
        ]
        # Words that were read beyond this descriptor's own.
        beyond = Signal(range(words))
        with m.Switch(self.descriptor.opcode):
            for opcode in (Opcode.FILL, Opcode.RESIDUAL):
                with m.Case(opcode):
                    m.d.comb += beyond.eq(words - RECORDS[opcode].size(columns) // columns)
            if columns == UNIT:
                with m.Default():
                    m.d.comb += beyond.eq(self.descriptor.keeps_window + self.descriptor.keeps_image)
        place = Signal.like(loaded)
        own = Signal()
        if columns == UNIT:
            # Behind the first two words, which all but the shortest have, is what may be kept.
            unkept = (self.descriptor.opcode == Opcode.ARRAY) & (loaded + beyond < words)
            m.d.comb += [
                own.eq(~loaded[1] | unkept),
                place.eq(Cat(loaded[0] | (loaded[1] & self.descriptor.keeps_window), loaded[1:])),
            ]
        else:
            m.d.comb += [own.eq(1), place.eq(loaded)]
        with m.If(self.port.valid):
            m.d.sync += loaded.eq(loaded + 1)
            with m.If(own):
                m.d.sync += storage.word_select(place, 8 * columns).eq(self.port.data)
        # The registers that hold the descriptor are also those that walk over the column groups.
        with m.If(self.next_input):
            m.d.sync += [
                descriptor.input_base.eq(self.input_base),
                descriptor.channels.eq(descriptor.channels - columns),
            ]
        with m.If(self.next_output):
            m.d.sync += descriptor.output_base.eq(self.output_base)
        asking = Signal()
        back = Signal()
        with m.If(asking | back):
            m.d.sync += address.eq(address + Mux(back, -beyond, 1))
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += address.eq(self.base)
                m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += self.port.request.valid.eq(asked != words)
                m.d.comb += asking.eq(self.port.request.valid & self.port.request.ready)
                with m.If(asking):
                    m.d.sync += asked.eq(asked + 1)
                with m.If(loaded == words):
                    m.d.sync += [asked.eq(0), loaded.eq(0)]
                    m.next = "DISPATCH"
            with m.State("DISPATCH"), m.Switch(self.descriptor.opcode):
                with m.Case(Opcode.END), m.If(~self.filling):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Case(Opcode.ARRAY):
                    m.d.comb += [self.start_layer.eq(1), back.eq(columns == UNIT)]
                    m.next = "ARRAY"
                with m.Case(Opcode.FILL), m.If(~self.filling):
                    m.d.comb += [self.start_fill.eq(1), back.eq(1)]
                    m.next = "LOAD" if self.config.scratchpad_ports == 2 else "BORDER"
                with m.Case(*([Opcode.RESIDUAL] if self.config.residual_adder else [])):
                    m.d.comb += back.eq(1)
                    m.next = "RESIDUAL"
                with m.Default():
                    m.d.comb += self.bad_descriptor.eq(1)
                    m.next = "IDLE"
            with m.State("BORDER"), m.If(~self.filling):
                m.next = "LOAD"
            with m.State("RESIDUAL"):
                m.d.comb += self.start_residual.eq(1)
                m.d.sync += self.row.eq(self.row + 1)
                for scale in (record.output_scale, record.operand_scale):
                    m.d.sync += scale.eq(scale >> DIGIT_BITS)
                with m.If(self.row == ROWS - 1):
                    m.d.sync += self.row.eq(0)
                    m.next = "LOAD"
            with m.State("ARRAY"), m.If(self.layer_done):
                m.next = "FILL"
            with m.State("FILL"), m.If(~self.filling):
                m.d.comb += self.end_layer.eq(1)
                m.next = "LOAD"
        return m
