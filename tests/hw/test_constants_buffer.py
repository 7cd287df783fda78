"""The constants buffer: every group's constants, batch by batch, ahead of their use."""

import random
from operator import itemgetter
from typing import Any

import pytest
from kolmogate.config import MachineConfig
from kolmogate.isa import CONSTANTS, store_constants
from kolmogate_hw.constants_buffer import ConstantsBuffer
from kolmogate_sim.models import random_constants, record_rows
from kolmogate_sim.streams import send_rows, simulate, stalls


@pytest.mark.parametrize("eager", [False, True])
def test_constants(config: MachineConfig, eager: bool, source: random.Random) -> None:
    """Groups of any size; ``eager`` uses and releases a group as soon as that is allowed."""
    dut = ConstantsBuffer(config)
    columns, lanes = config.columns, config.requantisers
    sizes = [1, columns, columns - 1, *(source.randrange(1, columns + 1) for _ in range(12))]
    groups = [[random_constants(source) for _ in range(size)] for size in sizes]
    rows = [row for group in groups for row in record_rows(config, [store_constants(**one) for one in group])]

    async def fill(ctx: Any) -> None:
        await send_rows(ctx, dut.i, rows, stalls(source), itemgetter("last"))

    async def use(ctx: Any) -> None:
        pauses = stalls(source, 0.0 if eager else None)
        for group in groups:
            ctx.set(dut.batch, 0)
            await ctx.tick()
            while next(pauses) or not ctx.get(dut.ready):
                await ctx.tick()
            # The batch address was given before, so its constants are here with `ready`.
            for batch in [*range(-(-len(group) // lanes)), 0]:
                if batch:
                    ctx.set(dut.batch, batch)
                    await ctx.tick()
                for q in range(min(lanes, len(group) - batch * lanes)):
                    got = CONSTANTS.unpack(ctx.get(dut.constants[q]).as_bits())
                    assert got == group[batch * lanes + q]
                ctx.set(dut.batch, 0)
                await ctx.tick()
                while next(pauses):
                    await ctx.tick()
            ctx.set(dut.release, 1)
            await ctx.tick()
            ctx.set(dut.release, 0)
        await ctx.tick()
        assert not ctx.get(dut.ready)

    simulate(dut, fill, use, cycles=20_000)
