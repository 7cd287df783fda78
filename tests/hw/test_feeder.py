"""The row feeder: the bytes of every run, in order, whatever the pushes and steps."""

import random
from typing import Any

import pytest
from kolmogate.config import MachineConfig
from kolmogate.isa import WORD_GRAIN
from kolmogate_hw.feeder import RowFeeder
from kolmogate_sim.streams import simulate, stalls


@pytest.mark.parametrize("word_mode", [0, 1])
def test_feeder(config: MachineConfig, word_mode: int, source: random.Random) -> None:
    dut = RowFeeder(config)
    columns = config.columns
    runs = []
    for _ in range(300):
        start = 0 if word_mode else source.randrange(WORD_GRAIN)
        last = (
            columns - 1
            if word_mode
            else source.choice((start, source.randrange(start, columns), columns - 1))
        )
        runs.append(
            {
                "start": start,
                "last": last,
                "window_end": source.randrange(2),
                "final_tile": source.randrange(2),
                "last_row": source.randrange(config.rows),
                "word": source.getrandbits(8 * columns),
            }
        )
    expected = []
    for run in runs:
        bytes_ = run["word"].to_bytes(columns, "little")[run["start"] : run["last"] + 1]
        if word_mode:
            expected.append((run["word"], run["window_end"], run["final_tile"], True))
        for place, value in enumerate(bytes_ if not word_mode else b""):
            at_last = place == len(bytes_) - 1
            expected.append((value, run["window_end"] & at_last, run["final_tile"], at_last))
    room = config.feeder_depth

    async def push(ctx: Any) -> None:
        nonlocal room
        pauses = stalls(source)
        ctx.set(dut.word_mode, word_mode)
        for run in runs:
            while next(pauses) or not room:
                ctx.set(dut.push, 0)
                await ctx.tick()
            room -= 1
            ctx.set(dut.push, 1)
            ctx.set(dut.run, run)
            await ctx.tick()
        ctx.set(dut.push, 0)

    async def step(ctx: Any) -> None:
        nonlocal room
        pauses = stalls(source)
        for value, window_end, final_tile, at_last in expected:
            while next(pauses) or not ctx.get(dut.valid):
                ctx.set(dut.step, 0)
                await ctx.tick()
            assert ctx.get(dut.word if word_mode else dut.byte) == value
            assert ctx.get(dut.window_end) == window_end
            assert ctx.get(dut.final_tile) == final_tile
            ctx.set(dut.step, 1)
            assert ctx.get(dut.pop) == at_last
            await ctx.tick()
            room += at_last
        ctx.set(dut.step, 0)
        await ctx.tick()
        assert not ctx.get(dut.valid)

    simulate(dut, push, step, cycles=20 * len(expected) + 1000)
