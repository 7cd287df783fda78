"""The filler: lines of a constant byte, with nothing else touched."""

import random
from typing import Any

import numpy as np
from kolmogate.config import MachineConfig
from kolmogate.isa import FILL, FILL_BITS, FILL_UNIT, Opcode
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
            output_step=step % (1 << FILL_BITS),
            run=run,
            y_count=lines,
            zero_point=value,
        )
    )


def random_fill(source: random.Random) -> dict[str, int]:
    run, lines = source.choice((1, 2, source.randrange(1, 20))), source.randrange(1, 8)
    step = source.randrange(-40, 41)
    reach = (run + step) * (lines - 1)
    base = source.randrange(max(0, -reach), MEMORY // FILL_UNIT - run - max(0, reach) + 1)
    return descriptor(base, run, step, lines, source.randrange(-128, 128))


CORNERS = {
    "one unit": (1, 1),
    "within a word": (9, 2),
    "one word": (8, 8),
    "word boundary": (3, 2),
    "whole memory": (0, MEMORY // FILL_UNIT),
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
            if config.scratchpad_ports == 2:
                # The descriptor need not stay.
                ctx.set(dut.descriptor, FILL.unpack(source.getrandbits(FILL.bits)))
            assert ctx.get(dut.busy)
            while ctx.get(dut.busy):
                await ctx.tick()
            np.testing.assert_array_equal(memory, expected, err_msg=name)
            writes, units = 0, config.columns // FILL_UNIT
            for line in range(layer["y_count"]):
                first = layer["output_base"] + line * (layer["run"] + layer["output_step"])
                first = first % (1 << FILL_BITS)
                end = first + layer["run"]
                words = max(0, end // units - -(-first // units))
                writes += end - first - words * (units - 1)
            assert len(written) == writes, name

    async def accept(ctx: Any) -> None:
        await serve_writes(ctx, dut.port, memory, stalls(source), written)

    simulate(dut, bench, cycles=50_000, background=[accept])
