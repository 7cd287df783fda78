"""Host access: bytes written and read by the link, in order, beside what the residual adder reads."""

import random
from typing import Any

import numpy as np
import pytest
from kolmogate.config import MachineConfig
from kolmogate_hw.host_access import HostAccess
from kolmogate_sim.memories import random_memory, serve_reads, serve_writes
from kolmogate_sim.streams import simulate, stalls


def test_reads_and_writes(config: MachineConfig, source: random.Random) -> None:
    dut = HostAccess(config)
    memory = random_memory(source, 8 * config.columns)
    constant = 4 * config.columns  # from here on it is the residual adder's
    expected = memory.copy()
    requests, answers = [], []
    for _ in range(200):
        request = {
            "address": source.randrange(constant),
            "write": source.randrange(2),
            "data": source.randrange(256),
        }
        requests.append(request)
        if request["write"]:
            expected[request["address"]] = request["data"]
        else:
            answers.append(int(expected[request["address"]]))

    async def ask(ctx: Any) -> None:
        pauses = stalls(source)
        for request in requests:
            while next(pauses):
                await ctx.tick()
            ctx.set(dut.request.payload, request)
            ctx.set(dut.request.valid, 1)
            ready = False
            while not ready:
                _, _, ready = await ctx.tick().sample(dut.request.ready)
            ctx.set(dut.request.valid, 0)
            # The address stays until the answer is there.
            answered = request["write"]
            while not answered:
                _, _, answered = await ctx.tick().sample(dut.valid)

    async def add(ctx: Any) -> None:
        lanes, port = config.requantisers, dut.operands
        pauses = stalls(source)
        while True:
            address = source.randrange(constant, len(memory), lanes)
            ctx.set(port.request, 1)
            await ctx.tick()
            # It is looked at from the second cycle on.
            ctx.set(port.address, address)
            asked = dut.read_port.request
            granted = asked.valid & asked.ready & (asked.payload == address // config.columns)
            valid = withdrawn = False
            while not valid and not withdrawn:
                _, _, valid, value, grant = await ctx.tick().sample(port.valid, port.data, granted)
                withdrawn = grant and source.randrange(4) == 0
            if valid:
                assert value == int.from_bytes(expected[address:][:lanes].tobytes(), "little")
            while next(pauses):
                await ctx.tick()
            if valid:
                assert (ctx.get(port.valid), ctx.get(port.data)) == (1, value), "it did not stay"
                ctx.set(port.take, 1)
            else:
                ctx.set(port.request, 0)
            await ctx.tick()
            ctx.set(port.take, 0)
            if not valid:
                # The answer may be under way.
                await ctx.tick()
                await ctx.tick()
                await ctx.tick()

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

    simulate(dut, ask, listen, cycles=20_000, background=[add, reads, writes])
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize(("write", "interval"), [(1, 3), (0, 4)])
def test_pace(config: MachineConfig, write: int, interval: int, source: random.Random) -> None:
    """Granted at once, a write takes three cycles and a read four, in fast machines five."""
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
        pace = interval + (config.fast and not write)
        assert ready == [cycle % pace == 1 for cycle in range(12)]

    async def reads(ctx: Any) -> None:
        await serve_reads(ctx, dut.read_port, memory, stalls(source, 0.0))

    async def writes(ctx: Any) -> None:
        await serve_writes(ctx, dut.write_port, memory, stalls(source, 0.0))

    simulate(dut, bench, cycles=100, background=[reads, writes])
