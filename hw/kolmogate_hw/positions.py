"""Output positions in raster order, as the drain and the writer count them."""

from amaranth.hdl import Module, Signal
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
    live : channels of this group from this batch's first on (at least 1).
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
                "live": Out(12),
                "at_line_end": Out(1),
                "last_position": Out(1),
                "last_group": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        batches = config.columns // config.requantisers
        x = Signal(12, reset_less=True)
        y = Signal(12, reset_less=True)
        group_channels = Signal(12, reset_less=True)
        m.d.comb += [
            self.at_line_end.eq(x == descriptor.x_count - 1),
            self.last_position.eq(self.at_line_end & (y == descriptor.y_count - 1)),
            self.last_group.eq(group_channels <= config.columns),
            self.last_batch.eq((self.batch == batches - 1) | (self.live <= config.requantisers)),
        ]
        with m.If(self.next_batch):
            m.d.sync += [self.batch.eq(self.batch + 1), self.live.eq(self.live - config.requantisers)]
        with m.If(self.next_position):
            m.d.sync += [self.batch.eq(0), self.live.eq(group_channels), x.eq(x + 1)]
            with m.If(self.at_line_end):
                m.d.sync += [x.eq(0), y.eq(y + 1)]
            with m.If(self.last_position):
                following = group_channels - config.columns
                m.d.sync += [y.eq(0), group_channels.eq(following), self.live.eq(following)]
        with m.If(self.start):
            m.d.sync += [
                x.eq(0),
                y.eq(0),
                self.batch.eq(0),
                self.live.eq(descriptor.channels),
                group_channels.eq(descriptor.channels),
            ]
        return m
