"""The filler: writes a constant byte to the borders of a tensor, beside the array's work."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import FILL, FILL_UNIT

from .ports import write_port
from .records import struct_layout

__all__ = ["Filler"]


class Filler(wiring.Component):
    """Executes FILL descriptors, a granted write for each whole word and for each unit of a word in part.

    ``start`` takes the descriptor; ``busy`` is high from the next cycle until the last word is written. Until
    then the descriptor must stay if the scratchpad has one port.
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
        units = columns // FILL_UNIT
        lane_bits = units.bit_length() - 1

        def kept(name: str, value: Value) -> Value:
            """The value at the start."""
            if config.scratchpad_ports == 1:
                return value
            register = Signal.like(value, name=name, reset_less=True)
            with m.If(self.start):
                m.d.sync += register.eq(value)
            return register

        # All in units: the address, the gap between lines, how many a line has and how many of them are left.
        address = Signal.like(descriptor.output_base, reset_less=True)
        gap = kept("gap", descriptor.output_step)
        run = kept("run", descriptor.run)
        value = kept("value", descriptor.zero_point)
        left = Signal.like(descriptor.run, reset_less=True)
        lines = Signal.like(descriptor.y_count, reset_less=True)

        whole = Signal()
        line_end = Signal()
        place = address[:lane_bits]
        taken = Mux(whole, units, 1)
        m.d.comb += [
            whole.eq((place == 0) & (left >= units) if units > 1 else 1),
            line_end.eq(left == taken),
            self.port.valid.eq(self.busy),
            self.port.payload.address.eq(address[lane_bits:]),
            self.port.payload.mask.eq(Cat((whole | (place == k)).replicate(FILL_UNIT) for k in range(units))),
            self.port.payload.data.eq(value.replicate(columns)),
        ]
        with m.If(self.busy & self.port.ready):
            m.d.sync += [
                address.eq(address + Mux(line_end, gap, 0) + taken),
                left.eq(Mux(line_end, run, left - taken)),
            ]
            with m.If(line_end):
                m.d.sync += [lines.eq(lines - 1), self.busy.eq(lines != 1)]
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                address.eq(descriptor.output_base),
                lines.eq(descriptor.y_count),
                left.eq(descriptor.run),
            ]
        return m
