"""Output positions in raster order, as the drain and the writer count them."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import DESCRIPTOR

from .records import struct_layout

__all__ = ["BatchCounter"]


class BatchCounter(wiring.Component):
    """Counts batches of Q channels, positions and column groups of a layer, in the order of draining.

    Members
    -------
    start : begin with the layer whose descriptor is given.
    next_batch : the present batch is finished.
    next_position : the present position is finished; also sets the batch back to 0.
    batch : the batch within the position.
    last_batch : no live channel follows in this column group.
    live : which of the batch's outputs belong to live channels; never none.
    at_line_end, last_position, last_group : what the present position is the last of.
    """

    start: Signal
    next_batch: Signal
    next_position: Signal
    batch: Signal
    last_batch: Signal
    live: Signal
    at_line_end: Signal
    last_position: Signal
    last_group: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "next_batch": In(1),
                "next_position": In(1),
                "batch": Out(range(config.columns // config.requantisers)),
                "last_batch": Out(1),
                "live": Out(config.requantisers),
                "at_line_end": Out(1),
                "last_position": Out(1),
                "last_group": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        batches = config.columns // config.requantisers
        lane_bits = config.columns.bit_length() - 1
        batch_bits = config.requantisers.bit_length() - 1
        # Both count from 1, so that they meet the descriptor's fields as these are.
        x = Signal(12, reset_less=True)
        y = Signal(12, reset_less=True)
        channels_left = Signal(12, reset_less=True)
        # Of the last group's channels, the last one's place.
        last = Signal(lane_bits)
        last_batch = Signal.like(self.batch)
        m.d.comb += [
            self.at_line_end.eq(x == descriptor.x_count),
            self.last_position.eq(self.at_line_end & (y == descriptor.y_count)),
            self.last_group.eq(channels_left <= config.columns),
            last.eq(channels_left - 1),
            last_batch.eq(Mux(self.last_group, last[batch_bits:], batches - 1)),
            self.last_batch.eq(self.batch == last_batch),
        ]
        m.d.comb += [
            self.live[q].eq(~(self.last_group & self.last_batch) | (last[:batch_bits] >= q))
            for q in range(config.requantisers)
        ]
        with m.If(self.next_batch):
            m.d.sync += self.batch.eq(self.batch + 1)
        with m.If(self.next_position):
            m.d.sync += [self.batch.eq(0), x.eq(x + 1)]
            with m.If(self.at_line_end):
                m.d.sync += [x.eq(1), y.eq(y + 1)]
            with m.If(self.last_position):
                m.d.sync += [y.eq(1), channels_left.eq(channels_left - config.columns)]
        with m.If(self.start):
            m.d.sync += [x.eq(1), y.eq(1), self.batch.eq(0), channels_left.eq(descriptor.channels)]
        return m
