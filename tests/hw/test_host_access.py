"""Host access: bytes written and read by the link, in order."""

import random
from typing import Any

import numpy as np
import pytest
from kolmogate.config import MachineConfig
from kolmogate_hw.host_access import HostAccess
from kolmogate_sim.memories import random_memory, serve_reads, serve_writes
from kolmogate_sim.streams import drive, simulate, stalls


def test_reads_and_writes(config: MachineConfig, source: random.Random) -> None:
    dut = HostAccess(config)
    memory = random_memory(source, 4 * config.columns)
    expected = memory.copy()
    requests, answers = [], []
    for _ in range(200):
        request = {
            "address": source.randrange(len(memory)),
            "write": source.randrange(2),
            "data": source.randrange(256),
        }
        requests.append(request)
        if request["write"]:
            expected[request["address"]] = request["data"]
        else:
            answers.append(int(expected[request["address"]]))

    async def ask(ctx: Any) -> None:
        await drive(ctx, dut.request, requests, stalls(source))

    async def listen(ctx: Any) -> None:
        for answer in answers:
            while not ctx.get(dut.valid):
                await ctx.tick()
            assert ctx.get(dut.data) == answer
            await ctx.tick()
        for _ in range(10):
            assert not ctx.get(dut.valid), "an answer nobody asked for"
            await ctx.tick()

    async def reads(ctx: Any) -> None:
        await serve_reads(ctx, dut.read_port, memory, stalls(source))

    async def writes(ctx: Any) -> None:
        await serve_writes(ctx, dut.write_port, memory, stalls(source))

    simulate(dut, ask, listen, cycles=20_000, background=[reads, writes])
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize(("write", "interval"), [(1, 1), (0, 3)])
def test_pace(config: MachineConfig, write: int, interval: int, source: random.Random) -> None:
    """Granted at once, a write takes one cycle, in fast machines two, and a read three."""
    dut = HostAccess(config)
    memory = random_memory(source, 4 * config.columns)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.request.payload, {"address": 1, "write": write, "data": 0})
        ctx.set(dut.request.valid, 1)
        await ctx.tick()
        ready = []
        for _ in range(12):
            _, _, taken = await ctx.tick().sample(dut.request.ready)
            ready.append(taken)
        assert sum(ready) == 12 // (interval + (config.fast and write))

    async def reads(ctx: Any) -> None:
        await serve_reads(ctx, dut.read_port, memory, stalls(source, 0.0))

    async def writes(ctx: Any) -> None:
        await serve_writes(ctx, dut.write_port, memory, stalls(source, 0.0))

    simulate(dut, bench, cycles=100, background=[reads, writes])
