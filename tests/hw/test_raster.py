"""The walk over positions."""

import random

from kolmogate_hw.raster import RasterWalk
from kolmogate_sim.streams import simulate, stalls


def test_walk(source: random.Random) -> None:
    """Ends of lines and of the layer, in layers of any shape, twice round, one layer after the other."""
    dut = RasterWalk()
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
            for place in 2 * [*range(x_count * y_count)]:
                while next(pauses):
                    await ctx.tick()
                assert ctx.get(dut.end) == (place == x_count * y_count - 1)
                assert ctx.get(dut.line_end) == (place % x_count == x_count - 1)
                ctx.set(dut.step, 1)
                await ctx.tick()
                ctx.set(dut.step, 0)

    simulate(dut, bench, cycles=20_000)
