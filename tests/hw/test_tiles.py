"""Tiles are found in order, whenever the one before is taken, and say rightly what their rows can share."""

import random
from typing import Any

import pytest
from kolmogate.axis import PAIR, four_share
from kolmogate.config import configuration
from kolmogate.isa import wrap_fields
from kolmogate_hw.tiles import TILE_ROWS, TileFinder
from kolmogate_sim.groups import walk_groups
from kolmogate_sim.models import positions, random_layer
from kolmogate_sim.streams import simulate, stalls

MEMORY = 1 << 12


@pytest.mark.parametrize("stalled", [False, True])
def test_tiles(stalled: bool, source: random.Random) -> None:
    config = configuration("ecp5-45f")
    dut = TileFinder(config)
    layers = []
    for apart in (None, 1, 2, 3) * 4:
        fixed = {"word_mode": source.randrange(2), "x_count": source.randrange(1, 12)}
        if apart:
            step = 8 * source.randrange(1, 5)
            fixed |= {"word_mode": 1, "inner_step": step, "input_step": apart * step}
            fixed |= {"inner_count": source.choice((2, 3, 3, 4))}
        layer = random_layer(source, config, MEMORY, **fixed)
        if source.randrange(2):
            layer |= wrap_fields("input", source.randrange(-1 << 19, 1 << 19))
        layers.append((apart, layer))

    async def bench(ctx: Any) -> None:
        pauses = stalls(source, None if stalled else 0.0)
        for apart, layer in layers:
            places = positions(layer, "input")
            groups = -(-layer["channels"] // config.columns)
            ctx.set(dut.descriptor, layer)
            await ctx.tick()
            ctx.set(dut.start, 1)
            for group in range(groups):
                base = group * config.columns * layer["word_mode"]
                for first in range(0, len(places), TILE_ROWS):
                    while next(pauses) or not ctx.get(dut.ready):
                        await ctx.tick()
                        ctx.set(dut.start, 0)
                    tile = ctx.get(dut.tile)
                    rows = places[first : first + TILE_ROWS] + base
                    assert tile.last_row == len(rows) - 1
                    assert list(tile.bases)[: len(rows)] == [row % (1 << 20) for row in rows]
                    assert tile.final == (first + TILE_ROWS >= len(places))
                    assert tile.ends == (tile.final and group == groups - 1)
                    if apart:
                        together = all(
                            (first + row) % layer["x_count"] != layer["x_count"] - 1
                            for row in range(0, len(rows), PAIR)
                        )
                        assert tile.shared == (apart < 3 and len(rows) % PAIR == 0 and together)
                    assert tile.four == four_share(layer, first, TILE_ROWS)
                    ctx.set(dut.take, 1)
                    await ctx.tick()
                    ctx.set(dut.start, 0)
                    ctx.set(dut.take, 0)
            for _ in range(5):
                assert not ctx.get(dut.ready), "a tile behind the last"
                await ctx.tick()

    async def walk(ctx: Any) -> None:
        await walk_groups(ctx, dut, config.columns)

    simulate(dut, bench, cycles=10_000, background=[walk])
