"""Proofs about the core's buffers: what goes in comes out, in order and once, and there is room for it."""

import dataclasses
from typing import Any

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from kolmogate.config import CONFIGURATIONS, MachineConfig
from kolmogate.isa import SHIFT_BASE
from kolmogate.machine_arithmetic import requantiser_interval
from kolmogate.programs import entropy
from kolmogate.protocol import PAGE_BYTES
from kolmogate_hw.column_buffer import ColumnBuffer
from kolmogate_hw.constants_buffer import ConstantsBuffer
from kolmogate_hw.drain import Drain
from kolmogate_hw.entropy_engine import BitReader, RowDecoder
from kolmogate_hw.feeder import RowFeeder
from kolmogate_hw.host_access import HostAccess
from kolmogate_hw.lanes import LiteralLanes
from kolmogate_hw.pair_fetcher import window_fetcher
from kolmogate_hw.scratchpad import Scratchpad
from kolmogate_hw.writer import OutputWriter
from kolmogate_sim.formal import follows, free, harness, prove, steady

UP5K, ECP5 = CONFIGURATIONS["up5k"], CONFIGURATIONS["ecp5-25f"]
SMALL = dataclasses.replace(UP5K, column_buffer_depth=2)
"""A ring that fills and wraps within a few cycles."""


def test_host_access_answers_every_read_once(tmp_path):
    m = Module()
    dut = HostAccess(UP5K)
    ports = harness(m, dut)
    owed = Signal(2)
    asked = dut.request.valid & dut.request.ready & ~dut.request.payload.write
    m.d.sync += owed.eq(owed + asked - dut.valid)
    m.d.comb += [Assert(owed <= 1), Assert(~dut.valid | (owed == 1))]
    prove(m, ports, tmp_path, depth=16)


@pytest.mark.parametrize("fast", [False, True], ids=["", "room a cycle ahead"])
def test_column_buffer_is_a_ring(fast, tmp_path):
    """Rows come back as they went in, none is overwritten before it is released, and no memory word is read
    while it is written, which the synthesis is promised."""
    m = Module()
    dut = ColumnBuffer(dataclasses.replace(ECP5, column_buffer_depth=2) if fast else SMALL)
    ports = harness(m, dut)
    depth = dut.config.column_buffer_depth
    m.d.comb += Assume(dut.available | ~dut.step)
    written, taken, first = Signal(8), Signal(8), Signal(8)
    incoming = dut.i.write
    reserved = Signal(8)
    m.d.sync += reserved.eq(reserved + dut.i.reserve)
    m.d.comb += Assume(~incoming | (reserved + dut.i.reserve != written))
    # What comes is available a cycle later.
    settled = Signal(init=1)
    m.d.sync += settled.eq(~incoming)
    m.d.comb += [
        Assert(~dut.available | (written != taken)),
        Assert(dut.available | (written == taken) | ~settled),
    ]
    # What is freed makes room a cycle later.
    room = Signal(init=1)
    m.d["comb" if dut.i.signature.ahead else "sync"] += room.eq(
        (reserved + dut.i.reserve - first)[:8] != depth
    )
    m.d.comb += Assert(dut.i.room == room)
    with m.If(incoming):
        m.d.sync += written.eq(written + 1)
    with m.If(dut.step):
        m.d.sync += taken.eq(Mux(dut.rewind & ~dut.release, first, taken + 1))
        with m.If(dut.release):
            m.d.sync += first.eq(taken + 1)
        m.d.comb += Assert(~incoming | ((written - taken) % depth != 0))
    # Any one row, followed through.
    asked = chosen(m, ports, 4)
    row, due = Signal(8 * SMALL.columns), Signal()
    with m.If(incoming & (written == asked)):
        m.d.sync += row.eq(dut.i.row)
    m.d.sync += due.eq(dut.step & (taken == asked))
    with m.If(due):
        m.d.comb += Assert(dut.row.as_value() == row)
    prove(m, ports, tmp_path, depth=10)


def once(m: Module, signal: Signal) -> None:
    """Assume that it is high in one cycle at most."""
    done = Signal(name=f"{signal.name}_done")
    m.d.sync += done.eq(done | signal)
    m.d.comb += Assume(~(done & signal))


