"""Driving and watching streams in Amaranth's own simulator.

`simulate` runs test benches against a component with every stream at its edge watched and with a
watchdog, so that a test ends whatever the component does. All randomness comes from `seed`, which the
environment variable ``KOLMOGATE_SEED`` overrides.
"""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

from amaranth.hdl import Elaboratable
from amaranth.lib import stream, wiring
from amaranth.sim import Simulator
from kolmogate.errors import UsageError

__all__ = ["StreamMonitor", "collect", "drive", "seed", "send_rows", "simulate", "stalls"]

Bench = Callable[[Any], Awaitable[None]]


def seed() -> int:
    """The seed of this run: ``KOLMOGATE_SEED`` if it is set, else 1."""
    text = os.environ.get("KOLMOGATE_SEED", "1")
    if not text.isdecimal():
        raise UsageError(f"KOLMOGATE_SEED must be a decimal number, not {text!r}")
    return int(text)


def stalls(source: random.Random, probability: float | None = None) -> Iterator[bool]:
    """Endless stall pattern; ``True`` means: do nothing this cycle.

    Without a ``probability`` the pattern is made of phases: none, few, many stalls, each of a random
    length, so that a component meets full speed, bursts and starvation in one run.
    """
    while True:
        chance = source.choice((0.0, 0.1, 0.5, 0.9)) if probability is None else probability
        for _ in range(source.randrange(1, 64)):
            yield source.random() < chance


class StreamMonitor:
    """Checks the contract of one stream, a cycle at a time.

    Once ``valid`` is high it stays high, and the payload holds, until a transfer. `observe` takes what
    a clock edge would see and raises `AssertionError` at the first breach; it needs no simulator, so
    the same monitor serves pysim and cocotb.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.cycle = 0
        self.transfers = 0
        self._waiting = False
        self._payload: object = None

    def observe(self, valid: object, ready: object, payload: object) -> None:
        """One clock cycle outside reset."""
        if self._waiting:
            assert valid, f"stream {self.name}: valid was dropped before a transfer in cycle {self.cycle}"
            assert payload == self._payload, (
                f"stream {self.name}: payload changed from {self._payload!r} to {payload!r} while it waited "
                f"in cycle {self.cycle}"
            )
        self._waiting = bool(valid) and not ready
        self._payload = payload
        self.transfers += bool(valid) and bool(ready)
        self.cycle += 1

    async def watch(self, ctx: Any, port: stream.Interface) -> None:
        """Observe ``port`` for ever: a background test bench."""
        async for _, reset, valid, ready, payload in ctx.tick().sample(port.valid, port.ready, port.payload):
            assert not reset
            self.observe(valid, ready, payload)


async def drive(ctx: Any, port: stream.Interface, payloads: Iterable[Any], pauses: Iterator[bool]) -> None:
    """Send ``payloads`` into ``port``, pausing between them as ``pauses`` says."""
    for payload in payloads:
        while next(pauses):
            await ctx.tick()
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        while not (await ctx.tick().sample(port.ready))[-1]:
            pass
        ctx.set(port.valid, 0)


async def send_rows(
    ctx: Any,
    port: Any,
    rows: Iterable[Any],
    pauses: Iterator[bool],
    last: Callable[[Any], bool] = lambda row: True,
) -> None:
    """Send ``rows`` into a `kolmogate_hw.ports.RowPort`, where each arrives two cycles after it set out.

    ``last`` says of which rows room is reserved with them.
    """
    way: list[Any] = [None, None]
    source = iter(rows)
    row = next(source, None)
    room = True
    while row is not None or any(one is not None for one in way):
        if not port.signature.ahead:
            room = bool(ctx.get(port.room))
        sets_out = row is not None and room and not next(pauses)
        ctx.set(port.reserve, sets_out and last(row))
        way.append(row if sets_out else None)
        arrived = way.pop(0)
        ctx.set(port.write, arrived is not None)
        if arrived is not None:
            ctx.set(port.row, arrived)
        if sets_out:
            row = next(source, None)
        _, _, room = await ctx.tick().sample(port.room)
    ctx.set(port.reserve, 0)
    ctx.set(port.write, 0)


async def collect(ctx: Any, port: stream.Interface, pauses: Iterator[bool]) -> AsyncIterator[Any]:
    """Yield what arrives on ``port``, for ever, holding ``ready`` low as ``pauses`` says."""
    while True:
        while next(pauses):
            await ctx.tick()
        ctx.set(port.ready, 1)
        valid = False
        while not valid:
            _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        ctx.set(port.ready, 0)
        yield payload


def simulate(
    component: wiring.Component, *benches: Bench, cycles: int, background: Iterable[Bench] = ()
) -> dict[str, StreamMonitor]:
    """Run ``benches`` until all have ended, with a monitor on every stream at the component's edge.

    Parameters
    ----------
    component : Component
        The device under test, in the ``sync`` domain.
    benches : async functions of a context
        The run ends when the last of them returns.
    cycles : int
        Watchdog: `AssertionError` if the benches have not ended after so many cycles.
    background : async functions of a context
        Benches that need not end.

    Returns the monitors by the name of their stream.
    """
    monitors = {}
    simulator = Simulator(component)
    simulator.add_clock(1e-6)

    async def watchdog(ctx: Any) -> None:
        for _ in range(cycles):
            await ctx.tick()
        raise AssertionError(f"the test benches did not end within {cycles} cycles")

    for name, port in stream_ports(component).items():
        monitor = monitors[name] = StreamMonitor(name)
        simulator.add_testbench(_watching(monitor, port), background=True)
    for bench in background:
        simulator.add_testbench(bench, background=True)
    simulator.add_testbench(watchdog, background=True)
    for bench in benches:
        simulator.add_testbench(bench)
    simulator.run()
    return monitors


def _watching(monitor: StreamMonitor, port: stream.Interface) -> Bench:
    async def watch(ctx: Any) -> None:
        await monitor.watch(ctx, port)

    return watch


def stream_ports(component: Elaboratable) -> dict[str, stream.Interface]:
    """Every stream among the ports of a component, by dotted name."""
    ports = {}

    def search(interface: Any, path: tuple[str, ...]) -> None:
        if isinstance(interface, stream.Interface):
            ports[".".join(path)] = interface
        elif isinstance(interface, list | tuple):
            for index, element in enumerate(interface):
                search(element, (*path, str(index)))
        elif isinstance(signature := getattr(interface, "signature", None), wiring.Signature):
            for name, member in signature.members.items():
                if member.is_signature or member.dimensions:
                    search(getattr(interface, name), (*path, name))

    search(component, ())
    return ports
