"""The writer: puts requantised outputs back into the scratchpad, several at a time."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, WRAP
from kolmogate.machine_arithmetic import requantiser_interval

from .ports import write_port
from .positions import BatchCounter
from .raster import RasterWalk
from .records import struct_layout

__all__ = ["OutputWriter"]


class OutputWriter(wiring.Component):
    """Collects batches of Q outputs of neighbouring channels and writes ``config.written_bytes`` at once.

    Output positions start at multiples of Q bytes. ``i`` is always ready: the write port must grant at
    once (highest priority). With ``next_group`` the descriptor's ``output_base`` must become ``group_base``
    from the next cycle on. ``done`` is high for one cycle when the layer's last word has been written.
    ``accept`` is high in the cycle in which a batch's way to ``address`` begins: that in which it is at
    ``i``, or, while ``late`` is high, an earlier one; the next is accepted when it was at ``i``.
    """

    i: stream.Interface
    start: Signal
    next_group: Signal
    group_base: Signal
    done: Signal
    accept: Signal
    late: Signal
    address: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "next_group": Out(1),
                "group_base": Out(ADDRESS_BITS),
                "i": In(stream.Signature(data.ArrayLayout(8, config.requantisers))),
                "accept": In(1),
                "late": In(1),
                "port": Out(write_port(config)),
                "done": Out(1),
                "address": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        lanes = config.requantisers
        slots = config.columns // lanes
        lane_bits = config.columns.bit_length() - 1
        batch_bits = lanes.bit_length() - 1

        m.submodules.counter = counter = BatchCounter(config)
        m.submodules.walk = walk = RasterWalk()
        last = counter.last
        m.d.comb += [
            counter.start.eq(self.start),
            counter.descriptor.eq(descriptor),
            counter.group_end.eq(walk.end),
            walk.x_count.eq(descriptor.x_count),
            walk.y_count.eq(descriptor.y_count),
            walk.start.eq(self.start),
            walk.step.eq(counter.next_position),
            counter.next_batch.eq(self.accept & ~last.batch),
            counter.next_position.eq(self.accept & last.batch),
            self.i.ready.eq(1),
        ]
        position = Signal(ADDRESS_BITS, reset_less=True)
        wrap: Value = descriptor.output_wrap
        if config.scratchpad_ports == 2:
            # Registered, as it comes in two parts.
            wrap = Signal(ADDRESS_BITS, reset_less=True)
            m.d.sync += wrap.eq(descriptor.output_wrap + WRAP * descriptor.output_wrap_high)
        # Digit-serial requantisers leave a cycle free between positions.
        stride = Signal(ADDRESS_BITS, reset_less=True)
        m.d["comb" if requantiser_interval(config) == 1 else "sync"] += stride.eq(
            Mux(walk.line_end, wrap, descriptor.output_step)
        )
        address = self.address
        m.d.comb += self.group_base.eq(descriptor.output_base + config.columns)
        with m.If(self.accept):
            m.d.sync += address.eq(address + lanes)
            with m.If(last.batch):
                following = Signal(ADDRESS_BITS)
                m.d.comb += following.eq(position + stride)
                m.d.sync += [position.eq(following), address.eq(following)]
                with m.If(walk.end):
                    m.d.comb += self.next_group.eq(1)
                    m.d.sync += [position.eq(self.group_base), address.eq(self.group_base)]
        with m.If(self.start):
            m.d.sync += [position.eq(descriptor.output_base), address.eq(descriptor.output_base)]

        # What becomes of the batch that is accepted, and of the one at ``i``.
        together = config.written_bytes // lanes
        what = data.StructLayout(
            {
                "slot": range(together),
                "piece": range(slots // together),
                "live": lanes,
                "flush": 1,
                "finish": 1,
            },
        )
        accepted = Signal(what)
        held = Signal(what, reset_less=True)
        present = Signal(what)
        m.d.comb += [
            Cat(accepted.slot, accepted.piece).eq(address[batch_bits:lane_bits]),
            accepted.live.eq(last.live),
            accepted.flush.eq(last.batch | (accepted.slot == together - 1)),
            accepted.finish.eq(last.batch & walk.end & last.group),
            present.eq(accepted),
        ]
        with m.If(self.accept):
            m.d.sync += [held.eq(accepted), self.port.payload.address.eq(address[lane_bits:])]
        if config.residual_adder:
            with m.If(self.late):
                m.d.comb += present.eq(held)

        # The outputs being collected, and which of them are there. The port takes them in the cycle after the
        # last, in which the next may begin.
        outputs = Signal(8 * config.written_bytes, reset_less=True)
        piece = Signal.like(present.piece, reset_less=True)
        mask = Signal(config.written_bytes)
        filled = Signal(config.written_bytes)
        flush = Signal()
        finished = Signal()
        for s in range(together):
            here = Signal(name=f"slot_{s}")
            m.d.comb += [
                here.eq(self.i.valid & (present.slot == s)),
                filled[lanes * s : lanes * (s + 1)].eq(Mux(here, present.live, 0)),
            ]
            with m.If(here):
                m.d.sync += outputs[8 * lanes * s : 8 * lanes * (s + 1)].eq(self.i.payload.as_value())
        m.d.comb += [
            flush.eq(self.i.valid & present.flush),
            self.port.payload.data.eq(outputs.replicate(slots // together)),
            self.port.payload.mask.eq(Cat(Mux(piece == p, mask, 0) for p in range(slots // together))),
        ]
        m.d.sync += [
            mask.eq(Mux(self.port.valid, 0, mask) | filled),
            piece.eq(present.piece),
            self.port.valid.eq(flush),
            finished.eq(flush & present.finish),
            self.done.eq(finished),
        ]
        return m
