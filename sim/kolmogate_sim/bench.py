"""cocotb benches on the Verilog that Amaranth emits, on every simulator there is.

Verilator always; Icarus where it is installed. Each run leaves a JUnit file and, if the bench failed, a
waveform in ``build/benches``, or in the folder that ``KOLMOGATE_RESULTS`` names. The seed is printed;
``KOLMOGATE_SEED`` repeats a run.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from amaranth.back import verilog
from amaranth.lib import wiring
from cocotb_tools.runner import get_runner
from kolmogate.errors import ToolMissingError
from kolmogate_hw.cells import Family

from .netlist import cell_models, netlist
from .streams import seed
from .verilate import verilator_root

__all__ = ["parameters", "run_bench", "simulators"]

_PARAMETERS = "KOLMOGATE_BENCH_PARAMETERS"


def simulators() -> list[str]:
    """The simulators that benches run on here."""
    return ["verilator"] + ["icarus"] * (shutil.which("iverilog") is not None)


def parameters() -> dict[str, Any]:
    """Inside a bench: the parameters that `run_bench` was given."""
    return json.loads(os.environ[_PARAMETERS])


def run_bench(
    component: wiring.Component,
    module: str,
    simulator: str,
    chip: Family | None = None,
    *,
    synthesised: bool = False,
    **parameters: Any,
) -> None:
    """Run the cocotb tests of a module on a component.

    Parameters
    ----------
    component : Component
        The device under test; its Verilog has ports ``clk``, ``rst`` and its own.
    module : str
        Dotted name of the module that holds the tests.
    simulator : str
        One of `simulators`.
    chip : Family or None
        Simulate what the component becomes on that chip, with models of its cells.
    synthesised : bool
        Simulate what synthesis for the chip makes of that, see `netlist`.
    parameters : JSON values
        What the bench needs to know of the component; it calls `parameters`.

    Raises `AssertionError` if a test fails, with the seed and the waveform in the message, and
    `ToolMissingError` if there is nothing to compile with.
    """
    if shutil.which("make") is None or shutil.which("g++") is None:
        raise ToolMissingError(
            "g++ and make are needed: install them, for example with `apt install g++ make`"
        )
    words = [module.rsplit(".")[-1], *(f"{key}-{value}" for key, value in parameters.items()), simulator]
    if chip:
        words += [chip.device] + ["netlist"] * synthesised
    name = "_".join(words)
    results = Path(os.environ.get("KOLMOGATE_RESULTS", "build/benches")).absolute()
    results.mkdir(parents=True, exist_ok=True)
    for old in results.glob(f"{name}.*"):
        old.unlink()
    print(f"{name}: KOLMOGATE_SEED={seed()}")
    with tempfile.TemporaryDirectory(prefix="kolmogate-") as folder, _tools(Path(folder)):
        source = Path(folder, "top.v")
        if chip and synthesised:
            text = netlist(component, chip)
        else:
            text = verilog.convert(component, name="top", platform=chip, strip_internal_attrs=True)
        if chip:
            text += cell_models(text, chip)
        if simulator == "icarus":
            # It leaves `always @*` at X until something in it changes. Yosys puts a register into each that
            # is meant to change at time 0; it only does if it is set once the blocks wait for it.
            text = re.sub(r"reg (\\\S*verilog_backend\S*)\s+= 0;", r"reg \1 ; initial #0 \1 = 0;", text)
        source.write_text(text)
        environment = {_PARAMETERS: json.dumps(parameters)}
        report = results / f"{name}.xml"
        failures = _run(source, module, simulator, report, environment, waves=False)
        if not failures:
            return
        # Waves are slow, so only the repetition that is known to fail writes them.
        _run(source, module, simulator, report, environment, waves=True)
        waves = [
            shutil.copy(path, results / f"{name}{path.suffix}")
            for path in Path(folder).rglob("*")
            if path.suffix in (".vcd", ".fst")
        ]
    raise AssertionError(
        f"{name}: {', '.join(failures)}; repeat it with KOLMOGATE_SEED={seed()}; "
        f"waveform: {', '.join(map(str, waves)) or 'none'}; report: {report}"
    )


def _run(
    source: Path, module: str, simulator: str, report: Path, environment: Mapping[str, str], *, waves: bool
) -> list[str]:
    """Build and simulate; returns the names of the tests that failed."""
    runner = get_runner(simulator)
    folder = source.parent / ("waves" if waves else "plain")
    try:
        runner.build(
            sources=[source],
            hdl_toplevel="top",
            build_dir=folder,
            build_args=["-Wno-fatal", "-Wno-lint", "-Wno-style"] if simulator == "verilator" else [],
            timescale=("1ns", "1ps"),
            waves=waves,
            log_file=folder.with_suffix(".build.log"),
        )
    except (SystemExit, RuntimeError):
        raise AssertionError(folder.with_suffix(".build.log").read_text()) from None
    try:
        runner.test(
            test_module=module,
            hdl_toplevel="top",
            hdl_toplevel_lang="verilog",
            seed=seed(),
            extra_env=environment,
            results_xml=str(report),
            waves=waves,
            timescale=("1ns", "1ps"),
        )
    except (SystemExit, RuntimeError) as error:
        if not report.exists():
            return [f"the simulator ended early ({error})"]
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        case.get("name", "?")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return failed if cases else [f"{module} holds no tests"]


@contextmanager
def _tools(folder: Path) -> Iterator[None]:
    """An environment in which cocotb finds Verilator's program itself, whose front script needs Perl."""
    root, tools = verilator_root(), folder / "tools"
    tools.mkdir()
    (tools / "verilator").symlink_to(root / "bin" / "verilator_bin")
    changes = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "VERILATOR_ROOT": str(root),
        # Its makefiles call a Python by the name it had where they were packaged. Model and run-time library,
        # compiled anew for each bench, take longer to optimise than optimising them saves.
        # Nor do they know how this compiler is given a precompiled header.
        "MAKEFLAGS": f"PYTHON3={sys.executable} OPT_FAST=-O0 OPT_GLOBAL=-O0 CFG_CXXFLAGS_PCH_I=-include",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
