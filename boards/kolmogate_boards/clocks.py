"""The accelerator's clock from the board's, through the PLL cell of its chip."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import ClockDomain, Const, Instance, Module, Signal
from kolmogate.errors import UsageError

__all__ = ["Ecp5Pll", "Ice40Pll", "add_clock"]

_WAIT_CYCLES = 1 << 10
"""How long the machine waits once the PLL has locked: some ten microseconds, for memories to wake up."""


@dataclass(frozen=True)
class Ice40Pll:
    """Dividers of an SB_PLL40 in its simple feedback mode: ``hz * (divf + 1) / (divr + 1) / 2**divq``."""

    divr: int
    divf: int
    divq: int
    filter_range: int = 1

    @classmethod
    def between(cls, source_hz: int, hz: int) -> "Ice40Pll":
        """The dividers that make exactly ``hz``; raises `UsageError` if there are none."""
        for divr in range(16):
            for divq in range(1, 7):
                divf, rest = divmod(hz * 2**divq * (divr + 1), source_hz)
                if rest or not 1 <= divf <= 128:
                    continue
                oscillator = source_hz * divf / (divr + 1)
                if 533e6 <= oscillator <= 1066e6 and 10e6 <= source_hz / (divr + 1) <= 20e6:
                    return cls(divr, divf - 1, divq)
        raise UsageError(f"the PLL cannot make {hz} Hz of {source_hz} Hz: choose another clock for the board")


@dataclass(frozen=True)
class Ecp5Pll:
    """Dividers of an EHXPLLL that feeds back its main output: ``hz * feedback / input``."""

    input: int
    feedback: int
    output: int

    @classmethod
    def between(cls, source_hz: int, hz: int) -> "Ecp5Pll":
        """The dividers that make exactly ``hz``; raises `UsageError` if there are none."""
        for divider in range(1, 129):
            feedback, rest = divmod(hz * divider, source_hz)
            if rest or not 1 <= feedback <= 80 or source_hz / divider < 3.125e6:
                continue
            output = round(600e6 / hz)
            if 400e6 <= hz * output <= 800e6:
                return cls(divider, feedback, output)
        raise UsageError(f"the PLL cannot make {hz} Hz of {source_hz} Hz: choose another clock for the board")


def add_clock(m: Module, platform: Any, hz: int) -> None:
    """Make the domain ``sync`` of ``hz``, which begins when the PLL has locked.

    On the iCE40 it is in reset until then. On the ECP5 its clock stands still, and its registers keep the
    values that they are configured with: a reset would have to reach all of a large chip within a cycle.
    """
    source = platform.request(platform.default_clk, dir="-")
    source_hz = round(platform.default_clk_frequency)
    clock, locked = Signal(name="clock"), Signal(name="locked")
    resets = platform.device.startswith("iCE40")
    m.domains.sync = sync = ClockDomain(reset_less=not resets)
    m.domains.power_up = power_up = ClockDomain(reset_less=True)
    waits = Signal(init=1)
    if resets:
        ice40 = Ice40Pll.between(source_hz, hz)
        m.submodules.pll = Instance(
            "SB_PLL40_PAD",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(ice40.divr, 4),
            p_DIVF=Const(ice40.divf, 7),
            p_DIVQ=Const(ice40.divq, 3),
            p_FILTER_RANGE=Const(ice40.filter_range, 3),
            io_PACKAGEPIN=source.io,
            i_RESETB=Const(1, 1),
            i_BYPASS=Const(0, 1),
            o_PLLOUTGLOBAL=clock,
            o_LOCK=locked,
        )
    else:
        ecp5 = Ecp5Pll.between(source_hz, hz)
        pin = Signal()
        m.submodules.pin = Instance("IB", io_I=source.io, o_O=pin)
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=str(source_hz / 1e6),
            a_FREQUENCY_PIN_CLKOP=str(hz / 1e6),
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            p_CLKI_DIV=ecp5.input,
            p_CLKFB_DIV=ecp5.feedback,
            p_CLKOP_DIV=ecp5.output,
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_CPHASE=ecp5.output - 1,
            p_FEEDBK_PATH="CLKOP",
            i_CLKI=pin,
            i_CLKFB=clock,
            i_RST=Const(0, 1),
            i_STDBY=Const(0, 1),
            o_CLKOP=clock,
            o_LOCK=locked,
        )
    platform.add_clock_constraint(clock, hz)
    if resets:
        m.d.comb += [power_up.clk.eq(clock), sync.clk.eq(clock), sync.rst.eq(waits)]
    else:
        # The gate takes its clock from the PLL, not from the global wire that registers would make of it.
        m.d.comb += power_up.clk.eq(pin)
        m.submodules.gate = Instance("DCCA", i_CLKI=clock, i_CE=~waits, o_CLKO=sync.clk)
    left = Signal(range(_WAIT_CYCLES), init=_WAIT_CYCLES - 1)
    with m.If(~locked):
        m.d.power_up += left.eq(_WAIT_CYCLES - 1)
    with m.Elif(left != 0):
        m.d.power_up += left.eq(left - 1)
    m.d.power_up += waits.eq(left != 0)
