"""The link in front of a small memory: a device for tests of the link alone."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate_hw.link import Link
from kolmogate_hw.ports import HostPort

__all__ = ["MemoryDevice"]


class MemoryCore(wiring.Component):
    """A scratchpad, and inferences that do nothing for ``limit`` cycles; bit 31 of it is an error."""

    host: Any

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({"host": In(HostPort())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=self.config.scratchpad_bytes, init=[])
        read, write = memory.read_port(), memory.write_port()
        host, left = self.host, Signal(31)
        m.d.comb += [
            host.request.ready.eq(1),
            read.addr.eq(host.request.p.address),
            write.addr.eq(host.request.p.address),
            write.data.eq(host.request.p.data),
            write.en.eq(host.request.valid & host.request.p.write),
            host.data.eq(read.data),
            host.busy.eq(left != 0),
        ]
        m.d.sync += host.valid.eq(host.request.valid & ~host.request.p.write)
        with m.If(host.busy):
            m.d.sync += [left.eq(left - 1), host.cycles.eq(host.cycles + 1)]
        with m.If(host.start):
            m.d.sync += [left.eq(host.limit), host.cycles.eq(0), host.error.eq(host.limit[31])]
        with m.If(host.reset):
            m.d.sync += left.eq(0)
        return m


class MemoryDevice(wiring.Component):
    """`Link` and a memory of ``config.scratchpad_bytes``, which should be few: a simulation initialises them
    one by one."""

    i: stream.Interface
    o: stream.Interface

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.link = link = Link(self.config)
        m.submodules.core = core = MemoryCore(self.config)
        wiring.connect(m, link.host, core.host)
        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        return m
