"""The walk over a layer's output positions in raster order."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RasterWalk"]


class RasterWalk(wiring.Component):
    """Says of one position after the other whether its line, or the layer, ends with it.

    Whether a count is its last is registered along with it, off the critical path.

    Members
    -------
    x_count, y_count : the size of the layer, at least 1 each.
    start : begin with the first position.
    step : on to the next.
    line_end, end : the position is the last of its line, and of the layer.
    """

    x_count: Signal
    y_count: Signal
    start: Signal
    step: Signal
    line_end: Signal
    end: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "x_count": In(12),
                "y_count": In(12),
                "start": In(1),
                "step": In(1),
                "line_end": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Both count from 1, so that they meet the counts to end at as these are.
        x = Signal(12, reset_less=True)
        y = Signal(12, reset_less=True)
        last_x, last_y = Signal(reset_less=True), Signal(reset_less=True)
        m.d.comb += [self.line_end.eq(last_x), self.end.eq(last_x & last_y)]
        with m.If(self.step):
            following = (Mux(last_x, 1, x + 1)[:12], (y + last_x)[:12])
            m.d.sync += [x.eq(following[0]), last_x.eq(following[0] == self.x_count)]
            m.d.sync += [y.eq(following[1]), last_y.eq(following[1] == self.y_count)]
        with m.If(self.start):
            m.d.sync += [x.eq(1), last_x.eq(self.x_count == 1), y.eq(1), last_y.eq(self.y_count == 1)]
        return m
