"""Chip families whose cells components know."""

from dataclasses import dataclass

__all__ = ["ICE40_ULTRAPLUS", "Family", "family"]


@dataclass(frozen=True)
class Family:
    """A chip family; also stands for a platform where one of its chips is all that matters.

    Parameters
    ----------
    device : str
        What Amaranth platforms of the family have as their ``device``.
    """

    device: str


ICE40_ULTRAPLUS = Family("iCE40UP5K")


def family(platform: object) -> Family | None:
    """The family of the platform's chip if there are cells for it here."""
    known = {one.device: one for one in (ICE40_ULTRAPLUS,)}
    return known.get(getattr(platform, "device", None) or "")
