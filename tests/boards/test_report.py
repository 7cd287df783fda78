"""What is read out of nextpnr's report files."""

import pytest
from kolmogate_boards.report import critical_path, placement

STEPS = [
    {"type": "clk-to-q", "delay": 1.0, "from": {"cell": "device.core.x_SB_DFFE_Q"}, "to": {"cell": "a"}},
    {"type": "routing", "delay": 2.5, "from": {"cell": "a"}, "to": {"cell": "b"}},
    {"type": "logic", "delay": 1.25, "from": {"cell": "b"}, "to": {"cell": "b"}},
    {"type": "routing", "delay": 0.5, "from": {"cell": "b"}, "to": {"cell": "c"}},
    {
        "type": "setup",
        "delay": 0.75,
        "from": {"cell": "c"},
        "to": {"cell": "device.core.scratchpad.address_SB_DFF_Q_3_D_SB_LUT4_O_LC"},
    },
]


def report() -> dict:
    clock = "clock"
    return {
        "fmax": {
            clock: {"achieved": 41.987, "constraint": 36.0},
            "other": {"achieved": 200.0, "constraint": 12.0},
        },
        "utilization": {
            "ICESTORM_LC": {"available": 5280, "used": 4321},
            "ICESTORM_SPRAM": {"available": 4, "used": 4},
            "SB_WARMBOOT": {"available": 1, "used": 0},
        },
        "critical_paths": [
            {"from": "<async>", "to": f"posedge {clock}", "path": STEPS[:2]},
            {"from": f"posedge {clock}", "to": f"posedge {clock}", "path": STEPS},
        ],
    }


def test_placement() -> None:
    result = placement(report())
    assert result.resources == {"logic cells": (4321, 5280), "SPRAM": (4, 4)}
    assert result.fmax_mhz == 41.99
    assert result.critical_path == critical_path({"path": STEPS})


def test_critical_path_in_words() -> None:
    assert critical_path({"path": STEPS}) == (
        "from core.x to core.scratchpad.address through 1 cells, 3.0 ns in cells and 3.0 ns between them"
    )


@pytest.mark.parametrize(
    ("cell", "words"),
    [("link.status_TRELLIS_FF_Q", "link.status"), ("core.rows.0.0_DP16KD_1", "core.rows.0.0")],
)
def test_names_of_ecp5_cells(cell: str, words: str) -> None:
    steps = [dict(STEPS[0]), dict(STEPS[-1], to={"cell": cell})]
    assert f" to {words} through" in critical_path({"path": steps})
