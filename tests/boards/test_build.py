"""Bitstreams from scratch, with the real tools: `make bitstreams`. Many minutes each."""

from pathlib import Path

import pytest
from kolmogate_boards.build import build, last_build
from kolmogate_boards.catalogue import find

CHIPS = {"iCE40UP5K": 5280, "LFE5U-25F": 24288}


@pytest.mark.bitstream
# An UP5K is nearly full: the fastest of few seeds counts, as it does for users.
@pytest.mark.parametrize(("name", "seeds"), [("icebreaker", 3), ("ulx3s-25f", 1)])
def test_bitstream(name: str, seeds: int, tmp_path: Path) -> None:
    """It is written, fits and meets the board's clock; a second build takes it from the first."""
    board = find(name)
    steps: list[str] = []
    built = build(board, seeds, folder=tmp_path, progress=steps.append)
    assert "synthesis" in steps
    assert Path(built.bitstream).stat().st_size > 50_000
    logic = next(built.resources[kind] for kind in ("logic cells", "LUT") if kind in built.resources)
    assert logic[0] <= logic[1] == CHIPS[built.device]
    assert built.meets_clock, f"{built.fmax_mhz} MHz: {built.critical_path}"
    steps.clear()
    again = build(board, seeds, folder=tmp_path, progress=steps.append)
    assert steps == ["elaborating"]
    assert again.fmax_mhz == built.fmax_mhz
    assert last_build(board, tmp_path) == again
