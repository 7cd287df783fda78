"""Proofs about the core's stream adapters: what they once offer they offer until it is taken."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Module, Signal
from kolmogate.config import CONFIGURATIONS
from kolmogate_hw.entropy_engine import BitReader
from kolmogate_hw.filler import Filler
from kolmogate_hw.host_access import HostAccess
from kolmogate_hw.lanes import InstructionFetcher, LiteralLanes, WeightDecoder
from kolmogate_hw.pair_fetcher import window_fetcher
from kolmogate_hw.requantiser import Requantiser
from kolmogate_hw.residual import ResidualAdder
from kolmogate_hw.sequencer import sequencer
from kolmogate_hw.uart import Uart
from kolmogate_sim.formal import follows, free, harness, prove, steady

UP5K, ECP5 = CONFIGURATIONS["up5k"], CONFIGURATIONS["ecp5-25f"]
PLAIN = dataclasses.replace(UP5K, entropy_engines=0)
"""Without the entropy engine, whose contexts are more than the prover bears together with the rest."""


def nothing(m: Module, dut: Any) -> None:
    """No promise is needed."""


def settings(m: Module, dut: Any) -> None:
    """Those of the layer stay while its outputs are under way."""
    steady(m, dut.single_rounding, dut.zero_point, dut.minimum, dut.maximum)


def walk(m: Module, dut: Any) -> None:
    follows(m, dut, "input_base")


def fill(m: Module, dut: Any) -> None:
    """The descriptor stays from the start on, and there is none before the end."""
    steady(m, dut.descriptor)
    m.d.comb += Assume(~(dut.start & dut.busy))


def reader(m: Module, dut: Any) -> None:
    """The host feeds no page that a reader is in: its limit moves to others alone."""
    within_ring(m, dut.limit, dut.page)
    steady(m, dut.streamed)
    # Only what is there is taken.
    m.d.comb += Assume(~dut.take | (dut.available if isinstance(dut, LiteralLanes) else dut.valid))
    if isinstance(dut, LiteralLanes):
        m.d.comb += Assume(dut.passed <= 8)
        # No request that waits is interrupted.
        waiting = Signal()
        m.d.sync += waiting.eq(dut.port.request.valid & ~dut.port.request.ready)
        m.d.comb += Assume(~(waiting & dut.pause))


def instructions(m: Module, dut: Any) -> None:
    reader(m, dut)
    m.d.comb += Assume(~dut.jump | dut.take)


def decoder(m: Module, dut: Any) -> None:
    for name in ("code", "literals"):
        within_ring(m, dut.limits[name], dut.pages[name])
    steady(m, dut.streamed)


def within_ring(m: Module, limit: Any, page: Any) -> None:
    before = Signal.like(limit)
    m.d.sync += before.eq(limit)
    m.d.comb += Assume((limit == before) | (limit != page))


def operand(m: Module, dut: Any) -> None:
    """What comes out is taken; a record comes when nothing is under way; the address moves by ``accept``."""
    waiting = Signal()
    before, moves = Signal.like(dut.address), Signal(init=1)
    m.d.sync += [before.eq(dut.address), moves.eq(dut.accept)]
    m.d.comb += Assume(moves | (dut.address == before))
    m.d.sync += waiting.eq(dut.i.valid & ~dut.i.ready)
    m.d.comb += [Assume(dut.o.ready), Assume(~waiting | (~dut.start & ~dut.done))]
    m.d.comb += Assume(~(dut.start & (dut.i.valid | dut.o.valid)))
    m.d.comb += Assume(~(dut.done & (dut.i.valid | dut.o.valid)))


CASES: list[tuple[str, Callable[[], Any], Callable[[Module, Any], None], str, bool, int]] = [
    # name, component, promises of the environment, the input that begins anew, induction, depth
    ("host access", lambda: HostAccess(UP5K), nothing, "", False, 16),
    ("uart", lambda: Uart(16_000_000, 2_000_000), nothing, "", True, 3),
    ("filler", lambda: Filler(UP5K), fill, "", True, 3),
    ("requantiser, digit-serial", lambda: Requantiser(UP5K), settings, "", True, 3),
    ("requantiser, pipelined", lambda: Requantiser(ECP5), settings, "", True, 3),
    ("residual adder", lambda: ResidualAdder(UP5K), operand, "", False, 20),
    ("window fetcher, one port", lambda: window_fetcher(UP5K), walk, "start", True, 3),
    ("window fetcher, two ports", lambda: window_fetcher(ECP5), walk, "start", True, 3),
    ("sequencer, one port", lambda: sequencer(UP5K), nothing, "start", False, 20),
    ("sequencer, two ports", lambda: sequencer(ECP5), nothing, "start", False, 20),
    ("instruction fetcher", lambda: InstructionFetcher(UP5K), instructions, "start", False, 16),
    ("literal lanes", lambda: LiteralLanes(UP5K), reader, "start", False, 16),
    ("bit reader", lambda: BitReader(UP5K), reader, "start", False, 20),
    ("weight decoder", lambda: WeightDecoder(PLAIN), decoder, "start", False, 13),
]


def under_proof(case: Any, *, broken: bool = False) -> tuple[Module, list[Signal]]:
    _, component, promises, anew, _, _ = case
    m, dut = Module(), component()
    ports = harness(m, dut, anew=anew, broken=broken)
    promises(m, dut)
    return m, ports


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_streams_keep_their_contracts(case, tmp_path):
    """Once offered, always offered, and the same, until it is taken."""
    m, ports = under_proof(case)
    prove(m, ports, tmp_path, depth=case[-1], induction=case[-2])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_component_that_withdraws_is_refuted(case, tmp_path):
    """The claims are about something: to the depth that is looked at, each stream offers and waits."""
    m, ports = under_proof(case, broken=True)
    with pytest.raises(AssertionError, match="proof failed"):
        prove(m, ports, tmp_path, depth=90 if case[0] == "uart" else max(case[-1], 14))


@pytest.mark.parametrize("component", [InstructionFetcher, LiteralLanes, BitReader])
@pytest.mark.parametrize("wild", [False, True], ids=["", "refuted of a program that is not streamed"])
def test_readers_stay_out_of_the_page_that_is_fed_next(component, wild, tmp_path):
    """For ever, whatever the host says that page is."""
    m, dut = Module(), component(UP5K)
    ports = free(m, *(dut.port.request.ready, dut.port.data, dut.start, dut.base, dut.limit, dut.take))
    m.submodules.dut = dut
    m.d.comb += dut.streamed.eq(0 if wild else 1)
    m.d.comb += Assert(~dut.port.request.valid | (dut.page != dut.limit))
    if wild:
        with pytest.raises(AssertionError, match="proof failed"):
            prove(m, ports, tmp_path, depth=4)
    else:
        prove(m, ports, tmp_path, depth=2, induction=True)
