"""The weight decoder: the rows that the golden decoder makes, however memory and array are stalled."""

import random
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from kolmogate.config import MachineConfig
from kolmogate.isa import INSTRUCTION, P0
from kolmogate.programs.p0 import Instruction, Program, assemble, literal_program
from kolmogate_hw.lanes import LiteralLanes, WeightDecoder
from kolmogate_sim.memories import random_memory, serve_reads
from kolmogate_sim.streams import StreamMonitor, collect, simulate, stalls


def random_program(
    source: random.Random, columns: int, instructions: int, longest: int = 12
) -> tuple[Program, np.ndarray]:
    """A program of random instructions, its literals using the whole range of their bits, and its rows."""
    program, rows = [], []
    for _ in range(instructions):
        count, bits = source.randrange(1, longest + 1), source.randrange(9)
        program.append(Instruction(P0.LITERAL if bits else P0.ZERO, count, bits))
        low, high = (-(1 << bits - 1), 1 << bits - 1) if bits else (0, 1)
        rows += [[source.randrange(low, high) for _ in range(columns)] for _ in range(count)]
    weights = np.array(rows, np.int8).reshape(-1, columns)
    return assemble(program, weights, columns), weights


class Bench:
    """A decoder between a memory, into which programs are put, and a consumer that checks its rows."""

    def __init__(self, config: MachineConfig, source: random.Random, stalled: bool = True) -> None:
        self.config = config
        self.source = source
        self.dut = WeightDecoder(config)
        self.memory = random_memory(source, 1 << 14)
        self.end = 0
        self.probability = None if stalled else 0.0

    def store(self, program: Program) -> dict[str, int]:
        """Put a program into the memory behind the last; the word addresses of its streams."""
        bases = {}
        for name in ("code", "literals"):
            stream = np.frombuffer(getattr(program, name), np.uint8)
            bases[name] = self.end // self.config.columns
            self.memory[self.end : self.end + len(stream)] = stream
            self.end += len(stream)
        assert self.end + LiteralLanes.WORDS * self.config.columns <= len(self.memory)
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

    async def check(self, ctx: Any, weights: np.ndarray, then: int = 0) -> None:
        """Take these rows, and make sure that none follows within ``then`` cycles."""
        taken = 0
        if len(weights):
            async for row in collect(ctx, self.dut.o, stalls(self.source, self.probability)):
                got = np.array(list(row)).astype(np.uint8).view(np.int8)
                assert got.tolist() == weights[taken].tolist(), f"row {taken}"
                taken += 1
                if taken == len(weights):
                    break
        for _ in range(then):
            _, _, valid = await ctx.tick().sample(self.dut.o.valid)
            assert not valid, "a row beyond the end of the program"

    def memories(self) -> list[Any]:
        """Background benches that answer the decoder's reads."""

        def answering(name: str) -> Any:
            async def answer(ctx: Any) -> None:
                pauses = stalls(self.source, self.probability)
                await serve_reads(ctx, getattr(self.dut, name), self.memory, pauses)

            return answer

        return [answering(name) for name in ("code_port", "literal_port")]

    def run(self, bench: Any, cycles: int) -> None:
        simulate(self.dut, bench, cycles=cycles, background=self.memories())


def test_random_programs(config: MachineConfig, source: random.Random) -> None:
    bench = Bench(config, source)
    programs = [random_program(source, config.columns, 25) for _ in range(3)]
    programs.append((assemble([], np.zeros((0, config.columns), np.int8), config.columns), []))

    async def run(ctx: Any) -> None:
        for program, weights in programs:
            await bench.start(ctx, bench.store(program))
            await bench.check(ctx, weights, then=60)
            assert not ctx.get(bench.dut.error)

    bench.run(run, cycles=20_000)


def test_longest_instructions(config: MachineConfig, source: random.Random) -> None:
    bench = Bench(config, source, stalled=False)
    weights = np.zeros((4100, config.columns), np.int8)
    weights[2050:] = -1
    program = assemble(literal_program(weights), weights, config.columns)

    async def run(ctx: Any) -> None:
        await bench.start(ctx, bench.store(program))
        await bench.check(ctx, weights, then=20)

    bench.run(run, cycles=6000)


def test_a_row_a_cycle(config: MachineConfig, source: random.Random) -> None:
    """Without stalls nothing is lost between instructions of eight rows, even of eight bits."""
    bench = Bench(config, source, stalled=False)
    instructions = [Instruction(P0.LITERAL, 8, bits) for bits in (8, 8, 1, 8, 3, 8)]
    instructions.insert(3, Instruction(P0.ZERO, 8))
    weights = np.zeros((8 * len(instructions), config.columns), np.int8)
    program = assemble(instructions, weights, config.columns)
    first = last = 0

    async def run(ctx: Any) -> None:
        nonlocal first, last
        await bench.start(ctx, bench.store(program))
        ctx.set(bench.dut.o.ready, 1)
        cycle = rows = 0
        while rows < len(weights):
            cycle += 1
            _, _, valid = await ctx.tick().sample(bench.dut.o.valid)
            if valid:
                first, last = first or cycle, cycle
                rows += 1

    bench.run(run, cycles=200)
    assert first == 7
    assert last - first + 1 == len(weights)


def test_start_abandons_what_runs(config: MachineConfig, source: random.Random) -> None:
    """Started again at any moment, the decoder makes the new program's rows and no others."""
    bench = Bench(config, source)
    dut = bench.dut
    programs = [random_program(source, config.columns, 6) for _ in range(6)]
    stored = [(bench.store(program), weights.tolist()) for program, weights in programs]
    rows = 0

    async def check(ctx: Any) -> None:
        nonlocal rows
        pauses = stalls(source)
        for _ in range(100):
            bases, weights = source.choice(stored)
            expected = iter(weights)
            ctx.set(dut.o.ready, 0)
            await bench.start(ctx, bases)
            # The start may withdraw what was offered, so that each run has its own monitor.
            monitor = StreamMonitor("o")
            for _ in range(source.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 20, 50])):
                ctx.set(dut.o.ready, not next(pauses))
                _, _, valid, ready, row = await ctx.tick().sample(dut.o.valid, dut.o.ready, dut.o.payload)
                monitor.observe(valid, ready, row)
                if valid and ready:
                    assert np.array(list(row)).astype(np.uint8).view(np.int8).tolist() == next(expected)
                    rows += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for memory in bench.memories():
        simulator.add_testbench(memory, background=True)
    simulator.add_testbench(check)
    simulator.run()
    assert rows > 100


def test_unknown_instruction(config: MachineConfig, source: random.Random) -> None:
    bench = Bench(config, source)
    program, weights = random_program(source, config.columns, 3)
    code = bytearray(program.code)
    unknown = INSTRUCTION.pack(op=2, argument=5, count=9)
    code[6:8] = unknown.to_bytes(2, "little")
    bad = bench.store(Program(bytes(code), program.literals))
    good = bench.store(program)

    async def run(ctx: Any) -> None:
        await bench.start(ctx, bad)
        await bench.check(ctx, weights, then=60)
        assert ctx.get(bench.dut.error)
        await bench.start(ctx, good)
        assert not ctx.get(bench.dut.error)
        await bench.check(ctx, weights, then=60)
        assert not ctx.get(bench.dut.error)

    bench.run(run, cycles=5000)