def chosen(m: Module, ports: list[Signal], bits: int) -> Signal:
    """Any one number, the same for ever."""
    asked = Signal(bits)
    ports.append(asked)
    steady(m, asked)
    return asked


@pytest.mark.parametrize("room", [2, 4], ids=["", "refuted with more words than it holds"])
def test_row_feeder_is_a_queue(room, tmp_path, monkeypatch):
    """Words come out as they went in, and ``valid`` is high as long as there is one that came in time."""
    depth = 2
    monkeypatch.setattr(MachineConfig, "feeder_depth", depth)
    m = Module()
    dut = RowFeeder(UP5K)
    ports = harness(m, dut)
    pushed, popped, before = Signal(5), Signal(5), Signal(5)
    m.d.sync += [pushed.eq(pushed + dut.push), popped.eq(popped + dut.pop), before.eq(pushed)]
    m.d.comb += Assume(~dut.push | (pushed - popped != room))
    m.d.comb += Assume(dut.valid | ~dut.step)
    m.d.comb += Assert(~dut.valid | (pushed != popped))
    asked = chosen(m, ports, 3)
    run = Signal(dut.layout)
    with m.If(dut.push & (pushed == asked)):
        m.d.sync += run.eq(dut.run)
    with m.If(dut.valid & (popped == asked)):
        m.d.comb += Assert(dut.word == run.word)
        m.d.comb += Assert(dut.final_tile == run.final_tile)
    claim(m, ports, tmp_path, 10, room == depth)


def claim(m: Module, ports: list[Signal], folder: Any, depth: int, holds: bool) -> None:
    """`prove`, or that it cannot be done."""
    if holds:
        prove(m, ports, folder, depth=depth)
    else:
        with pytest.raises(AssertionError, match="proof failed"):
            prove(m, ports, folder, depth=depth)


@pytest.mark.parametrize("room", [2, 3], ids=["", "refuted if it counts on more"])
@pytest.mark.parametrize("config", [UP5K, ECP5], ids=["one port", "two ports"])
def test_fetcher_asks_for_what_has_room(config, room, tmp_path, monkeypatch):
    """No row ever has more words under way or waiting than its feeder holds."""
    monkeypatch.setattr(MachineConfig, "feeder_depth", room)
    m = Module()
    dut = window_fetcher(config)
    ports = harness(m, dut, anew="start")
    once(m, dut.start)
    follows(m, dut, "input_base")
    for r in range(config.rows):
        words = Signal(4, name=f"words_{r}")
        pushed = Cat(push[r] for push in dut.push)
        m.d.comb += Assert(sum(push[r] for push in dut.push) <= 1)
        m.d.sync += words.eq(words + pushed.any() - dut.pop[r])
        m.d.comb += Assume((words != 0) | ~dut.pop[r])
        m.d.comb += Assert(words <= 2)
    claim(m, ports, tmp_path, 14, room == 2)


