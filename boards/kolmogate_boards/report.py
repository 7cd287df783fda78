"""What place and route says of a bitstream, from the report file of nextpnr."""

import re
from dataclasses import dataclass
from typing import Any

__all__ = ["Placement", "critical_path", "placement"]

_RESOURCES = {
    "ICESTORM_LC": "logic cells",
    "ICESTORM_RAM": "block RAM",
    "ICESTORM_SPRAM": "SPRAM",
    "ICESTORM_DSP": "DSP",
    "ICESTORM_PLL": "PLL",
    "TRELLIS_COMB": "LUT",
    "TRELLIS_FF": "flip-flops",
    "TRELLIS_RAMW": "LUT RAM",
    "DP16KD": "block RAM",
    "MULT18X18D": "DSP",
    "EHXPLLL": "PLL",
}


@dataclass(frozen=True)
class Placement:
    """One run of place and route: what is used of what there is, and how fast the accelerator's clock may be."""

    resources: dict[str, tuple[int, int]]
    fmax_mhz: float
    critical_path: str


def placement(report: dict[str, Any]) -> Placement:
    """Read a report; its slowest clock is the accelerator's."""
    clock, fmax = min(report["fmax"].items(), key=lambda entry: entry[1]["achieved"])
    resources = {
        _RESOURCES[cell]: (entry["used"], entry["available"])
        for cell, entry in report["utilization"].items()
        if cell in _RESOURCES
    }
    paths = [
        path
        for path in report["critical_paths"]
        if path["from"] == path["to"] and path["from"].split()[-1] == clock
    ]
    return Placement(resources, round(fmax["achieved"], 2), critical_path(paths[0]) if paths else "none")


def critical_path(path: dict[str, Any]) -> str:
    """The path in words: from where to where, through how much logic."""
    steps = path["path"]
    logic = sum(step["delay"] for step in steps if step["type"] != "routing")
    routing = sum(step["delay"] for step in steps if step["type"] == "routing")
    stages = sum(step["type"] == "logic" for step in steps)
    return (
        f"from {_place(steps[0]['from']['cell'])} to {_place(steps[-1]['to']['cell'])} through {stages} cells, "
        f"{logic:.1f} ns in cells and {routing:.1f} ns between them"
    )


def _place(cell: str) -> str:
    """The signal of the design that a cell was made for."""
    name = re.split(r"_(?:SB_|LUT4|PFUMX|L6MUX21|TRELLIS|CCU2C|DP16KD|MULT18|\$|DFF)", cell)[0]
    return re.sub(r"(\$[^.]*)+$", "", name).removeprefix("top.").removeprefix("device.") or cell
