"""Multiply-accumulators in SB_MAC16, the multiplier cells of the iCE40 UltraPlus."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DualAccumulator"]


class DualAccumulator(wiring.Component):
    """Two sums of products of int8 in one SB_MAC16, which keeps their lowest 16 bits.

    A product is at most 2**14 either way, a quarter of what 16 bits hold. So a sum moves by one quarter at
    most, from the last to the first only upwards and from the first to the last only downwards: a counter
    that watches its two highest bits has the bits above.

    Parameters
    ----------
    width : int
        Bits of a sum; the sum itself must fit, those on the way to it need not.

    Members
    -------
    a, b : the factors.
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
                "a": In(signed(8)).array(2),
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
            p_A_SIGNED=1,
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
        for total, low, high in zip(sums, self.low, self.high, strict=True):
            m.d.comb += low.eq(total)
            quarter = total[-2:]
            before = Signal(2, reset_less=True)
            up, down = Signal(), Signal()
            m.d.sync += before.eq(quarter)
            m.d.comb += [
                up.eq((before == 3) & (quarter == 0)),
                down.eq((before == 0) & (quarter == 3)),
            ]
            with m.If(cleared):
                m.d.sync += high.eq(0)
            with m.Elif(up | down):
                m.d.sync += high.eq(high + Mux(down, -1, 1))
        return m
