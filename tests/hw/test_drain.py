"""The drain: from the array's shadow registers to int8 outputs in the scratchpad."""

import random
from itertools import repeat
from operator import itemgetter
from typing import Any

import numpy as np
from kolmogate.config import MachineConfig, configuration
from kolmogate.feeders import tile_writes
from kolmogate.isa import SHIFTS, store_constants
from kolmogate.machine_arithmetic import requantise, requantiser_interval
from kolmogate_hw.drain import Drain
from kolmogate_sim.memories import random_memory, serve_writes
from kolmogate_sim.models import groups, random_layer, record_rows, store
from kolmogate_sim.streams import send_rows, simulate, stalls

MEMORY = 1 << 13

CORNERS: dict[str, dict[str, Any]] = {
    "random": {},
    "two lines": {"y_count": 2},
    "one output": {"x_count": 1, "y_count": 1, "channels": 1},
    "x_count 1": {"x_count": 1, "y_count": 5},
    "one group exactly": {"channels": lambda config: config.columns},
    "one channel more than a group": {"channels": lambda config: config.columns + 1},
    "one batch": {"channels": lambda config: config.requantisers},
}


class Outputs:
    """A layer's random accumulators and constants, and the outputs that follow from them."""

    def __init__(self, config: MachineConfig, source: random.Random, **fixed: int) -> None:
        low, high = sorted((source.randrange(-128, 128), source.randrange(-128, 128)))
        self.layer = layer = random_layer(
            source,
            config,
            MEMORY,
            single_rounding=source.randrange(2),
            zero_point=source.randrange(-128, 128),
            minimum=low,
            maximum=high,
            **fixed,
        )
        self.config, self.columns = config, config.columns
        self.groups = groups(config, layer)
        self.positions = layer["x_count"] * layer["y_count"]
        channels = self.groups * config.columns
        # Accumulators of any size, and scales that bring them near the range of an output.
        bits = [source.randrange(8, config.accumulator_bits) for _ in range(channels)]
        sizes = np.array([1 << b for b in bits]).reshape(self.groups, 1, config.columns)
        spread = [source.uniform(-1, 1) for _ in range(self.positions * channels)]
        shape = (self.groups, self.positions, config.columns)
        self.accumulators = (np.array(spread).reshape(shape) * sizes).astype(np.int64)
        self.constants = [
            {
                "bias": source.randrange(-1 << b, 1 << b),
                "multiplier": source.randrange(1 << 30, 1 << 31),
                "shift": min(max(SHIFTS[0], b + 24), SHIFTS[-1]),
            }
            for b in bits
        ]
        columns = {
            name: np.array([c[name] for c in self.constants]).reshape(self.groups, 1, config.columns)
            for name in ("bias", "multiplier", "shift")
        }
        rounded = requantise(self.accumulators, **columns, single_rounding=bool(layer["single_rounding"]))
        self.values = np.clip(rounded + layer["zero_point"], low, high).astype(np.int8)

    def records(self) -> list[dict[str, Any]]:
        """The constants as rows of the weight decoder."""
        stored = [store_constants(**one) for one in self.constants]
        groups = [stored[first : first + self.columns] for first in range(0, len(stored), self.columns)]
        return [row for group in groups for row in record_rows(self.config, group)]


