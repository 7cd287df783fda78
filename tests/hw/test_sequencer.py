"""The sequencer: descriptors in order, each executed to its end before the next that needs it."""

import random
from typing import Any

import numpy as np
import pytest
from kolmogate.config import MachineConfig, configuration
from kolmogate.isa import (
    ADDRESS_BITS,
    DESCRIPTOR,
    RECORDS,
    RESIDUAL,
    Opcode,
    Record,
    load_descriptor,
    store_descriptor,
)
from kolmogate_hw.residual import DIGIT_BITS, ROWS
from kolmogate_hw.sequencer import Sequencer, sequencer
from kolmogate_sim.memories import serve_reads
from kolmogate_sim.streams import simulate, stalls

SCALES = ("output_scale", "operand_scale")


def record_of(fields: dict[str, int]) -> Record:
    return RECORDS.get(fields["opcode"], DESCRIPTOR)


def store(fields: dict[str, int], config: MachineConfig) -> bytes:
    if fields["opcode"] in RECORDS:
        return store_descriptor(fields, config.columns)
    return DESCRIPTOR.pack(**fields).to_bytes(DESCRIPTOR.size(config.columns), "little")


def random_descriptor(source: random.Random, opcode: int) -> dict[str, int]:
    record = record_of({"opcode": opcode})
    return {**record.unpack(source.getrandbits(record.bits)), "opcode": opcode}


KINDS = (Opcode.ARRAY, Opcode.ARRAY, Opcode.FILL, Opcode.RESIDUAL)


