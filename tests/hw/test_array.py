"""The array, and the compute unit with the window fetcher: sums of products, tile by tile."""

import dataclasses
import random
from collections import deque
from collections.abc import Iterator
from itertools import product, repeat
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, window_taps
from kolmogate_hw.array import MacArray
from kolmogate_hw.column_buffer import weight_row
from kolmogate_hw.compute import Compute
from kolmogate_hw.pair_fetcher import window_fetcher
from kolmogate_hw.ports import RowPort, UnalignedReadPort
from kolmogate_hw.records import struct_layout
from kolmogate_sim.groups import walk_groups
from kolmogate_sim.memories import random_memory, serve_reads
from kolmogate_sim.models import accumulate, random_layer, random_tile, random_weights, tile_sums
from kolmogate_sim.streams import send_rows, simulate, stalls

MEMORY = 1 << 12


async def drain_tile(ctx: Any, dut: Any, config: MachineConfig, pauses: Iterator[bool]) -> np.ndarray:
    """Shift a captured tile out; shape (rows, columns)."""
    values: list[int] = []
    while len(values) < config.macs:
        while next(pauses):
            await ctx.tick()
        values += list(ctx.get(dut.accumulators))
        ctx.set(dut.shift, 1)
        await ctx.tick()
        ctx.set(dut.shift, 0)
    return np.array(values).reshape(config.rows, config.columns)


def test_array(config: MachineConfig, source: random.Random) -> None:
    """Tiles follow each other at random intervals and are drained while the next is summed."""
    dut = MacArray(config)
    modes = list(product((0, 1), repeat=2))
    tiles = [
        (word_mode, unit_weights, *random_tile(source, config, taps))
        for word_mode, unit_weights in modes
        for taps in (1, 1, 2, *(source.randrange(1, 30) for _ in range(4)))
    ]
    free = True
    # Cycle in which each tile's last tap entered, until it is captured.
    entered: deque[int] = deque()

    async def feed(ctx: Any) -> None:
        nonlocal free
        pauses = stalls(source)
        cycle = 0
        previous: list[int] | None = None

        async def next_cycle(weights: list[int] | None = None) -> None:
            nonlocal cycle, previous
            # Weights come a cycle after their activations; at any other time they mean nothing.
            ctx.set(dut.weights, previous or list(source.randbytes(config.columns)))
            previous = weights
            await ctx.tick()
            cycle += 1

        mode = None
        for word_mode, unit_weights, activations, weights in tiles:
            # A mode lasts for a layer: it changes when the last tile has left.
            while mode != (word_mode, unit_weights):
                if free:
                    mode = word_mode, unit_weights
                    ctx.set(dut.word_mode, word_mode)
                    ctx.set(dut.unit_weights, unit_weights)
                await next_cycle()
            for tap in range(len(weights)):
                last = tap == len(weights) - 1
                while next(pauses) or (last and not free):
                    ctx.set(dut.valid, 0)
                    ctx.set(dut.first, source.randrange(2))
                    ctx.set(dut.last, source.randrange(2))
                    await next_cycle()
                words = activations[tap].view(np.uint8)
                # The mode not in use sees noise.
                noise = np.frombuffer(source.randbytes(words.size), np.uint8).reshape(words.shape)
                ctx.set(dut.words, (words if word_mode else noise).tolist())
                ctx.set(dut.bytes, (noise if word_mode else words)[:, 0].tolist())
                ctx.set(dut.valid, 1)
                ctx.set(dut.first, tap == 0)
                ctx.set(dut.last, last)
                if last:
                    free = False
                    entered.append(cycle)
                await next_cycle(weights[tap].view(np.uint8).tolist())
                ctx.set(dut.valid, 0)
            if config.tile_gap:
                await next_cycle()
        for _ in range(8):
            await next_cycle()

    async def drain(ctx: Any) -> None:
        nonlocal free
        pauses = stalls(source)
        for word_mode, unit_weights, activations, weights in tiles:
            while not ctx.get(dut.captured):
                await ctx.tick()
            await ctx.tick()
            expected = tile_sums(activations, weights, word_mode=word_mode, unit_weights=unit_weights)
            np.testing.assert_array_equal(await drain_tile(ctx, dut, config, pauses), expected)
            free = True

    async def time_captures(ctx: Any) -> None:
        cycle = 0
        async for _, _, seen in ctx.tick().sample(dut.captured):
            if seen:
                assert entered.popleft() == cycle - config.capture_latency + 1
            cycle += 1

    simulate(dut, feed, drain, cycles=20_000, background=[time_captures])
    assert not entered