def run(
    config: MachineConfig, layers: dict[str, Outputs], source: random.Random, *, stalled: bool = True
) -> int:
    """Drain the layers one after the other; cycles from the last tile's capture to its last output."""
    dut = Drain(config)
    memory = random_memory(source, MEMORY)
    expected = memory.copy()
    records = [row for outputs in layers.values() for row in outputs.records()]
    lanes = config.requantisers
    noise_bits = config.accumulator_bits
    taken = 0
    last_words: set[int] = set()

    async def array(ctx: Any) -> None:
        """Stand in for the array: capture a tile, shift it out, and no tile before that one has left."""
        nonlocal taken
        pauses = stalls(source, None if stalled else 0.0)

        def noise() -> list[int]:
            return [source.getrandbits(noise_bits) - (1 << noise_bits - 1) for _ in range(lanes)]

        tile: list[int] = []
        left = 0

        async def cycle(ctx: Any) -> bool:
            """A cycle of the shadow registers; whether the array may take the last tap of the next tile."""
            nonlocal tile, taken
            taken += len(tile) > left
            ctx.set(dut.accumulators, (tile + noise())[:lanes])
            _, _, shift, drained = await ctx.tick().sample(dut.shift, dut.drained)
            assert not (shift and not tile), "shifted beyond the tile's last output"
            if shift:
                tile = tile[lanes:]
            return bool(drained)

        for name, outputs in layers.items():
            last = slice((outputs.positions - 1) // config.rows * config.rows, None)
            last_words.clear()
            last_words.update(tile_writes(outputs.layer, config.columns, last).tolist())
            ctx.set(dut.descriptor, outputs.layer)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for index, group in enumerate(outputs.accumulators):
                live = min(config.columns, outputs.layer["channels"] - index * config.columns)
                for first in range(0, outputs.positions, config.rows):
                    # The last tap comes in the cycle after `drained` at the earliest. With accumulators in
                    # multiplier cells the registers begin to change a cycle before the tile is there. Columns
                    # beyond the last channel of the last row need not be shifted out.
                    while next(pauses):
                        await cycle(ctx)
                    for cycles_left in reversed(range(config.capture_latency)):
                        if cycles_left == 0:
                            ctx.set(dut.captured, 1)
                            ctx.set(dut.final_tile, first + config.rows >= outputs.positions)
                            ctx.set(dut.last_row, min(config.rows, outputs.positions - first) - 1)
                        await cycle(ctx)
                        if cycles_left == config.tile_gap:
                            assert len(tile) <= left, "outputs were left behind"
                    tile = group[first : first + config.rows].ravel().tolist()
                    left = config.columns - -(-live // lanes) * lanes
                    ctx.set(dut.captured, 0)
                    drained, taken = await cycle(ctx), 1
                    while not drained:
                        drained = await cycle(ctx)
            store(config, outputs.layer, outputs.values, expected)
            while not ctx.get(dut.done):
                await cycle(ctx)
            np.testing.assert_array_equal(memory, expected, err_msg=name)

    async def constants(ctx: Any) -> None:
        await send_rows(
            ctx, dut.records, records, stalls(source, None if stalled else 0.0), itemgetter("last")
        )

    async def walk(ctx: Any) -> None:
        async for _, _, moves, base in ctx.tick().sample(dut.next_group, dut.group_base):
            if moves:
                ctx.set(dut.descriptor.output_base, base)

    async def writes(ctx: Any) -> None:
        await serve_writes(ctx, dut.write_port, memory, repeat(False))

    async def leave(ctx: Any) -> None:
        """A layer that begins when the last tile is leaving reads from the sixth cycle on: but for that tile
        all is written by then."""
        port, since = dut.write_port, 0
        async for _, _, leaving, valid, word in ctx.tick().sample(
            dut.leaving, port.valid, port.payload.address
        ):
            since = since + 1 if leaving else 0
            assert not (valid and since > 6) or word in last_words

    simulate(dut, array, cycles=50_000, background=[constants, walk, writes, leave])
    return taken


def test_the_last_tile_is_told_of_before_it_has_left(source: random.Random) -> None:
    """With four rows of four batches: the next layer begins 21 cycles sooner."""
    config = configuration("ecp5-85f")
    dut = Drain(config)
    layer = random_layer(source, config, MEMORY, x_count=4, y_count=1, channels=config.columns)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.descriptor, layer)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in range(2 * config.columns):
            await ctx.tick()
        ctx.set(dut.captured, 1)
        ctx.set(dut.final_tile, 1)
        ctx.set(dut.last_row, 3)
        await ctx.tick()
        ctx.set(dut.captured, 0)
        times: dict[str, int] = {}
        while not ctx.get(dut.done):
            for name in ("last_tile", "leaving"):
                if ctx.get(getattr(dut, name)):
                    times.setdefault(name, 0)
            times = {name: age + 1 for name, age in times.items()}
            await ctx.tick()
        assert times == {"last_tile": 24, "leaving": 22}
        ctx.set(dut.start, 1)
        await ctx.tick()
        assert not ctx.get(dut.leaving)

    async def constants(ctx: Any) -> None:
        outputs = Outputs(config, source, x_count=4, y_count=1, channels=config.columns)
        await send_rows(ctx, dut.records, outputs.records(), stalls(source, 0.0), itemgetter("last"))

    async def writes(ctx: Any) -> None:
        await serve_writes(ctx, dut.write_port, random_memory(source, MEMORY), repeat(False))

    simulate(dut, bench, cycles=1_000, background=[constants, writes])


def test_layers_back_to_back(config: MachineConfig, source: random.Random) -> None:
    """The corners one after the other in random order."""
    layers = {
        corner: Outputs(
            config,
            source,
            **{field: value(config) if callable(value) else value for field, value in fixed.items()},
        )
        for corner, fixed in source.sample(sorted(CORNERS.items()), len(CORNERS))
    }
    run(config, layers, source)


def test_groups_without_a_pause(config: MachineConfig, source: random.Random) -> None:
    """Each tile has constants of its own."""
    outputs = Outputs(config, source, x_count=config.rows, y_count=1, channels=4 * config.columns)
    run(config, {"groups": outputs}, source, stalled=False)


def test_pace(config: MachineConfig, source: random.Random) -> None:
    """Q outputs an interval of the requantisers, and a shift a cycle for columns that hold nothing."""
    batches = config.columns // config.requantisers
    for live in {1, batches}:
        outputs = Outputs(config, source, x_count=config.rows, y_count=2, channels=live * config.requantisers)
        taken = run(config, {"paced": outputs}, source, stalled=False)
        interval = requantiser_interval(config)
        # What is skipped meanwhile costs only what exceeds the interval; the last row skips nothing.
        row = max(live * interval, (live - 1) * interval + 1 + batches - live)
        assert taken <= config.rows * row + 2
