"""The writer: puts requantised outputs back into the scratchpad, a word at a time."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR

from .ports import write_port
from .positions import BatchCounter
from .records import struct_layout

__all__ = ["OutputWriter"]


class OutputWriter(wiring.Component):
    """Collects batches of Q outputs of neighbouring channels into words and writes them.

    Output positions start at multiples of Q bytes. ``i`` is always ready: the write port must grant at
    once (highest priority). ``done`` is high for one cycle when the layer's last word has been written.
    ``address`` is where the next batch goes.
    """

    i: stream.Interface
    start: Signal
    done: Signal
    address: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "i": In(stream.Signature(data.ArrayLayout(8, config.requantisers))),
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
        m.d.comb += [
            counter.start.eq(self.start),
            counter.descriptor.eq(descriptor),
            counter.next_batch.eq(self.i.valid & ~counter.last_batch),
            counter.next_position.eq(self.i.valid & counter.last_batch),
            self.i.ready.eq(1),
        ]

        position = Signal(ADDRESS_BITS, reset_less=True)
        group = Signal(ADDRESS_BITS, reset_less=True)
        address = self.address
        with m.If(self.i.valid):
            m.d.sync += address.eq(address + lanes)
            with m.If(counter.last_batch):
                following = Signal(ADDRESS_BITS)
                m.d.comb += following.eq(
                    position + Mux(counter.at_line_end, descriptor.output_wrap, descriptor.output_step)
                )
                m.d.sync += [position.eq(following), address.eq(following)]
                with m.If(counter.last_position):
                    next_group = group + config.columns
                    m.d.sync += [
                        group.eq(next_group),
                        position.eq(next_group),
                        address.eq(next_group),
                    ]
        with m.If(self.start):
            m.d.sync += [
                group.eq(descriptor.output_base),
                position.eq(descriptor.output_base),
                address.eq(descriptor.output_base),
            ]

        # The word being collected, and the slot of it that this batch fills.
        collected = Signal(8 * config.columns, reset_less=True)
        mask = Signal(config.columns)
        merged = Signal(8 * config.columns)
        merged_mask = Signal(config.columns)
        live = Signal(lanes)
        slot = address[batch_bits:lane_bits]
        m.d.comb += [live[q].eq(counter.live > q) for q in range(lanes)]
        for s in range(slots):
            span, bytes_ = slice(8 * lanes * s, 8 * lanes * (s + 1)), slice(lanes * s, lanes * (s + 1))
            here = Signal(name=f"slot_{s}")
            m.d.comb += [
                here.eq(slot == s),
                merged[span].eq(Mux(here, self.i.payload.as_value(), collected[span])),
                merged_mask[bytes_].eq(Mux(here, live, mask[bytes_])),
            ]
        flush = Signal()
        finished = Signal()
        m.d.comb += flush.eq(self.i.valid & (counter.last_batch | (slot == slots - 1)))
        m.d.sync += [
            self.port.valid.eq(flush),
            finished.eq(flush & counter.last_batch & counter.last_position & counter.last_group),
            self.done.eq(finished),
        ]
        with m.If(self.i.valid):
            m.d.sync += [collected.eq(merged), mask.eq(merged_mask)]
        with m.If(flush):
            m.d.sync += [
                self.port.payload.address.eq(address[lane_bits:]),
                self.port.payload.data.eq(merged),
                self.port.payload.mask.eq(merged_mask),
                mask.eq(0),
            ]
        return m
