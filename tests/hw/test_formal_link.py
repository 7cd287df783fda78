"""Proofs about the link: framing keeps its stream contracts, and no request is taken without a right CRC."""

import zlib

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from kolmogate.config import configuration
from kolmogate_hw.link import Decoder, Encoder, Link, Turn
from kolmogate_sim.formal import assert_stream, assume_stream, free, prove

POLYNOMIAL = 0xEDB88320


def crc_step(crc, byte, bits=8):
    """A CRC-32 register after a byte, in integers or in gateware: the definition, bit by bit."""
    for bit in range(bits):
        feedback = (crc ^ byte >> bit) & 1
        if isinstance(crc, int):
            crc = crc >> 1 ^ POLYNOMIAL * feedback
        else:
            crc = crc[1:] ^ Mux(feedback, POLYNOMIAL, 0)
    return crc


def test_the_definition_of_the_crc():
    crc = 0xFFFFFFFF
    for byte in b"kolmogate":
        crc = crc_step(crc, byte)
    assert crc ^ 0xFFFFFFFF == zlib.crc32(b"kolmogate")
    for byte in zlib.crc32(b"kolmogate").to_bytes(4, "little"):
        crc = crc_step(crc, byte)
    assert crc == 0xDEBB20E3


def test_a_false_claim_is_refuted(tmp_path):
    m = Module()
    m.submodules.dut = dut = Decoder()
    ports = free(m, dut.i.valid, dut.i.payload, dut.o.ready)
    assume_stream(m, dut.i)
    with m.If(dut.o.valid & dut.o.p.end):
        m.d.comb += Assert(dut.o.p.data == 0)
    with pytest.raises(AssertionError, match="proof failed"):
        prove(m, ports, tmp_path, depth=6)


def test_decoder_keeps_its_contract(tmp_path):
    """For ever: a token that waits stays, only the consumer holds a byte up for more than a cycle, and a zero
    ends a frame."""
    m = Module()
    m.submodules.dut = dut = Decoder()
    ports = free(m, dut.i.valid, dut.i.payload, dut.o.ready)
    assume_stream(m, dut.i)
    assert_stream(m, dut.o)
    seen = Signal()
    m.d.sync += seen.eq(dut.i.valid & ~dut.i.ready)
    with m.If(seen & dut.o.ready):
        m.d.comb += Assert(dut.i.ready)
    with m.If(seen & (dut.i.payload == 0)):
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


def test_turn_computes_the_crc(tmp_path):
    """For ever: at rest, its CRC is that of the bytes since the restart, and it found it if it came."""
    m = Module()
    m.submodules.dut = dut = Turn()
    ports = free(m, dut.load, dut.value, dut.tail, dut.restart)
    # The model takes a byte at once, when its turn ends.
    crc, value, left, tail = Signal(32, init=0xFFFFFFFF), Signal(8), Signal(4), Signal()
    m.d.comb += Assume(~(left.any() & (dut.load | dut.restart)) & ~(dut.load & dut.restart))
    m.d.sync += tail.eq(dut.tail)
    with m.If((left != 0) & (left != 8)):
        m.d.comb += Assume(dut.tail == tail)
    with m.If(left.any()):
        m.d.sync += left.eq(left - 1)
    with m.If(dut.load):
        m.d.sync += [left.eq(8), value.eq(dut.value)]
    with m.If(left == 1):
        m.d.sync += [
            crc.eq(Mux(dut.tail, crc >> 8, crc_step(crc, value))),
            value.eq(Mux(dut.tail, ~crc[:8], value)),
        ]
    with m.If(dut.restart):
        m.d.sync += crc.eq(0xFFFFFFFF)
    loaded = Signal()
    with m.If(dut.load):
        m.d.sync += loaded.eq(1)
    m.d.comb += Assert(dut.turning == left.any())
    m.d.comb += Assert(dut.last == (left == 1))
    with m.If(left == 0):
        m.d.comb += Assert(dut.crc == ~crc)
        m.d.comb += Assert(dut.match == (crc == 0xDEBB20E3))
        m.d.comb += Assert(~loaded | (dut.byte == value))
    prove(m, ports, tmp_path, depth=12, induction=True, solver="z3")


def link_under_proof():
    m = Module()
    m.submodules.dut = dut = Link(configuration("up5k"))
    host = dut.host
    ports = free(
        m, dut.i.valid, dut.i.payload, dut.o.ready, host.request.ready, host.valid, host.data, host.busy
    )
    assume_stream(m, dut.i)
    return m, dut, ports


def test_nothing_is_done_without_a_right_crc(tmp_path):
    """For ever: the CRC sees just the frame's bytes, and only a whole frame that it matches has effects."""
    m, dut, ports = link_under_proof()
    host, token, turn = dut.host, dut.decoder.o, dut.turn
    good = Signal()
    taken = token.valid & token.ready
    with m.If(taken):
        with m.If(token.p.end):
            m.d.sync += good.eq((token.p.data == 0) & turn.match)
            m.d.comb += Assert(turn.restart & ~turn.load & ~turn.turning)
        with m.Else():
            m.d.comb += Assert(turn.load & (turn.value == token.p.data) & ~turn.tail)
    m.d.comb += [
        Assert(~taken | dut.receiving),
        Assert(dut.receiving | good),
        Assert(~(dut.receiving & turn.load) | taken),
        Assert(~(dut.receiving & turn.tail)),
        Assert(~(host.start | host.reset | host.request.valid) | ~dut.receiving),
    ]
    prove(m, ports, tmp_path, depth=3, induction=True)


def test_what_comes_is_taken(tmp_path):
    """For ever: a link that is not at work takes a byte in nine cycles, whatever came before."""
    m, dut, ports = link_under_proof()
    waited = Signal(4)
    m.d.sync += waited.eq(Mux(dut.i.valid & ~dut.i.ready & dut.receiving, waited + 1, 0))
    m.d.comb += Assert(waited < 9)
    prove(m, ports, tmp_path, depth=12, induction=True)


@pytest.mark.parametrize("cycles", [12, 8], ids=["", "refuted if it is to be faster"])
def test_every_request_is_answered(cycles, tmp_path):
    """For ever, from any state: whatever the link is at, it comes nearer to receiving again, or sends a byte,
    every few cycles, as long as the host takes what is sent and the core answers."""
    m, dut, ports = link_under_proof()
    m.d.comb += Assume(dut.o.ready & dut.host.request.ready & dut.host.valid)
    before, at_work, stalled = Signal.like(dut.left), Signal(), Signal(4)
    m.d.sync += [before.eq(dut.left), at_work.eq(~dut.receiving)]
    nearer = ~at_work | (dut.left < before)
    m.d.sync += stalled.eq(Mux(nearer | dut.o.valid, 0, stalled + 1))
    m.d.comb += [
        Assert(dut.receiving == (dut.left == 0)),
        Assert(nearer | (dut.left == before)),
        Assert(dut.receiving | (stalled < cycles)),
    ]
    if cycles == 12:
        prove(m, ports, tmp_path, depth=14, induction=True)
    else:
        with pytest.raises(AssertionError, match="proof failed"):
            prove(m, ports, tmp_path, depth=14, induction=True)


def test_encoder_is_never_idle(tmp_path):
    """For ever: it takes a token or offers a byte, in every cycle."""
    m = Module()
    m.submodules.dut = dut = Encoder()
    ports = free(m, dut.i.valid, dut.i.payload, dut.o.ready)
    m.d.comb += Assert(dut.i.ready | dut.o.valid)
    prove(m, ports, tmp_path, depth=3, induction=True)
