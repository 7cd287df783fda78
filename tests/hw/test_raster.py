"""The walk over positions, one and two at a time."""

import random

import pytest
from kolmogate_hw.raster import RasterWalk
from kolmogate_sim.streams import simulate, stalls


@pytest.mark.parametrize("lanes", [1, 2])
def test_walk(lanes: int, source: random.Random) -> None:
    """Ends of lines and of the layer, in layers of any shape, one layer after the other."""
    dut = RasterWalk(lanes)
    shapes = [(x, y) for x in range(1, 6) for y in range(1, 5)]
    shapes += [(source.randrange(1, 40), source.randrange(1, 40)) for _ in range(10)]
    source.shuffle(shapes)

    async def bench(ctx) -> None:
        pauses = stalls(source)
        for x_count, y_count in shapes:
            ctx.set(dut.x_count, x_count)
            ctx.set(dut.y_count, y_count)
            await ctx.tick()
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            for first in range(0, x_count * y_count, lanes):
                while next(pauses):
                    await ctx.tick()
                for lane in range(lanes):
                    place = first + lane
                    end = place >= x_count * y_count - 1
                    assert ctx.get(dut.end[lane]) == end
                    if place < x_count * y_count:
                        assert ctx.get(dut.line_end[lane]) == (place % x_count == x_count - 1)
                ctx.set(dut.step, 1)
                await ctx.tick()
                ctx.set(dut.step, 0)

    simulate(dut, bench, cycles=20_000)
