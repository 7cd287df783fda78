"""Products in logic cells, where a chip has fewer multiplier cells than the machine has products."""

from amaranth.hdl import C, Cat, Mux, Value

__all__ = ["logic_product", "with_carry"]


def with_carry(a: Value, b: Value, carry: Value) -> Value:
    """``a + b + carry`` of signed numbers in one carry chain."""
    return ((Cat(C(1, 1), a).as_signed() + Cat(carry, b).as_signed()) >> 1).as_signed()


def logic_product(a: Value, b: Value) -> Value:
    """``a * b`` of 8 bits each, a without and b with a sign, as a sum that tools do not take for a
    multiplication.

    Booth's recoding makes pairs of b's bits digits from -2 to 1. Their four parts are added in carry chains,
    a third of the cells of the adders without carry that tools make of a sum of many.
    """
    a, parts = Cat(a, C(0, 1)), []
    for k in range(0, 8, 2):
        high, middle, low = b[k + 1], b[k], b[k - 1] if k else C(0, 1)
        double = (high & ~middle & ~low) | (~high & middle & low)
        size = Mux(middle ^ low, Cat(a, a[-1]), Mux(double, Cat(C(0, 1), a), 0))
        # -size is ~size + 1, and the 1 goes into a carry input.
        parts.append(((size ^ high.replicate(10)).as_signed(), high))
    first = _sum(parts[0][0], *parts[1], 2)
    second = _sum(parts[2][0], *parts[3], 2)
    return _sum(first, second, parts[2][1], 4) + parts[0][1]


def _sum(a: Value, b: Value, carry: Value, distance: int) -> Value:
    """``a + (b + carry << distance)``."""
    return Cat(a[:distance], with_carry(a[distance:].as_signed(), b, carry)).as_signed()
