"""The constants buffer: every group's constants, batch by batch, ahead of their use."""

import random
from typing import Any

import numpy as np
import pytest
from kolmogate.config import MachineConfig
from kolmogate.isa import CONSTANTS, DESCRIPTOR
from kolmogate_hw.constants_buffer import ConstantsBuffer
from kolmogate_sim.memories import serve_reads
from kolmogate_sim.streams import simulate, stalls


@pytest.mark.parametrize("eager", [False, True])
def test_constants(config: MachineConfig, eager: bool, source: random.Random) -> None:
    """Layers back to back; ``eager`` uses and releases a group as soon as that is allowed."""
    dut = ConstantsBuffer(config)
    columns, lanes = config.columns, config.requantisers
    records = [source.getrandbits(CONSTANTS.bits) for _ in range(8 * columns)]
    memory = np.frombuffer(b"".join(record.to_bytes(8, "little") for record in records), np.uint8).copy()
    layers = []
    for channels in (1, columns, columns + 1, 4 * columns, source.randrange(1, 4 * columns), 3 * columns - 1):
        groups = -(-channels // columns)
        # Records of a layer start at a whole word, 8 columns of a group at 8 words.
        first = source.randrange(len(records) - groups * columns + 1) // columns * columns
        base = 8 * first
        layers.append((first, DESCRIPTOR.unpack(DESCRIPTOR.pack(channels=channels, constants_base=base))))

    async def use(ctx: Any) -> None:
        pauses = stalls(source, 0.0 if eager else None)
        for first, layer in layers:
            ctx.set(dut.descriptor, layer)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for group in range(-(-layer["channels"] // columns)):
                ctx.set(dut.batch, 0)
                await ctx.tick()
                while next(pauses) or not ctx.get(dut.ready):
                    await ctx.tick()
                # The batch address was given before, so its constants are here with `ready`.
                for batch in [*range(dut.batches), 0]:
                    if batch:
                        ctx.set(dut.batch, batch)
                        await ctx.tick()
                    for q in range(lanes):
                        record = records[first + group * columns + batch * lanes + q]
                        assert ctx.get(dut.constants[q]).as_bits() == record
                    ctx.set(dut.batch, 0)
                    await ctx.tick()
                    while next(pauses):
                        await ctx.tick()
                ctx.set(dut.release, 1)
                await ctx.tick()
                ctx.set(dut.release, 0)
            await ctx.tick()
            assert not ctx.get(dut.ready)
            assert not ctx.get(dut.port.request.valid)

    async def serve(ctx: Any) -> None:
        await serve_reads(ctx, dut.port, memory, stalls(source))

    monitors = simulate(dut, use, cycles=20_000, background=[serve])
    words = sum(8 * -(-layer["channels"] // columns) for _, layer in layers)
    assert monitors["port.request"].transfers == words
