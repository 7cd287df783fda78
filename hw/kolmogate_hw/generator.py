"""The hash that makes weights of windows, in the two steps of the lanes' pipeline."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data
from kolmogate.isa import WINDOW_BITS
from kolmogate.programs.generate import OFFSET

__all__ = ["Mixed", "mix", "total"]

Mixed = data.StructLayout({"plain": 9, "sums": 8, "carries": 8})
"""What there is of a weight between the steps, in the terms of `kolmogate.programs.generate.codebook`: the
two terms that are bits of ``y``, added with 1, and the sum of the two exclusive ors, kept as its bits' sums
and carries."""

ONE = Const(1, 1)


def mix(m: Module, x: Value) -> Value:
    """The first step, of a window."""
    mixed = Signal(Mixed)
    partial, y = Signal(WINDOW_BITS), Signal(WINDOW_BITS)
    p, q, r = x.rotate_left(7)[:8], y.rotate_left(8)[:8], x.rotate_left(9)[:8]
    m.d.comb += [
        partial.eq(x + x.rotate_left(8)),
        # The offset is a multiple of 4; that parts the two sums, which are larger as one.
        y.eq(Cat(partial[:2], partial[2:] + (OFFSET >> 2))),
        # Operands with a 1 below the lowest bit carry into it.
        mixed.plain.eq((Cat(ONE, y.rotate_left(9)[:8]) + Cat(ONE, y.rotate_left(3)[:8]))[1:]),
        # Of the bits of p ^ q and r ^ q.
        mixed.sums.eq(p ^ r),
        mixed.carries.eq(~(p ^ r) & (p ^ q)),
    ]
    return mixed


def total(m: Module, mixed: data.View) -> Value:
    """The second step: the weight.

    Three carries in, one of them in the free place below ``carries``, where it counts twice, make the 4 that
    `codebook` adds after it has subtracted 512.
    """
    mingled, whole = Signal(10), Signal(11)
    m.d.comb += [
        mingled.eq(Cat(ONE, mixed.sums[1:]) + Cat(ONE, mixed.carries)),
        whole.eq(Cat(ONE, mixed.sums[0], mingled[1:]) + Cat(ONE, mixed.plain)),
    ]
    return Cat(whole[3:10], ~whole[10])
