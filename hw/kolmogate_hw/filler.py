"""The filler: writes a constant byte to the borders of a tensor, beside the array's work."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, FILL

from .ports import write_port
from .records import struct_layout

__all__ = ["Filler"]


class Filler(wiring.Component):
    """Executes FILL descriptors, a granted write for each whole word and for each byte of a word in part.

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
                "descriptor": In(struct_layout(FILL)),
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
        address = Signal(ADDRESS_BITS, reset_less=True)
        left = Signal(14, reset_less=True)

        byte = address[:lane_bits]
        whole = Signal()
        next_line = Signal(ADDRESS_BITS)
        m.d.comb += [
            whole.eq((byte == 0) & (left >= columns)),
            next_line.eq(line + step),
            self.port.valid.eq(self.busy),
            self.port.payload.address.eq(address[lane_bits:]),
            self.port.payload.mask.eq(Mux(whole, (1 << columns) - 1, 1 << byte)),
            self.port.payload.data.eq(value.replicate(columns)),
        ]
        with m.If(self.busy & self.port.ready):
            taken = Mux(whole, columns, 1)
            m.d.sync += [address.eq(address + taken), left.eq(left - taken)]
            with m.If(left == taken):
                m.d.sync += [
                    line.eq(next_line),
                    address.eq(next_line),
                    left.eq(run),
                    lines.eq(lines - 1),
                    self.busy.eq(lines != 1),
                ]
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                line.eq(descriptor.output_base),
                address.eq(descriptor.output_base),
                step.eq(descriptor.output_step),
                lines.eq(descriptor.y_count),
                run.eq(descriptor.run),
                left.eq(descriptor.run),
                value.eq(descriptor.zero_point),
            ]
        return m
