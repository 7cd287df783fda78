"""How TFLite's ADD becomes the residual addition: two scales, proved right for every pair of bytes."""

from functools import cache
from itertools import product

import numpy as np

from . import golden
from .errors import InputError
from .isa import RESIDUAL_FRACTION, SCALE_OFFSET, Opcode
from .machine_arithmetic import add_residual
from .network import Add, Requantisation, Tensor

__all__ = ["largest_record", "residual_record"]

LARGEST_SCALE = (8 << RESIDUAL_FRACTION) - 1

EXCESS = (0.0, *(2.0**-bits for bits in range(24, 17, -1)))
"""How much both scales are raised: that rounds sums halfway between two outputs away from zero, as TFLite."""

NUDGES = sorted(product(range(-4, 5), repeat=2), key=lambda pair: abs(pair[0]) + abs(pair[1]))
"""Units that each scale is moved by."""


def largest_record() -> dict[str, int]:
    """The record that keeps the larger of the output and what is in its place."""
    return {
        "opcode": Opcode.RESIDUAL,
        "largest": 1,
        "output_scale": (1 << RESIDUAL_FRACTION) + SCALE_OFFSET,
        "operand_scale": SCALE_OFFSET,
        "maximum": 127,
    }


def residual_record(operation: Add, output: Tensor, operand: Tensor, total: Tensor) -> dict[str, int]:
    """The fields of `isa.RESIDUAL`, all but the offset.

    Parameters
    ----------
    operation : Add
    output, operand : Tensor
        The addend that the layer makes, and the one that is in memory, in either order.
    total : Tensor
        The sum.

    Raises `InputError` if no scales are right for all 65,536 pairs of bytes.
    """
    scale = operation.requantisation
    places = [operation.inputs.index(output.name), operation.inputs.index(operand.name)]
    if output.name == operand.name:
        places = [0, 1]
    found = _scales(
        tuple(int(scale.multiplier[place]) for place in (*places, 2)),
        tuple(int(scale.shift[place]) for place in (*places, 2)),
        (output.zero_point, operand.zero_point, total.zero_point),
        operation.clamp,
        operation.left_shift,
    )
    if found is None:
        raise InputError(
            f"ADD {operation.name!r} cannot be run exactly: no two scales give the reference's sum for"
            " every pair of bytes, as the scales of its tensors are too far apart; quantise the model again"
        )
    return {
        "opcode": Opcode.RESIDUAL,
        "output_scale": found[0] + SCALE_OFFSET,
        "operand_scale": found[1] + SCALE_OFFSET,
        "output_zero_point": output.zero_point,
        "operand_zero_point": operand.zero_point,
        "zero_point": total.zero_point,
        "minimum": operation.clamp[0],
        "maximum": operation.clamp[1],
    }


@cache
def _scales(
    multipliers: tuple[int, ...],
    shifts: tuple[int, ...],
    zero_points: tuple[int, int, int],
    clamp: tuple[int, int],
    left_shift: int,
) -> tuple[int, int] | None:
    """The first scales near the real ones that are right for every pair of bytes."""
    every = np.arange(-128, 128, dtype=np.int8)
    y, x = (values.ravel() for values in np.meshgrid(every, every, indexing="ij"))
    tensors = [Tensor(name, y.shape, 1.0, point) for name, point in zip("yxs", zero_points, strict=True)]
    scale = Requantisation(np.array(multipliers, np.int32), np.array(shifts, np.int32))
    add = Add("add", ("y", "x"), "s", scale, clamp, left_shift)
    wanted = golden.evaluate(add, [y[np.newaxis], x[np.newaxis]], tensors[:2], tensors[2])[0]
    factors = [m / 2**31 * 2.0**s for m, s in zip(multipliers, shifts, strict=True)]
    real = [factor * factors[2] * 2.0 ** (left_shift + RESIDUAL_FRACTION) for factor in factors[:2]]
    if max(real) > LARGEST_SCALE:
        return None
    record = {
        "largest": 0,
        "output_zero_point": zero_points[0],
        "operand_zero_point": zero_points[1],
        "zero_point": zero_points[2],
        "minimum": clamp[0],
        "maximum": clamp[1],
    }
    for nudge in NUDGES:
        for excess in EXCESS if nudge == (0, 0) else EXCESS[:1]:
            pair = tuple(round(one * (1 + excess)) + move for one, move in zip(real, nudge, strict=True))
            if not 0 <= min(pair) <= max(pair) <= LARGEST_SCALE:
                continue
            scales = {"output_scale": pair[0] + SCALE_OFFSET, "operand_scale": pair[1] + SCALE_OFFSET}
            made = add_residual(y, x, record | scales)
            if np.array_equal(made, wanted):
                return pair[0], pair[1]
    return None
