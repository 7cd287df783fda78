"""The window fetcher's end of a scratchpad port: requests on their way out, words on theirs to the rows."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, WORD_GRAIN

from .feeder import RunLayout
from .ports import UnalignedReadPort

__all__ = ["VisitPort"]


class VisitPort(wiring.Component):
    """Holds a request until it is granted, and gives the answer to the rows that it is for.

    Requests wait for their grant in a register, which keeps the arbiter and the walk apart.

    Members
    -------
    free : the next request may come, as the one before is granted.
    advance, wanted, address, targets, tag : it comes, or none if none is ``wanted``: for the word from
        ``address`` on, for the rows ``targets``. Only while ``free``.
    push, run : the word, with its tag, for the rows in ``push``: two cycles after the grant, or three.
    """

    free: Signal
    advance: Signal
    wanted: Signal
    address: Signal
    targets: Signal
    push: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "free": Out(1),
                "advance": In(1),
                "wanted": In(1),
                "address": In(ADDRESS_BITS),
                "targets": In(config.rows),
                "tag": In(RunLayout(config)),
                "port": Out(UnalignedReadPort(config)),
                "push": Out(config.rows),
                "run": Out(RunLayout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, request = self.config, self.port.request
        targets = Signal(config.rows, reset_less=True)
        tag = Signal(RunLayout(config), reset_less=True)
        m.d.comb += self.free.eq(~request.valid | request.ready)
        with m.If(request.ready):
            m.d.sync += request.valid.eq(0)
        with m.If(self.advance):
            m.d.sync += [
                request.valid.eq(self.wanted),
                request.payload.eq(self.address[WORD_GRAIN.bit_length() - 1 :]),
                targets.eq(self.targets),
                tag.eq(self.tag),
            ]
        # The tags wait as long as the answers.
        pushed: Value = Mux(request.valid & request.ready, targets, 0)
        answer = tag
        for stage in range(UnalignedReadPort(config).latency):
            delayed = Signal(RunLayout(config), name=f"delayed_{stage}", reset_less=True)
            pushing = Signal(config.rows, name=f"pushed_{stage}")
            m.d.sync += [delayed.eq(answer), pushing.eq(pushed)]
            answer, pushed = delayed, pushing
        m.d.comb += [self.push.eq(pushed), self.run.eq(answer), self.run.word.eq(self.port.data)]
        return m
