"""The generator lanes: weight rows from P0 programs."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import INSTRUCTION, P0

from .column_buffer import weight_row
from .ports import ReadPort, word_address_bits
from .records import struct_layout

__all__ = ["WeightDecoder"]


class WeightDecoder(wiring.Component):
    """Executes a program of `kolmogate.isa.INSTRUCTION`, with a lane a column, a row of weights a cycle.

    ``start`` abandons whatever was under way: waiting rows and requests are withdrawn, and answers still
    to come are ignored.

    =============  ==========================================================================
    instruction    cycles
    =============  ==========================================================================
    ZERO n         n
    LITERAL b x n  n, as long as the scratchpad grants one word of literals in 8 / b cycles
    END            none
    =============  ==========================================================================

    The next instruction is fetched while one runs. That takes 4 cycles and those it waits for its grant;
    what the one that runs is shorter is lost. The first row is at ``o`` 6 cycles after ``start``, 7 if it is
    literal.

    Members
    -------
    start : run the program at the word addresses ``code`` and ``literals``.
    code_port, literal_port : to the scratchpad. Literals are read ahead, up to `LiteralLanes.WORDS` words
        beyond those that the program takes.
    o : rows of weights, two's complement.
    error : the program held an unknown instruction and has ended there; until the next start.
    """

    start: Signal
    code: Signal
    literals: Signal
    o: stream.Interface
    error: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        address = word_address_bits(config)
        super().__init__(
            {
                "start": In(1),
                "code": In(address),
                "literals": In(address),
                "code_port": Out(ReadPort(config)),
                "literal_port": Out(ReadPort(config)),
                "o": Out(stream.Signature(weight_row(config))),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fetcher = fetcher = InstructionFetcher(self.config)
        m.submodules.lanes = lanes = LiteralLanes(self.config)
        wiring.connect(m, fetcher.port, wiring.flipped(self.code_port))
        wiring.connect(m, lanes.port, wiring.flipped(self.literal_port))
        m.d.comb += [
            fetcher.start.eq(self.start),
            fetcher.base.eq(self.code),
            lanes.start.eq(self.start),
            lanes.base.eq(self.literals),
        ]

        # The instruction at work; all its rows but one that are left.
        running = Signal()
        literal = Signal(reset_less=True)
        left = Signal(INSTRUCTION.widths["count"], reset_less=True)
        argument = Signal(INSTRUCTION.widths["argument"], reset_less=True)
        step = Signal()
        free = Signal()
        m.d.comb += [
            step.eq(running & (~self.o.valid | self.o.ready) & (~literal | lanes.available)),
            free.eq(~running | (step & (left == 0))),
            fetcher.take.eq(fetcher.valid & free),
            lanes.argument.eq(argument),
            lanes.take.eq(step & literal),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        # The bits of a row are registered before their signs are extended.
        bits = Signal(weight_row(self.config), reset_less=True)
        highest = Signal.like(argument)
        with m.If(step):
            m.d.sync += [
                self.o.valid.eq(1),
                bits.eq(Mux(literal, lanes.window.as_value(), 0)),
                highest.eq(argument),
                left.eq(left - 1),
            ]
        for c in range(self.config.columns):
            sign = bits[c].bit_select(highest, 1)
            m.d.comb += self.o.payload[c].eq(Cat(Mux(k < highest, bits[c][k], sign) for k in range(8)))
        with m.If(free):
            m.d.sync += running.eq(0)
        with m.If(fetcher.take):
            instruction = fetcher.instruction
            m.d.sync += [
                left.eq(instruction.count),
                argument.eq(instruction.argument),
                literal.eq(instruction.op == P0.LITERAL),
            ]
            with m.Switch(instruction.op):
                with m.Case(P0.ZERO, P0.LITERAL):
                    m.d.sync += running.eq(1)
                    m.d.comb += fetcher.more.eq(1)
                with m.Case(P0.END):
                    pass
                with m.Default():
                    m.d.sync += self.error.eq(1)
        with m.If(self.start):
            m.d.sync += [self.o.valid.eq(0), running.eq(0), self.error.eq(0)]
        return m


class InstructionFetcher(wiring.Component):
    """Holds the next instruction of the code stream.

    A word is read again for each of its instructions: they are rare, and a register for it is not small.

    Members
    -------
    start, base : begin with the first instruction at word ``base``.
    valid, instruction : it is there.
    take, more : it is taken; fetch the one behind it.
    """

    start: Signal
    valid: Signal
    take: Signal
    more: Signal
    instruction: data.View

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadPort(config)),
                "start": In(1),
                "base": In(word_address_bits(config)),
                "valid": Out(1),
                "instruction": Out(struct_layout(INSTRUCTION)),
                "take": In(1),
                "more": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots = 8 * self.config.columns // INSTRUCTION.bits
        address = Signal(word_address_bits(self.config), reset_less=True)
        slot = Signal(range(slots), reset_less=True)
        asking = Signal()
        # Answers come two cycles after their grant; those of grants before a start are not awaited.
        awaited = Signal(2)
        m.d.comb += [
            self.port.request.valid.eq(asking),
            self.port.request.payload.eq(address),
        ]
        m.d.sync += awaited.eq(Cat(asking & self.port.request.ready, awaited))
        with m.If(self.port.request.ready):
            m.d.sync += asking.eq(0)
        with m.If(awaited[-1]):
            m.d.sync += [
                self.valid.eq(1),
                self.instruction.as_value().eq(self.port.data.word_select(slot, INSTRUCTION.bits)),
                Cat(slot, address).eq(Cat(slot, address) + 1),
            ]
        with m.If(self.take):
            m.d.sync += [self.valid.eq(0), asking.eq(self.more)]
        with m.If(self.start):
            m.d.sync += [
                address.eq(self.base),
                slot.eq(0),
                asking.eq(1),
                awaited.eq(0),
                self.valid.eq(0),
            ]
        return m


class LiteralLanes(wiring.Component):
    """Reads the literal stream ahead and gives each lane its next bits.

    A lane sees two bytes of its stream, the current and the following word's, from a bit position that all
    lanes share.

    Members
    -------
    start, base : begin at word ``base``.
    argument : the numbers have ``argument + 1`` bits.
    available, window : they are here; each lane's is in the lowest bits of its byte.
    take : on to the next numbers.
    """

    # Enough to cover the way from a word taken to its successor, for a word a cycle.
    WORDS = 8

    start: Signal
    argument: Signal
    available: Signal
    window: data.View
    take: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadPort(config)),
                "start": In(1),
                "base": In(word_address_bits(config)),
                "argument": In(INSTRUCTION.widths["argument"]),
                "available": Out(1),
                "window": Out(weight_row(config)),
                "take": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self.config.columns
        # A read port with a register of its own, and the promise that no word is read while it is written:
        # block RAM then needs no logic around it.
        m.submodules.memory = words = memory.Memory(
            shape=8 * columns, depth=self.WORDS, init=[], attrs={"no_rw_check": True}
        )
        write = words.write_port()
        read = words.read_port(domain="comb")
        following = Signal(8 * columns, reset_less=True)
        m.d.sync += following.eq(read.data)

        # Requests as long as there is room for their answers.
        address = Signal(word_address_bits(self.config), reset_less=True)
        room = Signal(range(self.WORDS + 1))
        granted = Signal()
        awaited = Signal(2)
        pop = Signal()
        m.d.comb += [
            self.port.request.valid.eq(room != 0),
            self.port.request.payload.eq(address),
            granted.eq(self.port.request.valid & self.port.request.ready),
        ]
        m.d.sync += [
            awaited.eq(Cat(granted, awaited)),
            address.eq(address + granted),
            room.eq(room - granted + pop),
        ]

        # A ring of words whose oldest is in `following`. Its pointers count modulo twice the depth.
        written = Signal(range(2 * self.WORDS))
        taken = Signal(range(2 * self.WORDS))
        oldest = Signal.like(taken)
        present = Signal()
        m.d.comb += [
            write.en.eq(awaited[-1]),
            write.addr.eq(written),
            write.data.eq(self.port.data),
            oldest.eq(taken + pop),
            read.addr.eq(oldest),
        ]
        # A word can be read from the cycle after it was written.
        m.d.sync += [written.eq(written + write.en), taken.eq(oldest), present.eq(oldest != written)]

        current = Signal(8 * columns, reset_less=True)
        primed = Signal()
        position = Signal(3)
        end = Signal(4)
        m.d.comb += [
            end.eq(position + self.argument + 1),
            self.available.eq(primed & (~end[3] | present)),
            pop.eq(Mux(primed, self.take & end[3], present)),
        ]
        with m.If(pop):
            m.d.sync += [current.eq(following), primed.eq(1)]
        with m.If(self.take):
            m.d.sync += position.eq(end)
        with m.If(self.start):
            m.d.sync += [
                address.eq(self.base),
                room.eq(self.WORDS),
                awaited.eq(0),
                written.eq(0),
                taken.eq(0),
                present.eq(0),
                primed.eq(0),
                position.eq(0),
            ]

        for c in range(columns):
            lane = slice(8 * c, 8 * c + 8)
            m.d.comb += self.window[c].eq(Cat(current[lane], following[lane]) >> position)
        return m
