"""The device: the core behind its link, as a board or a simulator instantiates it."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ErrorCode

from .core import Core
from .link import Link
from .ports import ACTIVITY

__all__ = ["Device"]


class Device(wiring.Component):
    """Accelerator with byte streams from (``i``) and to (``o``) the host.

    ``busy`` is high while an inference runs, ``failed`` after one that ended in an error.
    ``activity`` is for simulations (`ACTIVITY`); boards leave it unconnected.
    """

    i: stream.Interface
    o: stream.Interface
    busy: Signal
    failed: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "busy": Out(1),
                "failed": Out(1),
                "activity": Out(ACTIVITY),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.link = link = Link(self.config)
        m.submodules.core = core = Core(self.config)
        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        wiring.connect(m, link.host, core.host)
        m.d.comb += [
            self.busy.eq(core.host.busy),
            self.failed.eq(core.host.error != ErrorCode.NONE),
            self.activity.eq(core.activity),
        ]
        return m