@pytest.mark.parametrize("config", [UP5K, ECP5], ids=["", "room a cycle ahead"])
@pytest.mark.parametrize("promised", [True, False], ids=["", "refuted if a group is released early"])
def test_constants_buffer_keeps_groups_apart(promised, config, tmp_path):
    """The constants of a group are those of its records, whatever arrives for the next."""
    m = Module()
    dut = ConstantsBuffer(config)
    ports = harness(m, dut)
    lanes = config.requantisers
    if promised:
        m.d.comb += Assume(dut.ready | ~dut.release)
    arrived, released, row = Signal(4), Signal(4), Signal(4)
    taken = dut.i.write
    m.d.comb += Assume((row < 8) | ~taken)
    # Rows set out while there is room, and that for a group is kept when its last one does.
    reserved = Signal(4)
    m.d.sync += reserved.eq(reserved + dut.i.reserve)
    m.d.comb += Assume(~taken | (arrived - released != 2))
    m.d.comb += Assume(~(taken & dut.i.row.last) | (reserved + dut.i.reserve != arrived))
    kept = reserved - released
    if dut.i.signature.ahead:
        kept = kept + dut.i.reserve - dut.release
    m.d.comb += Assert(~dut.i.room | (kept[:4] < 2))
    with m.If(taken):
        m.d.sync += row.eq(Mux(dut.i.row.last, 0, row + 1))
        m.d.sync += arrived.eq(arrived + dut.i.row.last)
    m.d.sync += released.eq(released + dut.release)
    m.d.comb += Assert(arrived - released <= 2)
    m.d.comb += Assert(~dut.ready | (arrived != released))
    # Any one record.
    group, place = chosen(m, ports, 2), chosen(m, ports, 3)
    record, here, due = Signal(64), Signal(), Signal()
    with m.If(taken & (arrived == group) & (row == place)):
        m.d.sync += [record.eq(dut.i.row.row), here.eq(1)]
    wanted = dut.ready & (released == group) & (dut.batch == place // lanes)
    m.d.sync += due.eq(wanted & ~dut.release & here)
    with m.If(due):
        for lane in range(lanes):
            with m.If(place % lanes == lane):
                m.d.comb += Assert(dut.constants[lane].bias[:16] == record[32:48])
                m.d.comb += Assert(dut.constants[lane].shift == (record[56:62] + SHIFT_BASE)[:6])
    claim(m, ports, tmp_path, 10, promised)


@pytest.mark.parametrize("stray", [False, True], ids=["", "refuted if lanes step over words"])
def test_literal_lanes_give_the_words_in_order(stray, tmp_path):
    """What the lanes see begins with the oldest word of which they have not passed all bits."""
    m = Module()
    dut = LiteralLanes(UP5K)
    ports = harness(m, dut, anew="start")
    once(m, dut.start)
    m.d.comb += [Assume(~dut.streamed), Assume(dut.passed <= 8), Assume(dut.available | ~dut.take)]
    # No request that waits is interrupted.
    waiting = Signal()
    m.d.sync += waiting.eq(dut.port.request.valid & ~dut.port.request.ready)
    m.d.comb += Assume(~(waiting & dut.pause))
    begun = Signal()
    with m.If(dut.start):
        m.d.sync += begun.eq(1)
    m.d.comb += Assume(begun | dut.start | ~dut.port.request.valid)
    answered, bits, passed = Signal(4), Signal(7), Signal(4)
    m.d.sync += passed.eq(dut.passed)
    m.d.sync += answered.eq(answered + (dut.port.valid & begun))
    with m.If(dut.take):
        m.d.sync += bits.eq(bits + passed + stray)
    word = chosen(m, ports, 2)
    lane, here = Signal(8), Signal()
    with m.If(begun & dut.port.valid & (answered == word)):
        m.d.sync += [lane.eq(dut.port.data[:8]), here.eq(1)]
    with m.If(begun & dut.available & (bits[3:] == word)):
        m.d.comb += Assert(here & (dut.view[0][0] == lane.bit_select(bits[:3], 1)))
    claim(m, ports, tmp_path, 16, not stray)


@pytest.mark.parametrize("stray", [False, True], ids=["", "refuted in another order"])
def test_bit_reader_gives_the_bits_in_order(stray, tmp_path):
    """Byte after byte, from its highest bit down, and none twice."""
    m = Module()
    dut = BitReader(UP5K)
    ports = harness(m, dut, anew="start")
    once(m, dut.start)
    m.d.comb += [Assume(~dut.streamed), Assume(dut.valid | ~dut.take)]
    begun = Signal()
    with m.If(dut.start):
        m.d.sync += begun.eq(1)
    answered, bits, slot = Signal(4), Signal(6), Signal(3, init=7)
    lane, here = Signal(8), Signal()
    word = chosen(m, ports, 1)
    with m.If(begun & dut.port.valid):
        m.d.sync += [answered.eq(answered + 1), slot.eq(slot - 1)]
        with m.If(answered == word):
            m.d.sync += [lane.eq(dut.port.data.word_select(slot, 8)), here.eq(1)]
    m.d.sync += bits.eq(bits + dut.take)
    with m.If(begun & dut.valid & (bits[3:] == word)):
        place = bits[:3] if stray else 7 - bits[:3]
        m.d.comb += Assert(here & (dut.bit == lane.bit_select(place[:3], 1)))
    claim(m, ports, tmp_path, 18, not stray)


@pytest.mark.parametrize("held", [3, 2], ids=["", "refuted a cycle earlier"])
def test_entropy_engine_keeps_a_row_until_it_is_taken(held, tmp_path, monkeypatch):
    """For ever, whatever its contexts say: two cycles after it was coming it is there, and stays."""
    monkeypatch.setattr(entropy, "CONTEXTS", 4)
    m = Module()
    dut = RowDecoder(UP5K)
    ports = harness(m, dut)
    coming, waiting, row = Signal(held), Signal(), Signal(8 * UP5K.columns)
    here = Cat(dut.coming, coming)[:held].all()
    m.d.comb += Assume(here | ~dut.take)
    m.d.sync += [coming.eq(Cat(dut.coming, coming)), row.eq(dut.row), waiting.eq(here & ~dut.take)]
    with m.If(waiting):
        m.d.comb += Assert(dut.coming & (dut.row.as_value() == row))
    if held == 3:
        prove(m, ports, tmp_path, depth=4, induction=True)
    else:
        with pytest.raises(AssertionError, match="proof failed"):
            prove(m, ports, tmp_path, depth=4, induction=True)


@pytest.mark.parametrize("unfair", [False, True], ids=["", "refuted with the lowest first"])
def test_scratchpad_grants_one_access_and_answers_it(unfair, tmp_path):
    """The highest client that asks is granted, alone; its answer comes two cycles later, with what was
    written to the word last; a layer's write to a page where it may not changes nothing, and is told of."""
    config = dataclasses.replace(UP5K, scratchpad_bytes=2 * PAGE_BYTES)
    word_bits, page_bits = 6, 5
    m = Module()
    names = ["outputs", "reads", "fill"]
    dut = Scratchpad(config, [names], {"outputs", "fill"}, set(), {"fill"})
    m.submodules.dut = dut
    requests: dict[str, Any] = {"outputs": dut.outputs, "reads": dut.reads.request, "fill": dut.fill}
    ports = [one for port in requests.values() for one in free(m, port.valid, port.payload)]
    busy: Any = Signal()
    for name in reversed(names) if unfair else names:
        m.d.comb += Assert(~requests[name].valid | (requests[name].ready == ~busy))
        busy = busy | requests[name].valid
    granted = {name: request.valid & request.ready for name, request in requests.items()}
    # Any one byte.
    place = chosen(m, ports, word_bits)
    m.d.comb += dut.last_page.eq(chosen(m, ports, 1))
    content, known = Signal(8), Signal()
    refused = Signal()
    m.d.sync += refused.eq(granted["fill"] & (dut.fill.payload.address[page_bits] > dut.last_page))
    m.d.comb += Assert(dut.refused == refused)
    for name in ("outputs", "fill"):
        payload = requests[name].payload
        may = (payload.address[page_bits] <= dut.last_page) if name == "fill" else 1
        with m.If(granted[name] & (payload.address[:word_bits] == place) & payload.mask[0] & may):
            m.d.sync += [content.eq(payload.data[:8]), known.eq(1)]
    reading = granted["reads"] & (requests["reads"].payload[:word_bits] == place) & known
    asked, due, expected = Signal(2), Signal(2), Signal(16)
    m.d.sync += [
        asked.eq(Cat(granted["reads"], asked)),
        due.eq(Cat(reading, due)),
        expected.eq(Cat(content, expected)),
    ]
    m.d.comb += Assert(dut.reads.valid == asked[1])
    with m.If(due[1]):
        m.d.comb += Assert(dut.reads.data[:8] == expected[8:])
    claim(m, ports, tmp_path, 8, not unfair)


@pytest.mark.parametrize("lost", [False, True], ids=["", "refuted if a write is not granted at once"])
@pytest.mark.parametrize("config", [UP5K, ECP5], ids=["two batches a write", "a word a write"])
def test_writer_writes_every_output_once(config, lost, tmp_path):
    """To its address, in the write that ends what was collected, and nothing else."""
    m = Module()
    dut = OutputWriter(config)
    ports = harness(m, dut, anew="start")
    once(m, dut.start)
    follows(m, dut, "output_base")
    lanes = config.requantisers
    begun = Signal()
    with m.If(dut.start):
        m.d.sync += begun.eq(1)
    # Outputs pass on at once; all channels are live.
    m.d.comb += [Assume(begun | ~dut.i.valid), Assume(dut.accept == dut.i.valid), Assume(~dut.late)]
    m.d.comb += [Assume(~(dut.start & dut.i.valid)), Assume(dut.descriptor.channels == config.columns)]
    if requantiser_interval(config) > 1:
        pause = Signal()
        m.d.sync += pause.eq(dut.start | dut.i.valid)
        m.d.comb += Assume(~(pause & dut.i.valid))
    m.d.comb += Assert(dut.i.ready)
    if not lost:
        m.d.comb += Assume(dut.port.ready)
    # Any byte.
    place = chosen(m, ports, len(dut.address))
    owed, byte = Signal(), Signal(8)
    here = dut.i.valid & (dut.address // lanes == place // lanes)
    column = place[: config.columns.bit_length() - 1]
    written = dut.port.valid & dut.port.ready
    written = written & (dut.port.payload.address == place[len(column) :])
    written = written & dut.port.payload.mask.bit_select(column, 1)
    with m.If(dut.port.valid & owed):
        m.d.comb += Assert(written & (dut.port.payload.data.word_select(column, 8) == byte))
    m.d.comb += Assert(owed | ~written)
    with m.If(written):
        m.d.sync += owed.eq(0)
    with m.If(here):
        m.d.sync += owed.eq(1)
        for lane in range(lanes):
            with m.If(place % lanes == lane):
                m.d.sync += byte.eq(dut.i.payload[lane])
    claim(m, ports, tmp_path, 10, not lost)


@pytest.mark.parametrize("latency", [0, -2], ids=["", "refuted if the array is faster"])
@pytest.mark.parametrize("config", [ECP5, CONFIGURATIONS["ecp5-45f"]], ids=lambda config: config.name)
def test_drain_is_empty_when_a_tile_is_captured(config, latency, tmp_path):
    """As long as no window ends before ``drained``: all live outputs of the tile before have left."""
    m = Module()
    dut = Drain(config)
    m.submodules.dut = dut
    control = [dut.start, dut.final_tile, dut.last_row, dut.descriptor.channels]
    ports = free(m, *control, dut.records.reserve, dut.records.write, dut.records.row, dut.write_port.ready)
    m.d.comb += [Assume(dut.write_port.ready), Assume(dut.descriptor.channels == config.columns)]
    steady(m, dut.descriptor.channels)
    begun, ended = Signal(), Signal()
    ports.append(ended)
    with m.If(dut.start):
        m.d.sync += begun.eq(1)
    m.d.comb += [Assume(~(dut.start & begun)), Assume(begun | ~ended)]
    # Groups of constants arrive after they have set out.
    away = Signal(2)
    arrives = dut.records.write & dut.records.row.last
    room = Signal(init=1)
    m.d.sync += room.eq(dut.records.room)
    m.d.comb += [
        Assume(room | ~dut.records.reserve),
        Assume((away + dut.records.reserve != 0) | ~arrives),
    ]
    m.d.sync += away.eq(away + dut.records.reserve - arrives)
    # The array: a tile that ends is captured later, and none ends before the last is drained.
    undrained = Signal()
    way = Signal(config.capture_latency - 1 + latency)
    m.d.comb += [Assume(~(ended & undrained)), dut.captured.eq(way[-1])]
    m.d.sync += way.eq(Cat(ended, way))
    with m.If(dut.drained):
        m.d.sync += undrained.eq(0)
    with m.If(ended):
        m.d.sync += undrained.eq(1)
    owed = Signal(8)
    # The tile is there in the next cycle.
    m.d.comb += Assert(~dut.captured | (owed == dut.shift) | (owed == 0))
    with m.If(dut.captured):
        m.d.sync += owed.eq((dut.last_row + 1) * (config.columns // config.requantisers))
    with m.Elif(dut.shift & (owed != 0)):
        m.d.sync += owed.eq(owed - 1)
    claim(m, ports, tmp_path, 28, latency == 0)
