"""A row feeder: the activations of one array row, a byte or a word at a time."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import WORD_GRAIN

from .block_ram import BlockRam

__all__ = ["RowFeeder", "RunLayout"]


class RunLayout(data.StructLayout):
    """A scratchpad word on its way to a row: bytes ``start`` to ``last`` of it are activations.

    ``window_end`` marks the last word of a window (of several rows that the word is for: that of the last),
    ``final_tile`` the last tile of a column group. There ``last_row`` is the last row with a position.
    """

    def __init__(self, config: MachineConfig) -> None:
        lane_bits = config.columns.bit_length() - 1
        super().__init__(
            {
                "start": range(WORD_GRAIN),
                "last": lane_bits,
                "window_end": 1,
                "final_tile": 1,
                "last_row": range(config.rows),
                "word": 8 * config.columns,
            }
        )


class RowFeeder(wiring.Component):
    """Holds up to ``config.feeder_depth`` words, the head among them, and walks through their bytes.

    A word is at the head two cycles after it came, or in the cycle after its predecessor has left.

    Members
    -------
    push, run : a word comes in; there must be room (``pop`` tells when a word has left).
    valid : the head holds an activation; ``byte`` and ``word`` are it.
    follows : whether ``valid`` will be high in the next cycle, without a ``step`` and with one.
    window_end, final_tile, last_row : the activation is the last of a window; its tile is the last of a
        group, where it ends with that row.
    step : take the activation. In ``word_mode`` that is the whole word.
    """

    push: Signal
    valid: Signal
    follows: Signal
    byte: Signal
    word: Signal
    window_end: Signal
    final_tile: Signal
    last_row: Signal
    word_mode: Signal
    step: Signal
    pop: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.layout = RunLayout(config)
        super().__init__(
            {
                "push": In(1),
                "run": In(self.layout),
                "word_mode": In(1),
                "step": In(1),
                "pop": Out(1),
                "valid": Out(1),
                "follows": Out(2),
                "byte": Out(8),
                "word": Out(8 * config.columns),
                "window_end": Out(1),
                "final_tile": Out(1),
                "last_row": Out(range(config.rows)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A run of a single activation is marked when it comes.
        depth = self.config.feeder_depth
        m.submodules.waiting = waiting = BlockRam(data.StructLayout({"run": self.layout, "single": 1}), depth)
        head = waiting.read_data.run
        # Pointers count modulo twice the depth, so that full and empty differ.
        written = Signal(range(2 * depth))
        taken = Signal(range(2 * depth))
        take = Signal()
        some = Signal()
        # The head's first activation is where its run starts; then the pointer says.
        fresh = Signal(reset_less=True)
        pointer = Signal.like(head.last, reset_less=True)
        place = Signal.like(pointer)
        at_last = Signal()
        pointer_at_last = Signal(reset_less=True)
        m.d.comb += [
            waiting.write.en.eq(self.push),
            waiting.write.addr.eq(written),
            waiting.write.data.run.eq(self.run),
            waiting.write.data.single.eq(self.run.start == self.run.last),
            some.eq(taken != written),
            take.eq((self.pop | ~self.valid) & some),
            self.follows.eq(Cat(self.valid | some, ~at_last | some)),
            waiting.read_enable.eq(take),
            waiting.read_address.eq(taken),
            place.eq(Mux(fresh, head.start, pointer)),
            at_last.eq(self.word_mode | Mux(fresh, waiting.read_data.single, pointer_at_last)),
            self.pop.eq(self.step & at_last),
            self.byte.eq(head.word.word_select(place, 8)),
            self.word.eq(head.word),
            self.window_end.eq(head.window_end & at_last),
            self.final_tile.eq(head.final_tile),
            self.last_row.eq(head.last_row),
        ]
        m.d.sync += [written.eq(written + self.push), taken.eq(taken + take)]
        with m.If(self.step):
            following = Signal.like(place)
            m.d.comb += following.eq(place + 1)
            m.d.sync += [pointer.eq(following), pointer_at_last.eq(following == head.last), fresh.eq(0)]
        with m.If(self.pop):
            m.d.sync += self.valid.eq(0)
        with m.If(take):
            m.d.sync += [self.valid.eq(1), fresh.eq(1)]
        return m