class Fetching(wiring.Component):
    """A window fetcher feeding a compute unit, as in the core."""

    weights: wiring.PureInterface
    start: Signal
    captured: Signal
    drained: Signal
    shift: Signal
    next_group: Signal
    group_base: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        accumulators = data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "ports": Out(UnalignedReadPort(config)).array(config.scratchpad_ports),
                "weights": In(RowPort(config, weight_row(config))),
                "captured": Out(1),
                "drained": In(1),
                "shift": In(1),
                "accumulators": Out(accumulators),
                "next_group": Out(1),
                "group_base": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetcher = fetcher = window_fetcher(self.config)
        m.submodules.compute = compute = Compute(self.config)
        for inner, outer in zip(fetcher.ports, self.ports, strict=True):
            wiring.connect(m, inner, wiring.flipped(outer))
        wiring.connect(m, wiring.flipped(self.weights), compute.weights)
        m.d.comb += [
            fetcher.start.eq(self.start),
            fetcher.descriptor.eq(self.descriptor),
            fetcher.pop.eq(compute.pop),
            compute.descriptor.eq(self.descriptor),
            *(inner.eq(outer) for inner, outer in zip(compute.push, fetcher.push, strict=True)),
            *(inner.eq(outer) for inner, outer in zip(compute.run, fetcher.run, strict=True)),
            compute.drained.eq(self.drained),
            compute.shift.eq(self.shift),
            self.next_group.eq(fetcher.next_group),
            self.group_base.eq(fetcher.group_base),
            self.captured.eq(compute.captured),
            self.accumulators.eq(compute.accumulators),
        ]
        return m


def run_layers(
    config: MachineConfig, layers: list[dict[str, int]], source: random.Random, *, stalled: bool = True
) -> int:
    """Execute the layers one after the other against the golden model; cycles taken."""
    dut = Fetching(config)
    memory = random_memory(source, MEMORY)
    weights = [random_weights(source, config, layer) for layer in layers]
    cycles = 0

    def pauses() -> Iterator[bool]:
        return stalls(source) if stalled else repeat(False)

    async def decode(ctx: Any) -> None:
        # The decoder does not know of layers: it fills the column buffers as far as they go.
        rows = [
            row.view(np.uint8).tolist() for values in weights for row in values.reshape(-1, config.columns)
        ]
        await send_rows(ctx, dut.weights, rows, pauses())

    async def bench(ctx: Any) -> None:
        nonlocal cycles
        draining = pauses()
        for layer, values in zip(layers, weights, strict=True):
            ctx.set(dut.descriptor, layer)
            await ctx.tick()
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for positions in accumulate(config, layer, memory, values):
                for first in range(0, len(positions), config.rows):
                    expected = positions[first : first + config.rows]
                    while not ctx.get(dut.captured):
                        await ctx.tick()
                        cycles += 1
                    await ctx.tick()
                    cycles += 1
                    tile = await drain_tile(ctx, dut, config, draining)
                    np.testing.assert_array_equal(tile[: len(expected)], expected)
                    ctx.set(dut.drained, 1)
                    await ctx.tick()
                    ctx.set(dut.drained, 0)
                    cycles += config.macs // config.requantisers + 1

    def serving(port: Any) -> Any:
        async def serve(ctx: Any) -> None:
            await serve_reads(ctx, port, memory, pauses())

        return serve

    async def walk(ctx: Any) -> None:
        await walk_groups(ctx, dut, config.columns)

    background = [walk, *(serving(port) for port in dut.ports)]
    simulate(dut, decode, bench, cycles=50_000, background=background)
    return cycles


def test_layers_back_to_back(config: MachineConfig, source: random.Random) -> None:
    """Layers in both modes; some stream their weights, so that they may be deeper than the column buffer."""
    config = dataclasses.replace(config, column_buffer_depth=64)
    shapes = [{"word_mode": 1}, {"word_mode": 0, "run": source.randrange(1, 17)}]
    weights = [dict.fromkeys(names, 1) for names in (("unit_weights",), ("stream_weights",), ())]
    weights.append({**weights[0], **weights[1]})
    kinds = [{**shape, **kind} for shape, kind in product(shapes, weights)]
    kinds.append({"word_mode": 0, "run": 20, "stream_weights": 1, "x_count": config.rows + 1, "y_count": 1})
    source.shuffle(kinds)
    layers = []
    for kind in kinds:
        channels = source.randrange(1, 2 * config.columns)
        layer = {"inner_count": 2, "outer_count": 2, "y_count": 2, "channels": channels, **kind}
        layers.append(random_layer(source, config, MEMORY, **layer))
    run_layers(config, layers, source)


def test_a_tap_a_cycle(config: MachineConfig, source: random.Random) -> None:
    """Aligned byte-mode layers lose less than 5 % of the cycles once under way."""
    config = dataclasses.replace(config, column_buffer_depth=1024)
    steps = {"input_step": config.columns, "outer_wrap": config.columns, "inner_step": config.columns}
    layer = random_layer(
        source,
        config,
        MEMORY,
        word_mode=0,
        run=4 * config.columns,
        outer_count=1,
        inner_count=3,
        x_count=2 * config.rows,
        y_count=1,
        channels=config.columns,
        **steps,
    )
    layer["input_base"] = layer["input_base"] // config.columns * config.columns
    ideal = 2 * window_taps(layer)
    cycles = run_layers(config, [layer], source, stalled=False)
    assert ideal <= cycles <= 1.05 * ideal + 18
