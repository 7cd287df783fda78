"""Positions and the writer: outputs in draining order end up in their places, with nothing else touched."""

import random
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from kolmogate.config import MachineConfig
from kolmogate.machine_arithmetic import requantiser_interval
from kolmogate_hw.positions import BatchCounter
from kolmogate_hw.raster import RasterWalk
from kolmogate_hw.writer import OutputWriter
from kolmogate_sim.memories import random_memory, serve_writes
from kolmogate_sim.models import groups, positions, random_layer, store
from kolmogate_sim.streams import drive, simulate, stalls

MEMORY = 1 << 13

CORNERS: dict[str, dict[str, Any]] = {
    "random": {},
    "two lines": {"y_count": 2},
    "one output": {"x_count": 1, "y_count": 1, "channels": 1},
    "x_count 1": {"x_count": 1, "y_count": 7},
    "one group exactly": {"channels": lambda config: config.columns},
    "one channel more than a group": {"channels": lambda config: config.columns + 1},
    "one batch": {"channels": lambda config: config.requantisers},
}


@pytest.fixture
def layers(config: MachineConfig, source: random.Random) -> dict[str, dict[str, int]]:
    """The corners in random order."""
    return {
        corner: random_layer(
            source,
            config,
            MEMORY,
            **{field: value(config) if callable(value) else value for field, value in fixed.items()},
        )
        for corner, fixed in source.sample(sorted(CORNERS.items()), len(CORNERS))
    }


def batches(config: MachineConfig, layer: dict[str, int]) -> Iterator[tuple[int, int, int, int]]:
    """(group, position, batch, live channels from this batch on), in the order of draining."""
    for group in range(groups(config, layer)):
        for position in range(layer["x_count"] * layer["y_count"]):
            left = layer["channels"] - group * config.columns
            for batch in range(-(-min(left, config.columns) // config.requantisers)):
                yield group, position, batch, left - batch * config.requantisers


def paced(config: MachineConfig, layer: dict[str, int], source: random.Random) -> Iterator[bool]:
    """Stalls, one of them in front of each group, or batch where the requantisers leave a cycle free."""
    pauses = stalls(source)
    for _, position, batch, _ in batches(config, layer):
        if requantiser_interval(config) > 1 or (position, batch) == (0, 0):
            yield True
        while next(pauses):
            yield True
        yield False


def test_counter(config: MachineConfig, layers: dict[str, dict[str, int]], source: random.Random) -> None:
    dut = Module()
    dut.submodules.batches = counter = BatchCounter(config)
    dut.submodules.raster = raster = RasterWalk()
    start = Signal()
    dut.d.comb += [
        counter.start.eq(start),
        raster.x_count.eq(counter.descriptor.x_count),
        raster.y_count.eq(counter.descriptor.y_count),
        raster.start.eq(start | (counter.next_position & raster.end)),
        raster.step.eq(counter.next_position),
        counter.group_end.eq(raster.end),
    ]

    async def bench(ctx: Any) -> None:
        for layer in layers.values():
            pauses = paced(config, layer, source)
            ctx.set(counter.descriptor, layer)
            ctx.set(start, 1)
            await ctx.tick()
            ctx.set(start, 0)
            count = layer["x_count"] * layer["y_count"]
            for group, position, batch, live in batches(config, layer):
                while next(pauses):
                    await ctx.tick()
                last_batch = batch == config.columns // config.requantisers - 1 or live <= config.requantisers
                assert ctx.get(counter.batch) == batch
                assert ctx.get(counter.last.live) == (1 << min(live, config.requantisers)) - 1
                assert ctx.get(counter.last.batch) == last_batch
                assert ctx.get(raster.line_end) == (position % layer["x_count"] == layer["x_count"] - 1)
                assert ctx.get(raster.end) == (position == count - 1)
                assert ctx.get(counter.last.group) == (group == groups(config, layer) - 1)
                ctx.set(counter.next_batch, not last_batch)
                ctx.set(counter.next_position, last_batch)
                await ctx.tick()
                ctx.set(counter.next_batch, 0)
                ctx.set(counter.next_position, 0)

    simulate(dut, bench, cycles=20_000)


class Prompt(wiring.Component):
    """The writer of a machine where a batch is accepted as it comes."""

    def __init__(self, config: MachineConfig) -> None:
        self.writer = OutputWriter(config)
        ports = self.writer.signature.members
        names = ("start", "descriptor", "next_group", "group_base", "i", "port", "done")
        super().__init__({name: ports[name] for name in names})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.writer = writer = self.writer
        wiring.connect(m, wiring.flipped(self.i), writer.i)
        wiring.connect(m, writer.port, wiring.flipped(self.port))
        m.d.comb += [
            writer.start.eq(self.start),
            writer.descriptor.eq(self.descriptor),
            writer.accept.eq(writer.i.valid),
            self.next_group.eq(writer.next_group),
            self.group_base.eq(writer.group_base),
            self.done.eq(writer.done),
        ]
        return m


def test_writer(config: MachineConfig, layers: dict[str, dict[str, int]], source: random.Random) -> None:
    dut = Prompt(config)
    memory = random_memory(source, MEMORY)
    expected = memory.copy()
    written: list[int] = []
    lanes = config.requantisers

    async def bench(ctx: Any) -> None:
        for name, layer in layers.items():
            shape = (groups(config, layer), layer["x_count"] * layer["y_count"], config.columns)
            outputs = np.frombuffer(source.randbytes(int(np.prod(shape))), np.int8).reshape(shape)
            store(config, layer, outputs, expected)
            ctx.set(dut.descriptor, layer)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            payloads = [
                outputs[group, position, batch * lanes :][:lanes].view(np.uint8).tolist()
                for group, position, batch, _ in batches(config, layer)
            ]
            written.clear()
            await drive(ctx, dut.i, payloads, paced(config, layer, source))
            # The word, then `done`.
            assert not ctx.get(dut.done)
            await ctx.tick()
            assert ctx.get(dut.done)
            np.testing.assert_array_equal(memory, expected, err_msg=name)
            # What is written together of each position once, and nothing else.
            assert len(written) == sum(
                (start + first + min(config.columns, layer["channels"] - first) - 1) // config.written_bytes
                - (start + first) // config.written_bytes
                + 1
                for first in range(0, layer["channels"], config.columns)
                for start in positions(layer, "output").tolist()
            )

    async def accept(ctx: Any) -> None:
        await serve_writes(ctx, dut.port, memory, repeat(False), written)

    async def walk(ctx: Any) -> None:
        async for _, _, moves, base in ctx.tick().sample(dut.next_group, dut.group_base):
            if moves:
                ctx.set(dut.descriptor.output_base, base)

    async def count_done(ctx: Any) -> None:
        # Until all layers were written, `done` is high once for each.
        seen = 0
        async for _, _, done in ctx.tick().sample(dut.done):
            seen += done
            assert seen <= len(layers)

    simulate(dut, bench, cycles=20_000, background=[accept, walk, count_done])
