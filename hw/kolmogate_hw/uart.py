"""A serial port: eight data bits, no parity, one stop bit."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out
from kolmogate.errors import UsageError

__all__ = ["Uart"]

_BITS = 10  # with the start and the stop bit
_TOLERANCE = 0.02
_FEWEST_CYCLES = 8


class Uart(wiring.Component):
    """Byte streams to and from a serial line.

    A byte takes ten bit times either way. Nothing holds the sender of the other side back: a byte received
    before the last one was taken is lost, as is one without a stop bit.

    Parameters
    ----------
    clock_hz, baud : int
        A bit takes the nearest whole number of cycles. Raises `UsageError` if that is less than 8, or more
        than 2% off.

    Members
    -------
    rx, tx : the line, high when idle.
    i : bytes to send.
    o : bytes received.
    """

    rx: Signal
    tx: Signal
    i: stream.Interface
    o: stream.Interface

    def __init__(self, clock_hz: int, baud: int) -> None:
        self.bit_cycles = round(clock_hz / baud)
        off = abs(self.bit_cycles * baud / clock_hz - 1)
        if self.bit_cycles < _FEWEST_CYCLES or off > _TOLERANCE:
            raise UsageError(
                f"a clock of {clock_hz} Hz cannot make {baud} baud: a bit must take {_FEWEST_CYCLES} cycles or "
                f"more, and a whole number of them to within {_TOLERANCE:.0%}; choose another baud rate"
            )
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._receive(m)
        self._send(m)
        return m

    def _receive(self, m: Module) -> None:
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, line, init=1)
        wait = Signal(range(self.bit_cycles), reset_less=True)
        left = Signal(range(_BITS + 1))  # bits to sample
        bits = Signal(8, reset_less=True)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(left == 0):
            # Samples are taken in the middle of the bits.
            m.d.sync += wait.eq(self.bit_cycles // 2 - 1)
            with m.If(~line):
                m.d.sync += left.eq(_BITS)
        with m.Elif(wait != 0):
            m.d.sync += wait.eq(wait - 1)
        with m.Else():
            m.d.sync += [wait.eq(self.bit_cycles - 1), left.eq(left - 1), bits.eq(Cat(bits[1:], line))]
            # A start bit that does not last was noise.
            with m.If((left == _BITS) & line):
                m.d.sync += left.eq(0)
            with m.If((left == 1) & line & (~self.o.valid | self.o.ready)):
                m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(bits)]

    def _send(self, m: Module) -> None:
        wait = Signal(range(self.bit_cycles), reset_less=True)
        left = Signal(range(_BITS + 1))  # bits not yet ended
        bits = Signal(8, reset_less=True)
        m.d.comb += self.i.ready.eq(left == 0)
        with m.If(left == 0):
            m.d.sync += [wait.eq(self.bit_cycles - 1), bits.eq(self.i.payload)]
            with m.If(self.i.valid):
                m.d.sync += [left.eq(_BITS), self.tx.eq(0)]
        with m.Else():
            m.d.sync += wait.eq(Mux(wait == 0, self.bit_cycles - 1, wait - 1))
            with m.If(wait == 0):
                # The stop bit, a 1, follows the data.
                m.d.sync += [left.eq(left - 1), Cat(self.tx, bits).eq(Cat(bits, 1))]
