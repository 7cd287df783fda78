"""The walk over a layer's output positions in raster order, some at once."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RasterWalk"]


class RasterWalk(wiring.Component):
    """Says of one or two consecutive positions whether a line, or the layer, ends with them.

    Whether a count is its last is registered along with it, off the critical path. With two positions that
    is so of the next count too, and what a count becomes is compared before it becomes that: with numbers
    that are registers, so that the counts to end at must be there from the cycle before ``start`` on.

    Parameters
    ----------
    lanes : int
        Positions at a time, 1 or 2.

    Members
    -------
    x_count, y_count : the size of the layer, at least 1 each.
    start : begin with the first positions.
    step : on to those after these.
    line_end : which positions are the last of their line.
    end : which positions are the layer's last, or behind it.
    """

    x_count: Signal
    y_count: Signal
    start: Signal
    step: Signal
    line_end: Signal
    end: Signal

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(
            {
                "x_count": In(12),
                "y_count": In(12),
                "start": In(1),
                "step": In(1),
                "line_end": Out(lanes),
                "end": Out(lanes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Both count from 1, so that they meet the counts to end at as these are.
        x = Signal(12, reset_less=True)
        y = Signal(12, reset_less=True)
        (self._two if self.lanes == 2 else self._one)(m, x, y)
        return m

    def _one(self, m: Module, x: Signal, y: Signal) -> None:
        last_x, last_y = Signal(reset_less=True), Signal(reset_less=True)
        m.d.comb += [self.line_end.eq(last_x), self.end.eq(last_x & last_y)]
        with m.If(self.step):
            following = (Mux(last_x, 1, x + 1)[:12], (y + last_x)[:12])
            m.d.sync += [x.eq(following[0]), last_x.eq(following[0] == self.x_count)]
            m.d.sync += [y.eq(following[1]), last_y.eq(following[1] == self.y_count)]
        with m.If(self.start):
            m.d.sync += [x.eq(1), last_x.eq(self.x_count == 1), y.eq(1), last_y.eq(self.y_count == 1)]

    def _two(self, m: Module, x: Signal, y: Signal) -> None:
        # Whether x + k and y + k are the last, for k = 0 and 1.
        last_x, last_y = Signal(2, reset_less=True), Signal(2, reset_less=True)
        # Counts less 2 and 3; whether they are 1, 2 and 3.
        x_less, y_less = (
            {k: Signal(12, name=f"{name}_less_{k}", reset_less=True) for k in (2, 3)} for name in "xy"
        )
        x_is, y_is = ({k: Signal(name=f"{name}_is_{k}", reset_less=True) for k in (1, 2, 3)} for name in "xy")
        for count, less, is_ in ((self.x_count, x_less, x_is), (self.y_count, y_less, y_is)):
            m.d.sync += [less[k].eq(count - k) for k in (2, 3)]
            m.d.sync += [is_[k].eq(count == k) for k in (1, 2, 3)]
        m.d.comb += [
            self.line_end[0].eq(last_x[0]),
            self.line_end[1].eq(Mux(last_x[0], x_is[1], last_x[1])),
            self.end[0].eq(last_x[0] & last_y[0]),
            self.end[1].eq(self.end[0] | (self.line_end[1] & Mux(last_x[0], last_y[1], last_y[0]))),
        ]
        with m.If(self.step):
            with m.If(last_x[0] & ~x_is[1]):
                m.d.sync += [x.eq(2), last_x[0].eq(x_is[2]), last_x[1].eq(x_is[3])]
            with m.Elif(self.line_end[1]):
                m.d.sync += [x.eq(1), last_x[0].eq(x_is[1]), last_x[1].eq(x_is[2])]
            with m.Else():
                m.d.sync += [x.eq(x + 2), last_x[0].eq(x == x_less[2]), last_x[1].eq(x == x_less[3])]
            # Lines begun.
            with m.If(last_x[0] & x_is[1]):
                m.d.sync += [y.eq(y + 2), last_y[0].eq(y == y_less[2]), last_y[1].eq(y == y_less[3])]
            with m.Elif(self.line_end.any()):
                m.d.sync += [y.eq(y + 1), last_y[0].eq(last_y[1]), last_y[1].eq(y == y_less[2])]
        with m.If(self.start):
            m.d.sync += [x.eq(1), last_x[0].eq(x_is[1]), last_x[1].eq(x_is[2])]
            m.d.sync += [y.eq(1), last_y[0].eq(y_is[1]), last_y[1].eq(y_is[2])]
