"""The column buffer: every tile sees the rows of its group, however the decoder and the array move."""

import dataclasses
import random
from typing import Any

import pytest
from kolmogate.config import MachineConfig
from kolmogate_hw.column_buffer import ColumnBuffer
from kolmogate_sim.streams import send_rows, simulate, stalls

DEPTH = 16


@pytest.fixture
def shallow(config: MachineConfig) -> MachineConfig:
    return dataclasses.replace(config, column_buffer_depth=DEPTH)


def random_row(config: MachineConfig, source: random.Random) -> list[int]:
    return list(source.randbytes(config.columns))


def test_groups_and_streams(shallow: MachineConfig, source: random.Random) -> None:
    """Groups as deep as the buffer and shallower, replayed; and streams that are deeper, used once."""
    dut = ColumnBuffer(shallow)
    plan = [(DEPTH, 2, False), (1, 3, False), (1, 1, True), (3 * DEPTH, 1, True)]
    plan += [
        (source.randrange(1, DEPTH + 1), source.randrange(1, 5), source.random() < 0.2) for _ in range(12)
    ]
    groups = [[random_row(shallow, source) for _ in range(taps)] for taps, _, _ in plan]

    async def fill(ctx: Any) -> None:
        await send_rows(ctx, dut.i, [row for group in groups for row in group], stalls(source))

    async def take(ctx: Any) -> None:
        pauses = stalls(source)
        for rows, (taps, tiles, streamed) in zip(groups, plan, strict=True):
            for tile in range(1 if streamed else tiles):
                for tap, row in enumerate(rows):
                    while next(pauses) or not ctx.get(dut.available):
                        # Without a step these mean nothing.
                        ctx.set(dut.rewind, source.randrange(2))
                        ctx.set(dut.release, source.randrange(2))
                        await ctx.tick()
                    last = tap == taps - 1
                    ctx.set(dut.rewind, last)
                    ctx.set(dut.release, streamed or (last and tile == tiles - 1))
                    ctx.set(dut.step, 1)
                    await ctx.tick()
                    ctx.set(dut.step, 0)
                    assert list(ctx.get(dut.row)) == row
        assert not ctx.get(dut.available)

    simulate(dut, fill, take, cycles=30_000)


def test_holds_its_depth_and_no_more(shallow: MachineConfig, source: random.Random) -> None:
    dut = ColumnBuffer(shallow)
    rows = [random_row(shallow, source) for _ in range(DEPTH + 1)]

    async def bench(ctx: Any) -> None:
        for row in rows[:DEPTH]:
            ctx.set(dut.i.reserve, 0)
            assert ctx.get(dut.i.room)
            ctx.set(dut.i.row, row)
            ctx.set(dut.i.reserve, 1)
            ctx.set(dut.i.write, 1)
            await ctx.tick()
        ctx.set(dut.i.reserve, 0)
        ctx.set(dut.i.write, 0)
        # Taking rows frees nothing until they are released.
        for row in rows[:DEPTH]:
            assert not ctx.get(dut.i.room)
            ctx.set(dut.step, 1)
            ctx.set(dut.release, row is rows[DEPTH - 1])
            await ctx.tick()
            assert list(ctx.get(dut.row)) == row
        ctx.set(dut.step, 0)
        if not shallow.fast:
            assert not ctx.get(dut.i.room)
            await ctx.tick()
        assert ctx.get(dut.i.room)
        assert not ctx.get(dut.available)
        ctx.set(dut.i.reserve, 1)
        await ctx.tick()
        ctx.set(dut.i.reserve, 0)
        ctx.set(dut.i.row, rows[DEPTH])
        ctx.set(dut.i.write, 1)
        await ctx.tick()
        ctx.set(dut.i.write, 0)
        # What was written can be taken a cycle later.
        await ctx.tick()
        assert ctx.get(dut.available)

    simulate(dut, bench, cycles=100)
