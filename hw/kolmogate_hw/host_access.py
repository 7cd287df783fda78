"""Access of the link, and of the residual adder, to a few bytes of the scratchpad's words."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS

from .ports import BatchPort, HostPort, ReadPort, write_port

__all__ = ["HostAccess"]


class HostAccess(wiring.Component):
    """Turns the link's byte requests, and what the residual adder reads, into word accesses.

    Reads of both are one at a time, so that one selector takes their bytes out of the words. When the
    scratchpad is idle, what is asked for in one cycle is there in the fifth, in fast machines in the sixth.
    The host waits while a batch that was read is not yet taken. Its writes take three cycles. ``request``
    keeps its address until a read is answered.
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
                "operands": In(BatchPort(config)),
                "write_port": Out(write_port(config)),
                "read_port": Out(ReadPort(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns, lanes = self.config.columns, self.config.requantisers
        lane_bits = columns.bit_length() - 1
        batch_bits = lanes.bit_length() - 1
        request, operands = self.request.payload, self.operands
        word = request.address[lane_bits:ADDRESS_BITS]
        # Requests wait for their grant in registers, which keep those who ask and the arbiter apart. Whose a
        # read is, or was last:
        asking, reading = Signal(), Signal()
        for_host = Signal(reset_less=True)
        host_writes = Signal()
        granted = Signal()
        batch = Signal(8 * lanes, reset_less=True)
        m.d.comb += [
            self.write_port.valid.eq(host_writes),
            self.read_port.request.valid.eq(asking),
            self.read_port.request.payload.eq(Mux(for_host, word, operands.address[lane_bits:])),
            granted.eq(asking & self.read_port.request.ready),
            self.data.eq(batch.word_select(request.address[:batch_bits], 8)),
            operands.data.eq(batch),
        ]
        # In fast machines what is written has registers, too: the link may be far away.
        byte = Signal.like(request.data, name="byte", reset_less=True)
        m.d["sync" if self.config.fast else "comb"] += [
            self.write_port.payload.address.eq(word),
            self.write_port.payload.mask.eq(1 << request.address[:lane_bits]),
            byte.eq(request.data),
        ]
        m.d.comb += self.write_port.payload.data.eq(byte.replicate(columns))
        m.d.sync += [
            # That it is granted the link hears a cycle later, which keeps it and the arbiter apart, too.
            self.request.ready.eq((host_writes & self.write_port.ready) | (granted & for_host)),
            host_writes.eq(
                self.request.valid
                & ~self.request.ready
                & request.write
                & ~(host_writes & self.write_port.ready)
            ),
            self.valid.eq(self.read_port.valid & for_host),
        ]
        host_reads = self.request.valid & ~self.request.ready & ~request.write
        with m.If(granted):
            m.d.sync += [asking.eq(0), reading.eq(1)]
        with m.Elif(asking):
            m.d.sync += asking.eq(for_host | operands.request)
        with m.Elif(~reading & ~operands.valid):
            m.d.sync += [asking.eq(host_reads | operands.request), for_host.eq(host_reads)]
        with m.If(self.read_port.valid):
            # What comes out of the memory is registered before anything is made of it.
            address = Mux(for_host, request.address[:lane_bits], operands.address[:lane_bits])
            m.d.sync += [
                reading.eq(0),
                operands.valid.eq(~for_host),
                batch.eq(self.read_port.data.word_select(address[batch_bits:], 8 * lanes)),
            ]
        with m.If(operands.take | ~operands.request):
            m.d.sync += operands.valid.eq(0)
        return m
