"""A byte that turns round once while the CRC of its frame takes it in, a bit a cycle."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

__all__ = ["Turn"]


class Turn(wiring.Component):
    """Register of the byte under way, and CRC-32 of the bytes it held. A parallel CRC takes 70 LUTs more.

    Members
    -------
    load, value : take a byte; not while ``turning``.
    tail : with ``load`` and until the next: take the CRC's next byte instead, its lowest first.
    restart : begin a frame; not while ``turning``.
    turning : high for the 8 cycles after ``load``; ``last`` in the eighth.
    byte : the byte taken, while not ``turning``.
    match : the bytes since ``restart`` end with their CRC, while not ``turning``.
    crc : their CRC, while not ``turning``.
    """

    load: Signal
    value: Signal
    tail: Signal
    restart: Signal
    turning: Signal
    last: Signal
    byte: Signal
    match: Signal
    crc: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "load": In(1),
                "value": In(8),
                "tail": In(1),
                "restart": In(1),
                "turning": Out(1),
                "last": Out(1),
                "byte": Out(8),
                "match": Out(1),
                "crc": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        crc = CRC32_ISO_HDLC(data_width=1).create()
        # The processor's own `start` may come with the first bit, which costs a multiplexer.
        m.submodules.crc = ResetInserter(self.restart)(crc)
        byte = Signal(8, reset_less=True)
        count = Signal(4)
        m.d.comb += [
            self.turning.eq(count[-1]),
            self.last.eq(count.all()),
            self.byte.eq(byte),
            self.match.eq(crc.match_detected),
            self.crc.eq(crc.crc),
            crc.valid.eq(self.turning),
            # Its own bit, as it would be sent, leaves the CRC nothing but a shift.
            crc.data.eq(Mux(self.tail, ~crc.crc[0], byte[0])),
        ]
        with m.If(self.turning):
            m.d.sync += [count.eq(count + 1), byte.eq(Cat(byte[1:], Mux(self.tail, crc.crc[0], byte[0])))]
        with m.If(self.load):
            m.d.sync += [count.eq(8), byte.eq(self.value)]
        return m
