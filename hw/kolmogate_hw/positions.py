"""Batches of outputs, as the drain and the writer count them."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import DESCRIPTOR
from kolmogate.machine_arithmetic import requantiser_interval

from .records import struct_layout

__all__ = ["BatchCounter", "place_layout"]


def place_layout(config: MachineConfig) -> data.StructLayout:
    """A batch's place: which of its outputs belong to live channels (never none), and whether it is the last
    live ``batch`` of its position, which is in the last column ``group``."""
    return data.StructLayout({"live": config.requantisers, "batch": 1, "group": 1})


class BatchCounter(wiring.Component):
    """Counts batches of Q channels and column groups of a layer, in the order of draining.

    Members
    -------
    start : begin with the layer whose descriptor is given.
    next_batch : the present batch is finished.
    next_position : the present position is finished; also sets the batch back to 0.
    group_end : the present position is the last of its column group.
    batch : the batch within the position.
    last : what the present batch is the last of, and its live outputs.
    end : the last live batch of the position.
    last_follows : the next batch is that.

    Digit-serial requantisers leave a cycle free between batches. ``last`` and ``last_follows`` are then
    registered, and right from a batch's second cycle on. Pipelined ones leave one between groups, in which
    ``last`` and ``end`` are still those of the group before.
    """

    start: Signal
    next_batch: Signal
    next_position: Signal
    group_end: Signal
    batch: Signal
    last: data.View
    end: Signal
    last_follows: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "next_batch": In(1),
                "next_position": In(1),
                "group_end": In(1),
                "batch": Out(range(config.columns // config.requantisers)),
                "last": Out(place_layout(config)),
                "end": Out(range(config.columns // config.requantisers)),
                "last_follows": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        batches = config.columns // config.requantisers
        lane_bits = config.columns.bit_length() - 1
        batch_bits = config.requantisers.bit_length() - 1
        # But for the one that goes without saying, so that no comparison waits for a sum.
        channels_left = Signal(12, reset_less=True)
        here = self.last
        # The place of the last group's last channel.
        end = Signal(lane_bits)
        last_group = Signal()
        m.d.comb += [
            end.eq(channels_left),
            # 0 channels are a group, too.
            last_group.eq((channels_left[lane_bits:] == 0) | channels_left.all()),
        ]
        pipelined = requantiser_interval(config) == 1
        m.d["sync" if pipelined else "comb"] += self.end.eq(Mux(last_group, end[batch_bits:], batches - 1))
        m.d.sync += here.group.eq(last_group)
        m.d["comb" if pipelined else "sync"] += [
            here.batch.eq(self.batch == self.end),
            self.last_follows.eq(self.batch + 1 == self.end),
        ]
        m.d.comb += [
            here.live[q].eq(~(here.group & here.batch) | (end[:batch_bits] >= q))
            for q in range(config.requantisers)
        ]
        with m.If(self.next_batch):
            m.d.sync += self.batch.eq(self.batch + 1)
        with m.If(self.next_position):
            m.d.sync += self.batch.eq(0)
            with m.If(self.group_end):
                m.d.sync += channels_left.eq(channels_left - config.columns)
        with m.If(self.start):
            m.d.sync += [self.batch.eq(0), channels_left.eq(self.descriptor.channels - 1)]
        return m
