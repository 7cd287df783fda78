"""Products in MULT18X18D, the multiplier cells of the ECP5, with the registers that they have inside."""

from collections.abc import Callable

from amaranth.hdl import ClockSignal, Const, Instance, Module, Shape, Signal, Value, signed

__all__ = ["registered_product"]

_BITS = 18


def registered_product(
    m: Module,
    name: str,
    a: Value,
    b: Value,
    multiply: Callable[[Value, Value], Value] | None,
    *,
    factors: bool,
) -> Signal:
    """``a * b`` a cycle later, with registers for the ``factors``, too, two cycles.

    ``multiply`` makes a product of the factors. None stands for a multiplier cell, which has the registers
    inside, so that the wires to it and from it have more of a cycle, with all of them the whole; factors
    may have 17 bits without a sign or 18 with one.
    """
    product = Signal((a * b).shape(), name=name, reset_less=True)
    sides = []
    for side, factor in (("a", a), ("b", b)):
        shape = Shape.cast(factor.shape()) if multiply else signed(_BITS)
        sides.append(Signal(shape, name=f"{name}_{side}", reset_less=True))
        m.d["sync" if multiply and factors else "comb"] += sides[-1].eq(factor)
    if multiply:
        m.d.sync += product.eq(multiply(*sides))
        return product
    made = Signal(2 * _BITS, name=f"{name}_made")
    m.d.comb += product.eq(made)
    m.submodules[f"{name}_cell"] = Instance(
        "MULT18X18D",
        p_REG_INPUTA_CLK="CLK0" if factors else "NONE",
        p_REG_INPUTB_CLK="CLK0" if factors else "NONE",
        p_REG_OUTPUT_CLK="CLK0",
        i_CLK0=ClockSignal(),
        i_CE0=Const(1, 1),
        i_RST0=Const(0, 1),
        **{f"i_SIGNED{side}": Const(1, 1) for side in "AB"},
        **{f"i_SOURCE{side}": Const(0, 1) for side in "AB"},
        **{
            f"i_{side}{bit}": factor[bit]
            for side, factor in zip("AB", sides, strict=True)
            for bit in range(_BITS)
        },
        **{f"o_P{bit}": made[bit] for bit in range(2 * _BITS)},
    )
    return product
