"""The filler: lines of a constant byte, with nothing else touched."""

import random
from typing import Any

import numpy as np
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, FILL, Opcode
from kolmogate_hw.filler import Filler
from kolmogate_sim.memories import random_memory, serve_writes
from kolmogate_sim.models import fill
from kolmogate_sim.streams import simulate, stalls

MEMORY = 1 << 12


def descriptor(base: int, run: int, step: int = 0, lines: int = 1, value: int = 0) -> dict[str, int]:
    return FILL.unpack(
        FILL.pack(
            opcode=Opcode.FILL,
            output_base=base,
            output_step=step % (1 << ADDRESS_BITS),
            run=run,
            y_count=lines,
            zero_point=value,
        )
    )


def random_fill(source: random.Random) -> dict[str, int]:
    run, lines = source.choice((1, 5, 16, source.randrange(1, 150))), source.randrange(1, 8)
    step = source.randrange(-300, 301)
    reach = step * (lines - 1)
    base = source.randrange(max(0, -reach), MEMORY - run - max(0, reach) + 1)
    return descriptor(base, run, step, lines, source.randrange(-128, 128))


CORNERS = {
    "one byte": (13, 1),
    "last byte of a word": (15, 1),
    "within a word": (17, 5),
    "one word": (64, 16),
    "word boundary": (31, 2),
    "whole memory": (0, MEMORY),
}


def test_fills_back_to_back(config: MachineConfig, source: random.Random) -> None:
    layers = {
        name: descriptor(base, run, value=source.randrange(-128, 128))
        for name, (base, run) in CORNERS.items()
    }
    layers |= {f"random {count}": random_fill(source) for count in range(12)}
    dut = Filler(config)
    memory = random_memory(source, MEMORY)
    expected = memory.copy()
    written: list[int] = []

    async def bench(ctx: Any) -> None:
        for name, layer in source.sample(sorted(layers.items()), len(layers)):
            fill(layer, expected)
            written.clear()
            ctx.set(dut.descriptor, layer)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            # The descriptor need not stay.
            ctx.set(dut.descriptor, FILL.unpack(source.getrandbits(FILL.bits)))
            assert ctx.get(dut.busy)
            while ctx.get(dut.busy):
                await ctx.tick()
            np.testing.assert_array_equal(memory, expected, err_msg=name)
            writes = 0
            for line in range(layer["y_count"]):
                first = (layer["output_base"] + line * layer["output_step"]) % (1 << ADDRESS_BITS)
                end = first + layer["run"]
                words = max(0, end // config.columns - -(-first // config.columns))
                writes += layer["run"] - words * (config.columns - 1)
            assert len(written) == writes, name

    async def accept(ctx: Any) -> None:
        await serve_writes(ctx, dut.port, memory, stalls(source), written)

    simulate(dut, bench, cycles=50_000, background=[accept])
