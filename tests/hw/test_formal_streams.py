"""Proofs about the core's buffers and stream adapters: contracts kept in all their behaviours, to a depth."""

import dataclasses
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from kolmogate.config import CONFIGURATIONS
from kolmogate_hw.column_buffer import ColumnBuffer
from kolmogate_hw.filler import Filler
from kolmogate_hw.host_access import HostAccess
from kolmogate_hw.lanes import WeightDecoder
from kolmogate_hw.ports import ReadPort
from kolmogate_hw.requantiser import Requantiser
from kolmogate_sim.formal import assert_stream, assume_stream, free, prove

UP5K, ECP5 = CONFIGURATIONS["up5k"], CONFIGURATIONS["ecp5-25f"]
SMALL = dataclasses.replace(UP5K, column_buffer_depth=4)
"""A ring that fills and wraps within a few cycles."""
PLAIN = dataclasses.replace(UP5K, entropy_engines=0)
"""The entropy engine's contexts are more than the prover bears."""


def harness(
    m: Module, dut: wiring.Component, *, steady: tuple[str, ...] = (), once: str = ""
) -> list[Signal]:
    """Free inputs, each stream assumed or asserted to keep its contract, each read answered by free data.

    ``steady`` inputs keep their first value; the input ``once`` is high in one cycle at most.
    """
    m.submodules.dut = dut
    ports: list[Signal] = []
    for path, member in dut.signature.members.items():
        port: Any = getattr(dut, path)
        if isinstance(port, stream.Interface):
            outward = member.flow == wiring.Out
            ports += free(m, *((port.ready,) if outward else (port.valid, port.payload)))
            (assert_stream if outward else assume_stream)(m, port)
        elif member.is_signature and isinstance(member.signature, ReadPort):
            request = port.request
            ports += free(m, request.ready, port.data)
            assert_stream(m, request)
            granted = Signal(2, name=f"{path}_granted")
            m.d.sync += granted.eq((request.valid & request.ready) | granted << 1)
            m.d.comb += port.valid.eq(granted[1])
        elif member.is_port and member.flow == wiring.In:
            value = Value.cast(port)
            ports += free(m, value)
            if path in steady:
                first, begun = Signal(len(value), name=f"{path}_first"), Signal()
                m.d.sync += [first.eq(value), begun.eq(1)]
                m.d.comb += Assume(~begun | (value == first))
            if path == once:
                done = Signal()
                m.d.sync += done.eq(done | value)
                m.d.comb += Assume(~(done & value))
    return ports


@pytest.mark.parametrize(
    ("dut", "steady", "once", "depth"),
    [
        (HostAccess(UP5K), (), "", 14),
        (Filler(UP5K), ("descriptor",), "start", 12),
        (Requantiser(UP5K), ("single_rounding", "zero_point", "minimum", "maximum"), "", 14),
        (Requantiser(ECP5), ("single_rounding", "zero_point", "minimum", "maximum"), "", 12),
        (WeightDecoder(PLAIN), ("code", "literals", "streamed", "limits"), "start", 13),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, wiring.Component) else "",
)
def test_streams_keep_their_contracts(dut, steady, once, depth, tmp_path):
    """Once offered, always offered, and the same, until it is taken."""
    m = Module()
    ports = harness(m, dut, steady=steady, once=once)
    prove(m, ports, tmp_path, depth=depth)


def test_host_access_answers_every_read_once(tmp_path):
    m = Module()
    dut = HostAccess(UP5K)
    ports = harness(m, dut)
    owed = Signal(2)
    asked = dut.request.valid & dut.request.ready & ~dut.request.payload.write
    m.d.sync += owed.eq(owed + asked - dut.valid)
    m.d.comb += [Assert(owed <= 1), Assert(~dut.valid | (owed == 1))]
    prove(m, ports, tmp_path, depth=16)


def test_column_buffer_is_a_ring(tmp_path):
    """Rows come back as they went in, none is overwritten before it is released, and no memory word is read
    while it is written, which the synthesis is promised."""
    m = Module()
    dut = ColumnBuffer(SMALL)
    ports = harness(m, dut)
    depth = SMALL.column_buffer_depth
    m.d.comb += Assume(dut.available | ~dut.step)
    written, taken, first = Signal(8), Signal(8), Signal(8)
    m.d.comb += Assert(dut.available == (written != taken))
    m.d.comb += Assert(dut.i.ready == (written - first != depth))
    incoming = dut.i.valid & dut.i.ready
    with m.If(incoming):
        m.d.sync += written.eq(written + 1)
    with m.If(dut.step):
        m.d.sync += taken.eq(Mux(dut.rewind & ~dut.release, first, taken + 1))
        with m.If(dut.release):
            m.d.sync += first.eq(taken + 1)
        m.d.comb += Assert(~incoming | ((written - taken)[:2] != 0))
    # Any one row, followed through.
    asked, index, begun = Signal(4), Signal(4), Signal()
    m.d.sync += [index.eq(asked), begun.eq(1)]
    m.d.comb += Assume(~begun | (index == asked))
    row, due = Signal(8 * SMALL.columns), Signal()
    with m.If(incoming & (written == asked)):
        m.d.sync += row.eq(dut.i.payload)
    m.d.sync += due.eq(dut.step & (taken == asked))
    with m.If(due):
        m.d.comb += Assert(dut.row.as_value() == row)
    prove(m, [*ports, asked], tmp_path, depth=14)
