"""The commands `boards`, `build` and `flash`: thin, and the only link to the package `kolmogate_boards`.

That package brings Amaranth along when it builds, so it is imported when a command needs it.
"""

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from .errors import ToolMissingError, UsageError

if TYPE_CHECKING:
    from kolmogate_boards.build import Build

__all__ = ["add_board_commands"]

_SEEDS = 5


def add_board_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the command line's ``commands``, with the options in ``common``."""
    command = commands.add_parser("boards", parents=[common], help="list the boards")
    command.set_defaults(command=_boards)

    command = commands.add_parser("build", parents=[common], help="make a board's bitstream with open tools")
    command.add_argument("board", metavar="BOARD", help="one of those that `kolmogate boards` lists")
    command.add_argument(
        "--seeds", type=int, default=_SEEDS, metavar="N", help=f"tries of place and route ({_SEEDS})"
    )
    command.set_defaults(command=_build)

    command = commands.add_parser("flash", parents=[common], help="load a board's bitstream into it")
    command.add_argument("board", metavar="BOARD", help="one that was built")
    command.set_defaults(command=_flash)


def _package() -> None:
    try:
        import kolmogate_boards  # noqa: F401
    except ModuleNotFoundError:
        raise ToolMissingError(
            "the boards are not part of this installation: run pip install 'kolmogate[boards]'"
        ) from None


def _boards(options: argparse.Namespace) -> None:
    _package()
    from kolmogate_boards.build import last_build
    from kolmogate_boards.catalogue import BOARDS

    rows = []
    for board in BOARDS.values():
        built = last_build(board)
        rows.append(
            {
                "board": board.name,
                "title": board.title,
                "target": board.target,
                "macs": board.config.macs,
                "memory": board.config.scratchpad_bytes,
                "clock_mhz": board.clock_hz / 1e6,
                "link": f"{board.link}, {board.baud} baud",
                "built": asdict(built) if built else None,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        built = row["built"]
        status = f"built: {max(built['fmax_mhz'])} MHz, {_used(built)}" if built else "not built here"
        print(
            f"{row['board']:12} {row['title']:26} {row['target']:9} {row['macs']:4} MACs "
            f"{row['memory'] >> 10:4} KB  {row['clock_mhz']:.0f} MHz  {status}"
        )


def _used(built: dict[str, Any]) -> str:
    return ", ".join(f"{used:,} of {of:,} {name}" for name, (used, of) in built["resources"].items() if used)


def _build(options: argparse.Namespace) -> None:
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {options.seeds}")
    _package()
    from kolmogate_boards.build import build
    from kolmogate_boards.catalogue import find

    board = find(options.board)
    with tqdm(bar_format="{desc} ({elapsed})", file=sys.stderr, leave=False, delay=1) as bar:
        result = build(board, options.seeds, progress=bar.set_description_str)
    if options.json:
        print(json.dumps(asdict(result), indent=2))
        return
    print(_table(result))


def _table(result: "Build") -> str:
    lines = [f"{result.board}: {result.target} on {result.device}, {result.seconds} s"]
    lines += [
        f"  {name:12} {used:7,} of {of:7,}  {used / of:4.0%}" for name, (used, of) in result.resources.items()
    ]
    lines += [
        f"  seed {seed:2}      {fmax:6.2f} MHz{'  best' if seed == result.best_seed else ''}"
        for seed, fmax in enumerate(result.fmax_mhz, start=1)
    ]
    lines.append(f"  slowest path {result.critical_path}")
    lines.append(f"wrote {result.bitstream}")
    if not result.meets_clock:
        lines.append(f"it does not reach the {result.clock_mhz} MHz it is clocked at: try more --seeds")
    return "\n".join(lines)


def _flash(options: argparse.Namespace) -> None:
    _package()
    from kolmogate_boards.catalogue import find
    from kolmogate_boards.flash import flash

    board = find(options.board)
    bitstream = flash(board)
    if options.json:
        print(json.dumps({"board": board.name, "bitstream": str(bitstream)}))
        return
    print(f"flashed {bitstream}")
