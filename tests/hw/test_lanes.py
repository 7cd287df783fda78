"""The weight decoder: the rows that the golden decoder makes, however memory and array are stalled."""

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from kolmogate.config import CONFIGURATIONS, MachineConfig
from kolmogate.isa import INSTRUCTION, NEW_BITS, P0
from kolmogate.programs.p0 import (
    MAXIMUM_ROWS,
    Instruction,
    Program,
    assemble,
    code_words,
    execute,
    generate,
    literal,
    zero,
)
from kolmogate.programs.reader import decode
from kolmogate.programs.search import literal_program
from kolmogate.rings import RING_BYTES, RING_PAGES, feeds, padded, ring_addresses
from kolmogate_hw.lanes import WeightDecoder
from kolmogate_sim.memories import random_memory, serve_reads
from kolmogate_sim.stimuli import random_program
from kolmogate_sim.streams import simulate, stalls


def plain(config: MachineConfig) -> MachineConfig:
    """The machine without an entropy engine, whose start takes its time."""
    return dataclasses.replace(config, entropy_engines=0)


def signed_row(row: Any) -> list[int]:
    values: list[int] = np.array(list(row)).astype(np.uint8).view(np.int8).tolist()
    return values


class Bench:
    """A decoder between a memory, into which programs are put, and a consumer that checks its rows."""

    def __init__(self, config: MachineConfig, source: random.Random, stalled: bool = True) -> None:
        self.config = config
        self.source = source
        self.dut = WeightDecoder(config)
        self.memory = random_memory(source, 1 << 14)
        # The coded stream of the first program is read beyond its end.
        self.end = 2 * config.columns
        self.probability = None if stalled else 0.0

    def store(self, program: Program) -> dict[str, int]:
        """Put a program into the memory behind the last; the word addresses of its streams."""
        bases = {}
        for name in ("code", "coded", "literals"):
            stream = np.frombuffer(getattr(program, name), np.uint8)
            if name != "coded":
                bases[name] = self.end // self.config.columns
            self.memory[self.end : self.end + len(stream)] = stream
            self.end += len(stream)
        assert self.end + self.config.literal_words * self.config.columns <= len(self.memory)
        return bases

    async def start(self, ctx: Any, bases: dict[str, int]) -> None:
        for name, base in bases.items():
            ctx.set(getattr(self.dut, name), base)
        ctx.set(self.dut.start, 1)
        await ctx.tick()
        ctx.set(self.dut.start, 0)
        # The addresses are only looked at with the start.
        for name in bases:
            ctx.set(getattr(self.dut, name), 0)

    def stream(self, program: Program) -> tuple[dict[str, int], Any]:
        """Rings for a program in the memory: where they are, and a background bench that feeds them."""
        dut, rings = self.dut, ring_addresses(dataclasses.replace(self.config, scratchpad_bytes=1 << 14))
        streams = feeds(padded(program, self.config.columns), rings)
        bases = {name: rings[name] // self.config.columns for name in ("code", "literals")}

        async def feed(ctx: Any) -> None:
            limits = {name: -1 if name == "coded" else 0 for name in rings}
            ctx.set(dut.streamed, 1)
            ctx.set(dut.limits, limits)
            # Not before the start: the readers say where they are.
            while not ctx.get(dut.start):
                await ctx.tick()
            await ctx.tick()
            while True:
                pages = {stream.name: ctx.get(dut.pages[stream.name]) for stream in streams}
                for _ in range(self.source.randrange(100)):
                    await ctx.tick()
                waiting = [stream for stream in streams if stream.has_room(pages[stream.name])]
                if waiting:
                    stream = self.source.choice(waiting)
                    address, content = stream.take()
                    self.memory[address : address + len(content)] = np.frombuffer(content, np.uint8)
                    page = address // len(content) + (-1 if stream.name == "coded" else 1)
                    ctx.set(dut.limits[stream.name], page % RING_PAGES)

        return bases, feed

    async def check(
        self, ctx: Any, weights: np.ndarray, records: Sequence[np.ndarray] = (), then: int = 0
    ) -> None:
        """Take these rows, and make sure that none follows within ``then`` cycles and until all that is read
        ahead is here, which the next start would withdraw."""
        dut = self.dut
        expected = {
            "o": [(row.tolist(), None) for row in weights],
            "records": [
                (row.tolist(), index == len(block) - 1)
                for block in records
                for index, row in enumerate(block)
            ],
        }
        pauses = {name: stalls(self.source, self.probability) for name in expected}
        while any(expected.values()):
            for name in expected:
                ctx.set(getattr(dut, name).room, not next(pauses[name]))
            *_, o, o_row, records_, record = await ctx.tick().sample(
                dut.o.write, dut.o.row, dut.records.write, dut.records.row
            )
            if o:
                assert expected["o"], "a row beyond the end of the program"
                assert (signed_row(o_row), None) == expected["o"].pop(0), (
                    f"{len(expected['o'])} rows before the end"
                )
            if records_:
                assert (signed_row(record.row), record.last) == expected["records"].pop(0)
        ports = (dut.code_port, dut.literal_port, dut.coded_port)
        while then > 0 or any(ctx.get(port.request.valid) for port in ports):
            then -= 1
            _, _, made = await ctx.tick().sample(dut.o.write | dut.records.write)
            assert not made, "a row beyond the end of the program"

    def memories(self) -> list[Any]:
        """Background benches that answer the decoder's reads."""

        def answering(name: str) -> Any:
            async def answer(ctx: Any) -> None:
                pauses = stalls(self.source, self.probability)
                await serve_reads(ctx, getattr(self.dut, name), self.memory, pauses)

            return answer

        return [answering(name) for name in ("code_port", "literal_port", "coded_port")]

    def run(self, bench: Any, cycles: int) -> None:
        simulate(self.dut, bench, cycles=cycles, background=self.memories())


def every_instruction(source: random.Random, config: MachineConfig, longest: int) -> Any:
    """A random program of 25 instructions, none of those missing that the machine has."""
    missing = {P0.CODED, P0.PREDICT} if not config.entropy_engines else set()
    missing |= {P0.GENERATE, P0.SKIP} if not config.generator else set()
    while True:
        made = random_program(source, config, 25, longest)
        if {one.op for one in execute(code_words(made[0]))} | missing == set(P0):
            return made


@pytest.mark.parametrize(
    ("count", "longest"),
    [pytest.param(1, 4, id="some"), pytest.param(3, 12, marks=pytest.mark.slow, id="all")],
)
def test_random_programs(config: MachineConfig, source: random.Random, count: int, longest: int) -> None:
    bench = Bench(config, source)
    programs = [every_instruction(source, config, longest) for _ in range(count)]
    programs.append(
        (assemble([], np.zeros((0, config.columns), np.int8), config.columns), np.zeros((0, 8)), [])
    )

    async def run(ctx: Any) -> None:
        for program, weights, records in programs:
            await bench.start(ctx, bench.store(program))
            await bench.check(ctx, weights, records, then=60)
            assert not ctx.get(bench.dut.error)

    bench.run(run, cycles=400_000)


@pytest.mark.parametrize(
    "coded", [pytest.param(False, id="some"), pytest.param(True, marks=pytest.mark.slow, id="all")]
)
def test_streamed_programs(source: random.Random, coded: bool) -> None:
    """Through rings that are filled as they empty, and begun again. Coded rows take their time."""
    config = CONFIGURATIONS["up5k"]
    bench = Bench(config, source)
    made_for = config if coded else plain(config)
    program, weights, records = random_program(source, made_for, 560, longest=4, seek=False)
    assert len(program.code) > RING_BYTES
    assert len(program.literals) > 2 * RING_BYTES
    assert len(program.coded) > 2 * RING_BYTES * coded - 1
    bases, feed = bench.stream(program)

    async def run(ctx: Any) -> None:
        await bench.start(ctx, bases)
        await bench.check(ctx, weights, records, then=60)
        assert not ctx.get(bench.dut.error)

    simulate(bench.dut, run, cycles=1_500_000, background=[*bench.memories(), feed])


def test_longest_instructions(config: MachineConfig, source: random.Random) -> None:
    bench = Bench(config, source, stalled=False)
    weights = np.zeros((2 * MAXIMUM_ROWS + 20, config.columns), np.int8)
    weights[MAXIMUM_ROWS + 10 :] = -1
    program = assemble(literal_program(weights), weights, config.columns)

    async def run(ctx: Any) -> None:
        await bench.start(ctx, bench.store(program))
        await bench.check(ctx, weights, then=20)

    bench.run(run, cycles=3000)


def test_a_row_a_cycle(config: MachineConfig, source: random.Random) -> None:
    """Without stalls nothing is lost between instructions of eight rows, even of eight bits."""
    bench = Bench(config, source, stalled=False)
    instructions = [literal(bits, 8) for bits in (8, 8, 1, 8, 3, 8)]
    instructions.insert(3, zero(8))
    if config.generator:
        instructions += [generate(k, 8) for k in NEW_BITS]
    instructions.append(Instruction(P0.END))
    code = np.array([one.encode() for one in instructions], "<u2").tobytes()
    literals = source.randbytes(8 * 8 * config.columns)
    program = Program(code + bytes(-len(code) % config.columns), b"", literals)
    weights = decode(program, config.columns)[0]
    first = last = 0

    async def run(ctx: Any) -> None:
        nonlocal first, last
        await bench.start(ctx, bench.store(program))
        ctx.set(bench.dut.o.room, 1)
        cycle = rows = 0
        while rows < len(weights):
            cycle += 1
            _, _, made = await ctx.tick().sample(bench.dut.o.write)
            if made:
                first, last = first or cycle, cycle
                rows += 1

    bench.run(run, cycles=200)
    assert first == 8 + (2 if config.generator else bool(config.entropy_engines)) + config.fast
    assert last - first + 1 == len(weights)


def test_start_abandons_what_runs(config: MachineConfig, source: random.Random) -> None:
    """Started again at any moment, the decoder makes the new program's rows and no others."""
    bench = Bench(config, source)
    dut = bench.dut
    programs = [random_program(source, plain(config), 6) for _ in range(6)]
    stored = [(bench.store(program), weights.tolist()) for program, weights, _ in programs]
    rows = 0

    async def check(ctx: Any) -> None:
        nonlocal rows
        pauses = stalls(source)
        for _ in range(100):
            bases, weights = source.choice(stored)
            expected = iter(weights)
            ctx.set(dut.o.room, 0)
            ctx.set(dut.records.room, 1)
            await bench.start(ctx, bases)
            for _ in range(source.choice([0, 1, 3, 5, 7, 8, 9, 10, 11, 12, 24, 60])):
                ctx.set(dut.o.room, not next(pauses))
                _, _, made, row = await ctx.tick().sample(dut.o.write, dut.o.row)
                if made:
                    assert np.array(list(row)).astype(np.uint8).view(np.int8).tolist() == next(expected)
                    rows += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for memory in bench.memories():
        simulator.add_testbench(memory, background=True)
    simulator.add_testbench(check)
    simulator.run()
    assert rows > 80


def test_unknown_instruction(config: MachineConfig, source: random.Random) -> None:
    """Coded rows are unknown to a machine without an entropy engine, computed ones to one without hash."""
    config = plain(config)
    bench = Bench(config, source)
    program, weights, records = random_program(source, config, 3)
    code = bytearray(program.code)
    unknown = INSTRUCTION.pack(op=P0.CODED if config.generator else P0.GENERATE, argument=5, count=9)
    code[6:8] = unknown.to_bytes(2, "little")
    bad = bench.store(Program(bytes(code), program.coded, program.literals))
    good = bench.store(program)

    async def run(ctx: Any) -> None:
        await bench.start(ctx, bad)
        await bench.check(ctx, weights, records, then=60)
        assert ctx.get(bench.dut.error)
        await bench.start(ctx, good)
        assert not ctx.get(bench.dut.error)
        await bench.check(ctx, weights, records, then=60)
        assert not ctx.get(bench.dut.error)

    bench.run(run, cycles=20_000)
