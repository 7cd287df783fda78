"""The window fetcher: each row gets the activations of its windows, in order, however reads are granted."""

import random
from collections import deque
from typing import Any

import numpy as np
from kolmogate.config import MachineConfig
from kolmogate_hw.feeder import FEEDER_DEPTH
from kolmogate_hw.fetcher import WindowFetcher
from kolmogate_sim.memories import random_memory, serve_reads
from kolmogate_sim.models import activations, random_layer
from kolmogate_sim.streams import simulate, stalls

MEMORY = 1 << 12


def expected(config: MachineConfig, layer: dict[str, int], memory: np.ndarray, row: int) -> list[tuple]:
    """What a row is fed: (byte or word, last of its window, last tile of its group) a tap."""
    inputs = activations(config, layer, memory).view(np.uint8)
    steps = []
    for group in inputs:
        for first in range(0, len(group), config.rows):
            # Rows beyond the last position repeat it.
            window = group[min(first + row, len(group) - 1)]
            final_tile = first + config.rows >= len(group)
            for tap, lanes in enumerate(window):
                value = int.from_bytes(lanes.tobytes(), "little") if layer["word_mode"] else int(lanes[0])
                steps.append((value, tap == len(window) - 1, final_tile))
    return steps


CORNERS: dict[str, dict[str, Any]] = {
    "one byte": {"word_mode": 0, "x_count": 1, "y_count": 1, "outer_count": 1, "inner_count": 1, "run": 1},
    "one-byte windows": {"word_mode": 0, "outer_count": 1, "inner_count": 1, "run": 1, "y_count": 2},
    "one-word windows": {"word_mode": 1, "outer_count": 1, "inner_count": 1, "y_count": 2},
    "one position": {"word_mode": 0, "x_count": 1, "y_count": 1, "run": 37},
    "x_count 1": {"word_mode": 0, "x_count": 1, "y_count": 5, "run": 3},
    "x_count 1, words": {"word_mode": 1, "x_count": 1, "y_count": 5},
    "rows apart by a byte": {"word_mode": 0, "input_step": 1, "run": 9, "y_count": 2, "outer_count": 1},
    "backwards": {"word_mode": 0, "input_step": -3, "outer_wrap": -7, "inner_step": 1, "run": 11},
    "one channel more than a group": {"word_mode": 1, "channels": lambda config: config.columns + 1},
    "whole groups": {"word_mode": 0, "channels": lambda config: 2 * config.columns, "run": 5},
    "single channel": {"word_mode": 1, "channels": 1},
    "random bytes": {"word_mode": 0, "outer_count": 2},
    "random words": {"word_mode": 1},
}


def test_layers_back_to_back(config: MachineConfig, source: random.Random) -> None:
    """The corners one after the other in random order, each row popping its words at random."""
    dut = WindowFetcher(config)
    layers = {
        corner: random_layer(
            source,
            config,
            MEMORY,
            **{field: value(config) if callable(value) else value for field, value in fixed.items()},
        )
        for corner, fixed in source.sample(sorted(CORNERS.items()), len(CORNERS))
    }
    memory = random_memory(source, MEMORY)

    async def feed(ctx: Any) -> None:
        # Rows pause apart, so that any of them may be the one that lags.
        pauses = [stalls(source) for _ in range(config.rows)]
        for name, layer in layers.items():
            ctx.set(dut.descriptor, layer)
            await ctx.tick()
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            wanted = [expected(config, layer, memory, row) for row in range(config.rows)]
            taken = [0] * config.rows
            held: list[deque[int]] = [deque() for _ in range(config.rows)]
            while any(taken[row] < len(wanted[row]) for row in range(config.rows)):
                pops = 0
                for row, words in enumerate(held):
                    if words and not next(pauses[row]):
                        words[0] -= 1
                        if not words[0]:
                            words.popleft()
                            pops |= 1 << row
                ctx.set(dut.pop, pops)
                _, _, *given = await ctx.tick().sample(*dut.push, *dut.run)
                pushes = list(zip(given[: len(dut.ports)], given[len(dut.ports) :], strict=True))
                for row in range(config.rows):
                    words = [word for push, word in pushes if push >> row & 1]
                    assert len(words) <= 1, f"{name}: row {row} is given two words at once"
                    if not words:
                        continue
                    (word,) = words
                    lanes = int(word.word).to_bytes(config.columns, "little")[word.start : word.last + 1]
                    values = [int(word.word)] if layer["word_mode"] else list(lanes)
                    for place, value in enumerate(values):
                        assert taken[row] < len(wanted[row]), f"{name}: row {row} was given too much"
                        at_last = place == len(values) - 1
                        final_tile = (
                            bool(word.final_tile) if row == config.rows - 1 else wanted[row][taken[row]][2]
                        )
                        if word.window_end and word.final_tile and row == config.rows - 1:
                            positions = layer["x_count"] * layer["y_count"]
                            assert word.last_row == (positions - 1) % config.rows
                        got = (value, bool(word.window_end) and at_last, final_tile)
                        assert got == wanted[row][taken[row]], f"{name}: row {row}, activation {taken[row]}"
                        taken[row] += 1
                    held[row].append(len(values))
                    assert len(held[row]) <= FEEDER_DEPTH, f"{name}: row {row} has no room"
            # The array takes what is left before a layer is done.
            while any(held):
                ctx.set(dut.pop, sum(1 << row for row, words in enumerate(held) if words))
                held = [deque(list(words)[1:]) for words in held]
                await ctx.tick()
            ctx.set(dut.pop, 0)
            for _ in range(4):
                await ctx.tick()
                assert not any(ctx.get(push) for push in dut.push), f"{name}: words beyond the end"
                assert not any(ctx.get(port.request.valid) for port in dut.ports)

    async def walk(ctx: Any) -> None:
        """The descriptor walks over the column groups, as in the sequencer."""
        fields = dut.descriptor
        async for _, _, moves, base, left in ctx.tick().sample(
            dut.next_group, dut.group_base, fields.channels
        ):
            if moves:
                ctx.set(fields.input_base, base)
                ctx.set(fields.channels, (left - config.columns) % (1 << len(fields.channels)))

    def serving(port: Any) -> Any:
        async def serve(ctx: Any) -> None:
            await serve_reads(ctx, port, memory, stalls(source))

        return serve

    simulate(dut, feed, cycles=30_000, background=[walk, *(serving(port) for port in dut.ports)])
