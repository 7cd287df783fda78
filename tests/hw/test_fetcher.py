"""The window fetcher: each row gets the activations of its windows, in order, however reads are granted."""

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
from kolmogate import axis
from kolmogate.config import MachineConfig, configuration
from kolmogate.isa import window_taps
from kolmogate_hw.pair_fetcher import window_fetcher
from kolmogate_sim.groups import walk_groups
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
    "neighbours": {"word_mode": 1, "input_step": 16, "inner_step": 16, "inner_count": 3, "y_count": 2},
    "every second": {"word_mode": 1, "input_step": 16, "inner_step": 8, "inner_count": 3, "x_count": 8},
    "every second, apart": {"word_mode": 1, "input_step": 16, "inner_step": 8, "inner_count": 1},
    "neighbours on odd lines": {
        **{"word_mode": 1, "input_step": 8, "inner_step": 8, "outer_count": 3, "inner_count": 3},
        **{"x_count": 5, "y_count": 5, "channels": lambda config: config.columns + 1},
    },
    "random bytes": {"word_mode": 0, "outer_count": 2},
    "random words": {"word_mode": 1},
}


def test_layers_back_to_back(config: MachineConfig, source: random.Random) -> None:
    """The corners one after the other in random order, each row popping its words at random."""
    dut = window_fetcher(config)
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
            holding = source.choice((0, 1, 100)) if len(dut.ports) == 2 else 0
            first_tile = window_taps(layer)
            wanted = [expected(config, layer, memory, row) for row in range(config.rows)]
            taken = [0] * config.rows
            held: list[deque[int]] = [deque() for _ in range(config.rows)]
            while any(taken[row] < len(wanted[row]) for row in range(config.rows)):
                ctx.set(dut.held, holding > 0)
                assert not holding or max(taken) <= first_tile, f"{name}: fetched on although held"
                holding = max(0, holding - 1)
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
                        got = (value, bool(word.window_end) and at_last, bool(word.final_tile))
                        if row != config.rows - 1:
                            # Of words for several rows the marks are those of the last.
                            got = (value, *wanted[row][taken[row]][1:])
                        elif word.window_end and word.final_tile:
                            positions = layer["x_count"] * layer["y_count"]
                            assert word.last_row == (positions - 1) % config.rows
                        assert got == wanted[row][taken[row]], f"{name}: row {row}, activation {taken[row]}"
                        taken[row] += 1
                    held[row].append(len(values))
                    assert len(held[row]) <= config.feeder_depth, f"{name}: row {row} has no room"
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
        await walk_groups(ctx, dut, config.columns)

    def serving(port: Any) -> Any:
        async def serve(ctx: Any) -> None:
            await serve_reads(ctx, port, memory, stalls(source))

        return serve

    simulate(dut, feed, cycles=30_000, background=[walk, *(serving(port) for port in dut.ports)])


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        # Port 1 is a line behind: it has the last one for itself.
        ({"input_step": 16, "inner_step": 16}, 4 * 9 + 3),
        ({"input_step": 32, "inner_step": 16}, 4 * 15 + 5),
        ({"input_step": 32, "inner_step": 16, "x_count": 6}, 3 * 15),
        ({"input_step": 48, "inner_step": 16}, 4 * 18),
        ({"input_step": 16, "inner_step": 16, "inner_count": 5, "outer_count": 1}, 4 * 6),
        ({"input_step": 16, "inner_step": 16, "x_count": 5, "y_count": 5}, 2 * 18 + 12 + 4 * 9 + 2 * (3 + 1)),
    ],
)
def test_rows_share_words(fields: dict[str, int], least: int) -> None:
    """Visits take so many cycles, as the compiler knows."""
    config = configuration("ecp5-45f")
    dut = window_fetcher(config)
    shape = {"x_count": 8, "y_count": 2, "outer_count": 3, "inner_count": 3, "channels": 1, **fields}
    layer = random_layer(random.Random(0), config, MEMORY, word_mode=1, **shape)
    asked: list[int] = []

    async def bench(ctx: Any) -> None:
        cycle = 0
        ctx.set(dut.descriptor, layer)
        await ctx.tick()
        ctx.set(dut.start, 1)
        for port in dut.ports:
            ctx.set(port.request.ready, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while ctx.get(dut.walking) or any(ctx.get(port.request.valid) for port in dut.ports):
            cycle += 1
            if any(ctx.get(port.request.valid) for port in dut.ports):
                asked.append(cycle)
            # The rows pop what they are given.
            ctx.set(dut.pop, ctx.get(dut.push[0]) | ctx.get(dut.push[1]))
            await ctx.tick()

    simulate(dut, bench, cycles=1000)
    assert asked[-1] - asked[0] + 1 == axis.visits(layer, config) == least
