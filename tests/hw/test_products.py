"""Products made of logic."""

import random
from itertools import product

from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator
from kolmogate_hw.cells.products import logic_product

CORNERS = (-128, -127, -86, -85, -2, -1, 0, 1, 2, 85, 86, 127)
UNSIGNED = (0, 1, 2, 85, 86, 127, 128, 129, 170, 171, 254, 255)


def test_logic_product(source: random.Random) -> None:
    """All pairs of the extremes, and random ones."""
    a, b, y = Signal(8), Signal(signed(8)), Signal(signed(16))
    m = Module()
    m.d.comb += y.eq(logic_product(a, b))
    pairs = [*product(UNSIGNED, CORNERS)]
    pairs += [(source.randrange(256), source.randrange(-128, 128)) for _ in range(3000)]

    async def bench(ctx):
        for left, right in pairs:
            ctx.set(a, left)
            ctx.set(b, right)
            await ctx.delay(1e-9)
            assert ctx.get(y) == left * right, (left, right)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