class Programs:
    """Three programs one after the other, each closed by ``end``: END or an unknown opcode.

    ``layers`` are their descriptors, ``words`` those as they are known once loaded, ``bases`` where in
    ``memory`` they begin.
    """

    def __init__(self, config: MachineConfig, end: int, source: random.Random) -> None:
        programs = [[source.choice(KINDS) for _ in range(length)] + [end] for length in (0, 1, 16)]
        self.layers = [[random_descriptor(source, opcode) for opcode in program] for program in programs]
        gap = 3 * config.columns
        stored, before = b"", 0
        self.bases: list[int] = []
        self.words: list[list[int]] = []
        for program in self.layers:
            packed: list[int] = []
            self.words.append(packed)
            stored += source.randbytes(gap)
            self.bases.append(len(stored) // config.columns)
            for layer in program:
                piece = store(layer, config)
                *_, before = load_descriptor(piece + bytes(32), config.columns, before)
                # What an ARRAY descriptor is with what it keeps; of an unknown one only the opcode matters.
                known = layer["opcode"] in RECORDS
                word = record_of(layer).pack(**layer) if known else layer["opcode"]
                packed.append(before if layer["opcode"] == Opcode.ARRAY else word)
                stored += piece
        # What is read of a last one that is short.
        stored += source.randbytes(DESCRIPTOR.size(config.columns))
        self.memory = np.frombuffer(stored, np.uint8).copy()
        self._source = source

    def simulate(self, dut: Sequencer, bench: Any) -> None:
        """Run ``bench`` beside a scratchpad that grants reads at random."""

        async def serve(ctx: Any) -> None:
            await serve_reads(ctx, dut.port, self.memory, stalls(self._source))

        simulate(dut, bench, cycles=10_000, background=[serve])


async def stay_quiet(ctx: Any, dut: Sequencer) -> None:
    """Behind the end nothing is read."""
    ctx.set(dut.filling, 0)
    for _ in range(30):
        await ctx.tick()
        assert not ctx.get(dut.port.request.valid), "reads on after the end"


@pytest.mark.parametrize("end", [Opcode.END, 4, 7])
def test_program(config: MachineConfig, end: int, source: random.Random) -> None:
    """Of a machine with one port, but for the time that its memory takes."""
    dut = Sequencer(config)
    given = Programs(config, end, source)

    async def bench(ctx: Any) -> None:
        for base, program, packed in zip(given.bases, given.layers, given.words, strict=True):
            ctx.set(dut.base, base)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            filling = 0  # cycles for which the filler stays busy
            running = 0  # cycles until the layer is done
            executed = 0
            now: dict[str, int] = {}  # the layer's descriptor, as far as it has come
            rows: list[int] = []  # of a record, but the first
            ended = False
            while not ended:
                expected = program[executed]
                ctx.set(dut.filling, filling > 0)
                ctx.set(dut.layer_done, running == 1)
                start_layer, start_fill = ctx.get(dut.start_layer), ctx.get(dut.start_fill)
                start_residual = ctx.get(dut.start_residual)
                done, bad = ctx.get(dut.done), ctx.get(dut.bad_descriptor)
                started = start_layer + start_fill + start_residual + done + bad
                record = record_of(program[executed - bool(running)])
                descriptor = ctx.get(dut.descriptor).as_bits() & (1 << record.bits) - 1
                if bad:
                    descriptor %= 8
                ctx.set(dut.next_input, 0)
                ctx.set(dut.next_output, 0)
                if running:
                    assert descriptor == record.pack(**now), "not steady"
                    assert not started
                    # Inputs and outputs go on to the next column group, each when it likes.
                    if running > 1 and source.randrange(4) == 0:
                        now["input_base"] = source.getrandbits(ADDRESS_BITS)
                        now["channels"] = (now["channels"] - config.columns) % (1 << 12)
                        ctx.set(dut.input_base, now["input_base"])
                        ctx.set(dut.next_input, 1)
                    if running > 1 and source.randrange(4) == 0:
                        now["output_base"] = source.getrandbits(ADDRESS_BITS)
                        ctx.set(dut.output_base, now["output_base"])
                        ctx.set(dut.next_output, 1)
                assert not (started and filling), "it did not wait"
                filling, running = max(0, filling - 1), max(0, running - 1)
                assert started <= 1
                if start_residual and ctx.get(dut.row) > 0:
                    # The record goes out row by row, its scales a digit further down with each.
                    fields = program[executed - 1]
                    moved = {name: fields[name] >> DIGIT_BITS * ctx.get(dut.row) for name in SCALES}
                    assert ctx.get(dut.residual).as_bits() == RESIDUAL.pack(**fields | moved)
                    rows.append(ctx.get(dut.row))
                elif started:
                    assert rows in ([], list(range(1, ROWS)))
                    rows.clear()
                    assert descriptor == packed[executed]
                    assert start_layer == (expected["opcode"] == Opcode.ARRAY)
                    assert start_fill == (expected["opcode"] == Opcode.FILL)
                    assert start_residual == (expected["opcode"] == Opcode.RESIDUAL)
                    assert done == (expected["opcode"] == Opcode.END)
                    executed += 1
                    ended = bool(done or bad)
                if start_fill:
                    assert ctx.get(dut.fill).as_bits() == packed[executed - 1]
                    assert not filling, "a fill was started on another"
                    filling = source.choice((1, 3, 40))
                if start_layer:
                    running = source.choice((1, 3, 40))
                    now = DESCRIPTOR.unpack(packed[executed - 1])
                await ctx.tick()
            await stay_quiet(ctx, dut)

    given.simulate(dut, bench)


class Layer:
    """What the drain of an overlapping sequencer tells of a layer, at random times."""

    def __init__(self, source: random.Random) -> None:
        self.last_tile = source.choice((1, 5, 30))
        self.leaving = self.last_tile + source.choice((0, 4))
        self.done = self.leaving + source.choice((1, 20))
        self.age = 0


@pytest.mark.parametrize("end", [Opcode.END, 4])
@pytest.mark.parametrize("name", ["ecp5-25f", "ecp5-45f"])
def test_layers_overlap(name: str, end: int, source: random.Random) -> None:
    """All happens in order, and nothing before what it has to wait for; layers that may overlap do."""
    config = configuration(name)
    dut = sequencer(config)
    given = Programs(config, end, source)
    overlapped = []

    async def bench(ctx: Any) -> None:
        for base, program, packed in zip(given.bases, given.layers, given.words, strict=True):
            ctx.set(dut.base, base)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            filling = executed = 0
            rows: list[int] = []
            layers: list[int] = []  # those that have started, by their descriptors
            fetched: dict[str, int] = {}
            drained: dict[str, int] = {}
            computing = False
            draining: Layer | None = None
            waiting = False
            ended = False
            while not ended:
                last_tile = leaving = layer_done = False
                if draining:
                    draining.age += 1
                    last_tile = draining.age == draining.last_tile
                    leaving = draining.age >= draining.leaving
                    layer_done = draining.age == draining.done
                ctx.set(dut.last_tile, last_tile)
                ctx.set(dut.leaving, leaving)
                ctx.set(dut.layer_done, layer_done)
                ctx.set(dut.filling, filling > 0)
                ctx.set(dut.next_input, 0)
                ctx.set(dut.next_output, 0)
                start_layer, start_drain = ctx.get(dut.start_layer), ctx.get(dut.start_drain)
                start_fill, start_residual = ctx.get(dut.start_fill), ctx.get(dut.start_residual)
                done, bad = ctx.get(dut.done), ctx.get(dut.bad_descriptor)
                assert ctx.get(dut.held) == waiting
                assert ctx.get(dut.end_layer) == bool(layers and (start_layer or done))
                if computing:
                    assert ctx.get(dut.descriptor).as_bits() == DESCRIPTOR.pack(**fetched), "not steady"
                if draining:
                    # The drain has no use for the input's address.
                    drained["input_base"] = ctx.get(dut.drained.input_base)
                    assert ctx.get(dut.drained).as_bits() == DESCRIPTOR.pack(**drained), "not steady"
                # What begins is the next, and waits for what it needs.
                if start_layer + start_fill + done + bad or (start_residual and ctx.get(dut.row) == 0):
                    expected = program[executed]["opcode"]
                    assert start_layer == (expected == Opcode.ARRAY)
                    assert start_fill == (expected == Opcode.FILL)
                    assert start_residual == (expected == Opcode.RESIDUAL)
                    assert done == (expected == Opcode.END)
                    assert not filling
                    assert start_fill or not (computing or waiting)
                    assert rows in ([], list(range(1, ROWS)))
                    rows.clear()
                    assert start_layer or start_fill or not draining
                    executed += 1
                    ended = bool(done or bad)
                elif start_residual:
                    fields = program[executed - 1]
                    moved = {name: fields[name] >> DIGIT_BITS * ctx.get(dut.row) for name in SCALES}
                    assert ctx.get(dut.residual).as_bits() == RESIDUAL.pack(**fields | moved)
                    rows.append(ctx.get(dut.row))
                filling = max(0, filling - 1)
                if start_fill:
                    assert ctx.get(dut.fill).as_bits() == packed[executed - 1]
                    filling = source.choice((1, 3, 40))
                if start_layer:
                    assert ctx.get(dut.descriptor).as_bits() == packed[executed - 1]
                    fetched = DESCRIPTOR.unpack(packed[executed - 1])
                    if draining:
                        assert fetched["overlaps"]
                        assert leaving
                        overlapped.append(executed)
                    layers.append(packed[executed - 1])
                    waiting = computing = True
                if last_tile:
                    computing = False
                # Inputs and outputs go on to the next column group, each when it likes.
                if computing and not start_layer and source.randrange(4) == 0:
                    fetched["input_base"] = source.getrandbits(ADDRESS_BITS)
                    fetched["channels"] = (fetched["channels"] - config.columns) % (1 << 12)
                    ctx.set(dut.input_base, fetched["input_base"])
                    ctx.set(dut.next_input, 1)
                if draining and not layer_done and source.randrange(4) == 0:
                    drained["output_base"] = source.getrandbits(ADDRESS_BITS)
                    ctx.set(dut.output_base, drained["output_base"])
                    ctx.set(dut.next_output, 1)
                assert start_drain == (waiting and draining is None)
                if start_drain:
                    # As it was before its input went on.
                    assert ctx.get(dut.drained.channels) == DESCRIPTOR.unpack(layers[-1])["channels"]
                    drained = DESCRIPTOR.unpack(layers[-1])
                    draining, waiting = Layer(source), False
                elif layer_done:
                    draining = None
                await ctx.tick()
            await stay_quiet(ctx, dut)

    given.simulate(dut, bench)
    assert overlapped


def test_load_time(config: MachineConfig, source: random.Random) -> None:
    """A descriptor is dispatched its size in words plus 5 cycles after the start."""
    dut = Sequencer(config)
    size = DESCRIPTOR.size(config.columns)
    memory = np.zeros(size, np.uint8)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in range(size // config.columns + 4):
            assert not ctx.get(dut.done)
            await ctx.tick()
        assert ctx.get(dut.done)

    async def serve(ctx: Any) -> None:
        await serve_reads(ctx, dut.port, memory, stalls(source, 0.0))

    simulate(dut, bench, cycles=100, background=[serve])
