"""Layers whose weights GENERATE makes: found again from the weights alone."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..isa import NEW_BITS, WINDOW_BITS
from .generate import find, generate
from .p0 import MAXIMUM_ROWS, bits_needed

__all__ = ["Computed", "computed"]

Int8Array = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Computed:
    """How GENERATE makes the weights of a layer.

    Parameters
    ----------
    new_bits : int
        Bits of a weight.
    joined : bool
        The windows of a column group can go on where those of the group before it ended.
    weights : int8 array (groups, taps, columns)
        The layer's; those of columns without a channel are what fills them best.
    """

    new_bits: int
    joined: bool
    weights: Int8Array = field(repr=False)

    @property
    def unpassed(self) -> int:
        """Bits that the last window saw and that SKIP has to pass in front of other literals."""
        return WINDOW_BITS - self.new_bits


def computed(weights: Int8Array, channels: int) -> Computed | None:
    """How GENERATE makes exactly these weights (groups, taps, columns) of so many channels.

    None if it cannot, or if that takes more bits than literals.
    """
    groups, taps, columns = weights.shape
    literal_bits = sum(int(bits_needed(group).sum()) for group in weights)
    dead = range(channels - (groups - 1) * columns, columns)
    for new_bits in NEW_BITS:
        if groups * (taps * new_bits + WINDOW_BITS) >= literal_bits:
            return None
        parts = [(new_bits, min(MAXIMUM_ROWS, taps - row)) for row in range(0, taps, MAXIMUM_ROWS)]
        live = [lane for group in weights[:-1] for lane in group.T] + list(weights[-1].T[: dead.start])
        if any(find(lane, parts) is None for lane in live):
            continue
        filled = weights.copy()
        for column in dead:
            filled[-1, :, column] = filled[-1, :, 0]
            if groups > 1 and new_bits:
                # The path of the groups before goes on, whatever it makes.
                path = find(filled[:-1, :, column].ravel(), parts * (groups - 1))
                if path is not None:
                    path = np.append(path, np.zeros(taps * new_bits, np.uint8))
                    filled[-1, :, column] = generate(path, new_bits, groups * taps)[-taps:]
        lanes = filled.reshape(groups * taps, columns).T
        joined = new_bits > 0 and all(find(lane, parts * groups) is not None for lane in lanes)
        return Computed(new_bits, joined, filled)
    return None
