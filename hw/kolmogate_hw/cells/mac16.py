"""Multiply-accumulators in SB_MAC16, the multiplier cells of the iCE40 UltraPlus."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DualAccumulator"]


class DualAccumulator(wiring.Component):
    """Two sums of products in one SB_MAC16, which keeps their lowest 16 bits.

    A product is less than 2**15 either way, half of what 16 bits hold. So a sum that moves upwards leaves the
    upper half only beyond its end, and one that moves downwards the lower half: a counter that watches its
    highest bit and the sign of what is added has the bits above.

    Parameters
    ----------
    width : int
        Bits of a sum; the sum itself must fit, those on the way to it need not.

    Members
    -------
    a, b : the factors, a without a sign.
    add : add their product.
    clear : begin at 0; not together with ``add``.
    low : the sum's lowest 16 bits, one cycle after the last product was added.
    high : the bits above, another cycle later; ``clear`` takes effect on them then.
    """

    LOW = 16

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(
            {
                "a": In(8).array(2),
                "b": In(signed(8)).array(2),
                "add": In(1),
                "clear": In(1),
                "low": Out(self.LOW).array(2),
                "high": Out(signed(width - self.LOW)).array(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        hold = Signal()
        sums = [Signal(self.LOW, name=f"sum_{k}") for k in range(2)]
        m.d.comb += hold.eq(~self.add & ~self.clear)
        m.submodules.cell = Instance(
            "SB_MAC16",
            # Two 8x8 products, each into the adder of its half, whose other input is its own register.
            p_MODE_8x8=1,
            p_A_SIGNED=0,
            p_B_SIGNED=1,
            p_TOPADDSUB_LOWERINPUT=Const(1, 2),
            p_BOTADDSUB_LOWERINPUT=Const(1, 2),
            p_TOPOUTPUT_SELECT=Const(1, 2),
            p_BOTOUTPUT_SELECT=Const(1, 2),
            i_CLK=ClockSignal(),
            i_CE=Const(1, 1),
            i_A=Cat(*self.a),
            i_B=Cat(*self.b),
            # What clearing loads.
            i_C=Const(0, 16),
            i_D=Const(0, 16),
            i_OLOADTOP=self.clear,
            i_OLOADBOT=self.clear,
            i_OHOLDTOP=hold,
            i_OHOLDBOT=hold,
            o_O=Cat(*sums),
            **{
                f"i_{name}": Const(0, 1)
                for name in (
                    *("AHOLD", "BHOLD", "CHOLD", "DHOLD"),
                    *("IRSTTOP", "IRSTBOT", "ORSTTOP", "ORSTBOT"),
                    *("ADDSUBTOP", "ADDSUBBOT", "CI", "ACCUMCI", "SIGNEXTIN"),
                )
            },
        )
        cleared = Signal()
        m.d.sync += cleared.eq(self.clear)
        for total, factor, low, high in zip(sums, self.b, self.low, self.high, strict=True):
            m.d.comb += low.eq(total)
            before, downwards = (Signal(reset_less=True) for _ in range(2))
            up, down = Signal(), Signal()
            m.d.sync += [before.eq(total[-1]), downwards.eq(factor[-1])]
            m.d.comb += [
                up.eq(~downwards & before & ~total[-1]),
                down.eq(downwards & ~before & total[-1]),
            ]
            with m.If(cleared):
                m.d.sync += high.eq(0)
            with m.Elif(up | down):
                m.d.sync += high.eq(high + Mux(down, -1, 1))
        return m
