"""The filler: writes a constant byte to the borders of a tensor, beside the array's work."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR

from .ports import word_address_bits, write_port
from .records import struct_layout

__all__ = ["Filler"]


class Filler(wiring.Component):
    """Executes FILL descriptors, one word a granted write.

    ``start`` takes the descriptor, which need not stay; ``busy`` is high from the next cycle until the
    last word is written.
    """

    start: Signal
    busy: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "busy": Out(1),
                "port": Out(write_port(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        columns = config.columns
        lane_bits = columns.bit_length() - 1
        line = Signal(ADDRESS_BITS, reset_less=True)
        lines = Signal(12, reset_less=True)
        step = Signal(ADDRESS_BITS, reset_less=True)
        run = Signal(14, reset_less=True)
        value = Signal(8, reset_less=True)
        word = Signal(word_address_bits(config), reset_less=True)
        first = Signal(lane_bits, reset_less=True)
        left = Signal(14, reset_less=True)

        # Bytes `first` up to `first + left` of the word are in the line.
        end = Signal(15)
        next_line = Signal(ADDRESS_BITS)
        m.d.comb += [
            end.eq(first + left),
            next_line.eq(line + step),
            self.port.valid.eq(self.busy),
            self.port.payload.address.eq(word),
            self.port.payload.data.eq(value.replicate(columns)),
        ]
        m.d.comb += [self.port.payload.mask[b].eq((first <= b) & (end > b)) for b in range(columns)]
        with m.If(self.busy & self.port.ready):
            m.d.sync += [word.eq(word + 1), first.eq(0), left.eq(end - columns)]
            with m.If(end <= columns):
                m.d.sync += [
                    line.eq(next_line),
                    Cat(first, word).eq(next_line),
                    left.eq(run),
                    lines.eq(lines - 1),
                    self.busy.eq(lines != 0),
                ]
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                line.eq(descriptor.output_base),
                Cat(first, word).eq(descriptor.output_base),
                step.eq(descriptor.output_step),
                lines.eq(descriptor.y_count - 1),
                run.eq(descriptor.run),
                left.eq(descriptor.run),
                value.eq(descriptor.zero_point),
            ]
        return m
