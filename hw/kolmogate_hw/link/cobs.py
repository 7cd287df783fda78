"""Consistent overhead byte stuffing: frames that contain no zero, so that a zero can end them.

S. Cheshire and M. Baker, "Consistent overhead byte stuffing", IEEE/ACM Transactions on Networking 7(2),
1999. A frame is a chain of blocks. A block is a code byte n and n - 1 bytes, none of them zero; between
two blocks a zero was left out, unless the first is a full one, with code 255. The model is the PyPI
package ``cobs``.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..block_ram import BlockRam

__all__ = ["TOKEN", "Decoder", "Encoder"]

TOKEN = data.StructLayout({"data": 8, "end": 1})
"""An element of a frame: a byte, or the end, where ``data`` is not part of the frame."""

_FULL = 255  # the code of a block without a zero after it


class Decoder(wiring.Component):
    """Stuffed bytes to tokens, a byte every two cycles: one to look at it.

    The ``data`` of an end token is 0 if the frame was whole, else 1: it ended inside a block. Frames
    without a byte, such as repeated delimiters, are passed on too.

    Members
    -------
    i : stream of bytes, in
    o : stream of `TOKEN`, out
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(TOKEN))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(8)  # bytes of the block still to come, and one
        inside = Signal()  # there are any
        zero = Signal()  # a zero was left out after the block

        seen = Signal()
        delimiter = Signal()
        m.d.sync += [seen.eq(self.i.valid & ~self.i.ready), delimiter.eq(self.i.payload == 0)]
        m.d.comb += [
            self.o.valid.eq(seen & (delimiter | inside | zero)),
            self.o.p.end.eq(delimiter),
            self.i.ready.eq(seen & (self.o.ready | ~(delimiter | inside | zero))),
        ]
        with m.If(delimiter | ~inside):
            m.d.comb += self.o.p.data.eq(delimiter & inside)
        with m.Else():
            m.d.comb += self.o.p.data.eq(self.i.payload)

        with m.If(self.i.valid & self.i.ready):
            with m.If(inside & ~delimiter):
                m.d.sync += [left.eq(left - 1), inside.eq(left[2:].any() | left[:2].all())]
            with m.Else():
                m.d.sync += [left.eq(self.i.payload), inside.eq(self.i.payload[1:].any())]
                m.d.sync += [zero.eq(~delimiter & (self.i.payload != _FULL))]
        return m


class Encoder(wiring.Component):
    """Tokens to stuffed bytes.

    Gathers a block in one block RAM, then sends it: two cycles for each byte of content, and one or two
    more a block.

    Members
    -------
    i : stream of `TOKEN`, in
    o : stream of bytes, out
        Each frame ends with a zero.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(TOKEN)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.block = block = BlockRam(8, 256)
        write = block.write

        code = Signal(8, init=1)  # bytes in the block, and one
        index = Signal(8, init=1)  # place of the byte after the one that is read
        full = Signal()  # the block sent last was full: no zero was left out after it
        last = Signal()  # this block ends the frame
        complete = Signal()  # all bytes of the block are sent, or there are none
        m.d.comb += complete.eq(index == code)
        m.d.comb += [write.addr.eq(code), write.data.eq(self.i.p.data), block.read_address.eq(index)]

        def end_block() -> None:
            m.d.sync += [code.eq(1), index.eq(1)]
            with m.If(last):
                m.next = "DELIMITER"
            with m.Else():
                m.next = "GATHER"

        with m.FSM():
            with m.State("GATHER"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += last.eq(self.i.p.end)
                    with m.If(self.i.p.end & full & complete):
                        m.next = "DELIMITER"
                    with m.Elif(self.i.p.end | (self.i.p.data == 0)):
                        m.d.sync += full.eq(0)
                        m.next = "CODE"
                    with m.Else():
                        m.d.comb += write.en.eq(1)
                        m.d.sync += code.eq(code + 1)
                        with m.If(code == _FULL - 1):
                            m.d.sync += full.eq(1)
                            m.next = "CODE"
            with m.State("CODE"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(code), block.read_enable.eq(self.o.ready)]
                with m.If(self.o.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "BYTES"
                    with m.If(complete):
                        end_block()
            with m.State("BYTES"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    self.o.payload.eq(block.read_data),
                    block.read_enable.eq(self.o.ready),
                ]
                with m.If(self.o.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(complete):
                        end_block()
            with m.State("DELIMITER"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(0)]
                with m.If(self.o.ready):
                    m.d.sync += full.eq(0)
                    m.next = "GATHER"
        return m
