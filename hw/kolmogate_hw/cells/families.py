"""Chip families and sizes that components adapt to."""

from dataclasses import dataclass

__all__ = ["ICE40_ULTRAPLUS", "Family", "family"]


@dataclass(frozen=True)
class Family:
    """A chip, as far as components look at it; also stands for a platform where that is all that matters.

    Parameters
    ----------
    device : str
        What Amaranth platforms call it.
    multipliers : int
        Multiplier cells of 18 by 18 bits that tools infer.
    logic_memory : bool
        Logic cells can be memory.
    """

    device: str
    multipliers: int
    logic_memory: bool = True


ICE40_ULTRAPLUS = Family("iCE40UP5K", 0, logic_memory=False)

_FAMILIES = {
    one.device: one
    for one in (
        ICE40_ULTRAPLUS,
        Family("LFE5U-12F", 28),
        Family("LFE5U-25F", 28),
        Family("LFE5U-45F", 72),
        Family("LFE5U-85F", 156),
        Family("LFE5UM5G-85F", 156),
    )
}


def family(platform: object) -> Family | None:
    """The platform's chip, if it is one that components know; simulators have none."""
    return _FAMILIES.get(getattr(platform, "device", None) or "")
