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
    step : on to the next, from the layer's last to its first.
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
        # The position, and the line, that come next, both counted from 1: what is found last is registered
        # with the step that gets there, without an addition before the comparison.
        x = Signal(12, reset_less=True)
        y = Signal(12, reset_less=True)
        last_x, last_y = Signal(reset_less=True), Signal(reset_less=True)
        m.d.comb += [self.line_end.eq(last_x), self.end.eq(last_x & last_y)]
        # A step comes late, and only enables the registers.
        with m.If(self.step | self.start):
            with m.If(self.start | self.end):
                alone = self.x_count == 1
                m.d.sync += [x.eq(Mux(alone, 1, 2)), last_x.eq(alone), y.eq(2), last_y.eq(self.y_count == 1)]
            with m.Else():
                m.d.sync += [last_x.eq(x == self.x_count), x.eq(Mux(x == self.x_count, 1, x + 1))]
                with m.If(last_x):
                    m.d.sync += [last_y.eq(y == self.y_count), y.eq(y + 1)]
        return m
