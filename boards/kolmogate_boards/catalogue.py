"""All boards."""

from kolmogate.errors import UsageError

from .board import Board
from .ecpix5 import ECPIX5_85F
from .icebreaker import ICEBREAKER
from .icepi_zero import ICEPI_ZERO
from .icesugar import ICESUGAR
from .ulx3s import ULX3S

__all__ = ["BOARDS", "find"]

BOARDS = {board.name: board for board in (ICEBREAKER, ICESUGAR, *ULX3S, ECPIX5_85F, ICEPI_ZERO)}


def find(name: str) -> Board:
    """The board called ``name``; raises `UsageError` that lists the known ones."""
    try:
        return BOARDS[name]
    except KeyError:
        raise UsageError(f"unknown board {name!r}: choose one of {', '.join(BOARDS)}") from None
