"""The compute unit: feeders, column buffers and array stepping together, tap by tap."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import DESCRIPTOR

from .array import MacArray
from .column_buffer import ColumnBuffer, weight_row
from .feeder import RowFeeder, RunLayout
from .ports import RowPort
from .records import struct_layout

__all__ = ["Compute"]


class Compute(wiring.Component):
    """Takes a tap whenever every row has an activation, the columns have weights, and, for the last tap of
    a tile, the shadow registers are free; with ``config.tile_gap`` not in the cycle after that.

    Members
    -------
    push, run, pop : from and to the window fetcher.
    weights : rows of weights from the decoder.
    captured, drained, shift, accumulators : to and from the drain.
    held : the drain is not yet there for the layer: the first last tap waits.
    final_tile, last_row : of a tile that is captured: it is the last of its column group; the last of its
        rows with a position.
    fed, weighted, step : every row has an activation; the columns have weights; a tap is taken.
    """

    weights: wiring.PureInterface
    pop: Signal
    captured: Signal
    drained: Signal
    held: Signal
    shift: Signal
    final_tile: Signal
    last_row: Signal
    fed: Signal
    weighted: Signal
    step: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "push": In(config.rows).array(config.scratchpad_ports),
                "run": In(RunLayout(config)).array(config.scratchpad_ports),
                "pop": Out(config.rows),
                "weights": In(RowPort(config, weight_row(config))),
                "captured": Out(1),
                "drained": In(1),
                "held": In(1),
                "shift": In(1),
                "final_tile": Out(1),
                "last_row": Out(range(config.rows)),
                "accumulators": Out(data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)),
                "fed": Out(1),
                "weighted": Out(1),
                "step": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        m.submodules.array = array = MacArray(config)
        m.submodules.columns = columns = ColumnBuffer(config)
        wiring.connect(m, wiring.flipped(self.weights), columns.i)

        step = self.step
        word_mode: Value = descriptor.word_mode
        if config.fast:
            # A cycle late, as it comes from afar: a layer's first activation is later than that.
            word_mode = Signal(reset_less=True)
            m.d.sync += word_mode.eq(descriptor.word_mode)
        feeders = []
        for r in range(config.rows):
            m.submodules[f"feeder_{r}"] = feeder = RowFeeder(config)
            feeders.append(feeder)
            m.d.comb += [feeder.push.eq(Cat(push[r] for push in self.push).any()), feeder.run.eq(self.run[0])]
            for push, run in zip(self.push[1:], self.run[1:], strict=True):
                with m.If(push[r]):
                    m.d.comb += feeder.run.eq(run)
            m.d.comb += [
                feeder.word_mode.eq(word_mode),
                feeder.step.eq(step),
                self.pop[r].eq(feeder.pop),
                array.bytes[r].eq(feeder.byte),
                array.words[r].eq(feeder.word),
            ]
        # The last row's tags speak for the tile: it is placed last, so it knows whether the tile is final.
        last = Signal()
        final = Signal()
        undrained = Signal()
        resting = Signal()
        first = Signal(init=1)
        # There is all that a tap needs. Worked out a cycle before, so that little is left to be done in the
        # cycle of the step, which goes everywhere.
        ready = Signal()
        follows = [
            Cat(*(feeder.follows[k] for feeder in feeders), columns.follows[k]).all() for k in range(2)
        ]
        m.d.sync += ready.eq(Mux(step, follows[1], follows[0]))
        m.d.comb += [
            last.eq(feeders[-1].window_end),
            final.eq(feeders[-1].final_tile),
            self.fed.eq(Cat(feeder.valid for feeder in feeders).all()),
            self.weighted.eq(columns.available),
            step.eq(ready & ~(last & (undrained | self.held)) & ~resting),
            columns.step.eq(step),
            # A group's only row of unit weights serves all taps.
            columns.rewind.eq(last | descriptor.unit_weights),
            columns.release.eq((last & final) | descriptor.stream_weights),
            array.valid.eq(step),
            array.first.eq(first),
            array.last.eq(last),
            array.word_mode.eq(word_mode),
            array.unit_weights.eq(descriptor.unit_weights),
            array.weights.eq(columns.row),
            array.shift.eq(self.shift),
            self.captured.eq(array.captured),
            self.accumulators.eq(array.accumulators),
        ]
        with m.If(step):
            m.d.sync += first.eq(last)
        if config.tile_gap:
            m.d.sync += resting.eq(step & last)
        with m.If(self.drained):
            m.d.sync += undrained.eq(0)
        with m.If(step & last):
            m.d.sync += [
                undrained.eq(1),
                self.final_tile.eq(final),
                self.last_row.eq(Mux(final, feeders[-1].last_row, config.rows - 1)),
            ]
        return m
