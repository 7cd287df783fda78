"""How large and how fast the bitstreams are: place and route of boards with several seeds.

    python benchmarks/fmax.py [--seeds N] [BOARD...]

Builds each board as `kolmogate build` does, and writes benchmarks/fmax.md and fmax.json; boards that are not
named keep what fmax.json has of them. What was built before is found again, unless design or tools have
changed.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import run
from kolmogate.errors import KolmogateError
from kolmogate.files import write_whole
from kolmogate.report import format_table
from kolmogate_boards.build import build
from kolmogate_boards.catalogue import BOARDS, find
from tqdm import tqdm

RESULTS = Path(__file__).with_suffix(".json")
DEFAULT_BOARDS = ("icebreaker", "ulx3s-25f", "ulx3s-45f", "ulx3s-85f", "ecpix5-85f")
"""One for each pair of chip and configuration."""

RESOURCES = (("logic cells", "LUT"), ("DSP",), ("block RAM",), ("SPRAM",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("boards", nargs="*", metavar="BOARD", help="by default one for each configuration")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    boards = [find(name) for name in options.boards or DEFAULT_BOARDS]
    for board in boards:
        name = board.name
        with tqdm(bar_format="{desc} ({elapsed})", file=sys.stderr, leave=False) as bar:
            try:
                built = build(
                    board,
                    options.seeds,
                    progress=lambda step, name=name, bar=bar: bar.set_description_str(f"{name}: {step}"),
                )
            except KolmogateError as error:
                print(f"{name}: {error}", file=sys.stderr)
                results[name] = {"board": name, "target": board.target, "failed": str(error)}
            else:
                results[name] = asdict(built)
        save(results)


def save(results: dict[str, dict[str, Any]]) -> None:
    """Write both files, boards in the order of the catalogue."""
    entries = [results[name] for name in BOARDS if name in results]
    write_whole(RESULTS, json.dumps({entry["board"]: entry for entry in entries}, indent=2).encode() + b"\n")
    write_whole(RESULTS.with_suffix(".md"), text(entries).encode())


def text(entries: list[dict[str, Any]]) -> str:
    rows = []
    for entry in entries:
        if "failed" in entry:
            continue
        used = entry["resources"]
        met = sum(fmax >= entry["clock_mhz"] for fmax in entry["fmax_mhz"])
        figures = [next((used[kind] for kind in kinds if kind in used), None) for kinds in RESOURCES]
        rows.append(
            [
                *(entry["board"], entry["target"], entry["device"]),
                *(f"{one[0]:,} of {one[1]:,}" if one else "" for one in figures),
                f"{entry['clock_mhz']:.0f}",
                " ".join(f"{fmax:.1f}" for fmax in entry["fmax_mhz"]),
                f"{met} of {len(entry['fmax_mhz'])}",
            ]
        )
    header = ["board", "configuration", "chip", "cells or LUTs", "DSP", "block RAM", "SPRAM"]
    table = format_table([*header, "clock", "Fmax of seeds 1, 2, ..., MHz", "met"], rows)
    lines = [
        "# Bitstreams",
        "",
        "`python benchmarks/fmax.py` gives, with Yosys and nextpnr from PyPI:",
        "",
        "```text",
        table,
        "```",
        "",
        "The slowest path of the best seed:",
        "",
        *(
            f"- `{entry['board']}`, {max(entry['fmax_mhz']):.1f} MHz: {entry['critical_path']}"
            for entry in entries
            if "failed" not in entry
        ),
        *(f"- `{entry['board']}` is not built: {entry['failed']}" for entry in entries if "failed" in entry),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(main)
