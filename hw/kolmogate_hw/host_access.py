"""Byte access of the link to the scratchpad."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS

from .ports import HostPort, ReadPort, write_port

__all__ = ["HostAccess"]


class HostAccess(wiring.Component):
    """Turns the link's byte requests into word accesses.

    Reads are one at a time: 4 cycles each when the scratchpad is idle. Writes take one cycle. In fast
    machines a request first waits for a cycle, which keeps the link and the arbiter apart.
    """

    request: stream.Interface
    valid: Signal
    data: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "request": In(HostPort().members["request"].signature),
                "valid": Out(1),
                "data": Out(8),
                "write_port": Out(write_port(config)),
                "read_port": Out(ReadPort(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self.config.columns
        lane_bits = columns.bit_length() - 1
        request = self.request.payload
        lane = request.address[:lane_bits]
        word = request.address[lane_bits:ADDRESS_BITS]
        reading = Signal()
        wanted = Signal(lane_bits, reset_less=True)
        waited = Signal()
        if self.config.fast:
            m.d.sync += waited.eq(self.request.valid & ~self.request.ready)
        else:
            m.d.comb += waited.eq(1)
        m.d.comb += [
            self.write_port.valid.eq(self.request.valid & waited & request.write),
            self.write_port.payload.address.eq(word),
            self.write_port.payload.mask.eq(1 << lane),
            self.write_port.payload.data.eq(request.data.replicate(columns)),
            self.read_port.request.valid.eq(self.request.valid & waited & ~request.write & ~reading),
            self.read_port.request.payload.eq(word),
        ]
        with m.If(request.write):
            m.d.comb += self.request.ready.eq(waited & self.write_port.ready)
        with m.Else():
            m.d.comb += self.request.ready.eq(waited & self.read_port.request.ready & ~reading)
        m.d.sync += self.valid.eq(self.read_port.valid)
        with m.If(self.read_port.request.valid & self.read_port.request.ready):
            m.d.sync += [reading.eq(1), wanted.eq(lane)]
        with m.If(self.read_port.valid):
            m.d.sync += [
                reading.eq(0),
                self.data.eq(self.read_port.data.word_select(wanted, 8)),
            ]
        return m
