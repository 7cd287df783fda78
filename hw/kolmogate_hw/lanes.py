"""The generator lanes: rows of weights and of constants from weight programs."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import INSTRUCTION, NO_PREDICTION, P0, SEEK_WORDS, WINDOW_BITS, WITHOUT_ARGUMENT
from kolmogate.programs.generate import STIRRING_TAPS

from .block_ram import UNDEFINED
from .column_buffer import weight_row
from .constants_buffer import record_row
from .entropy_engine import EntropyEngine, Terms
from .ports import ReadPort, RowPort, word_address_bits
from .records import struct_layout
from .rings import PAGES, RING_MEMBERS, Ring, reader_page
from .row_pipeline import RowKind, RowPipeline, seen_bits, view_layout

__all__ = ["WeightDecoder"]


class WeightDecoder(wiring.Component):
    """Executes a program of `kolmogate.isa.INSTRUCTION`, with a lane a column, a row a cycle.

    ``start`` abandons whatever was under way: rows that have set out do not arrive, requests are withdrawn,
    and answers still to come are ignored.

    =============  ==========================================================================
    instruction    cycles
    =============  ==========================================================================
    ZERO n         n
    LITERAL b x n  n, as long as the scratchpad grants one word of literals in 8 / b cycles
    GENERATE k x n n, as long as the scratchpad grants one word of literals in 8 / k cycles
    SKIP n         n
    SEEK           2, and from a row before it to a row of literals behind it 9, in fast machines 10;
                   streamed, it does nothing
    RECORDS n      as LITERAL 8 x n; coded as CODED
    CODED n        what `EntropyEngine` takes for its numbers, some 16 cycles each
    PREDICT        1
    LOOP           none, if the instruction before it takes as long as fetching it
    END            none
    =============  ==========================================================================

    The next instruction is fetched while one runs. That takes 4 cycles, in fast machines 5, and those it
    waits for its grant; what the one that runs is shorter is lost. The first row is at ``o`` 8 cycles after
    ``start``, 10 if it takes literals, 9 without a generator; a cycle less of all where there is no engine
    either, and one more in fast machines.

    Members
    -------
    start : run the program at the word addresses ``code`` and ``literals``; its coded stream lies below its
        literals.
    streamed, limits : of the rings that the program flows through, see `Ring`; valid from the cycle after
        ``start``.
    pages : those that the readers of the streams are in.
    code_port, literal_port, coded_port : to the scratchpad. Literals are read ahead, up to
        `MachineConfig.literal_words` beyond those that the program takes, coded bytes by two. Without an
        entropy engine ``coded_port`` is idle and a coded instruction unknown; without a generator GENERATE
        and SKIP are.
    o : rows of weights, two's complement.
    records : rows of constants, the last of a group marked; room is reserved with that one.
    error : the program held an unknown instruction and has ended there; until the next start. With an
        entropy engine and a generator every instruction is known.
    """

    start: Signal
    code: Signal
    literals: Signal
    o: wiring.PureInterface
    records: wiring.PureInterface
    error: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        address = word_address_bits(config)
        super().__init__(
            {
                "start": In(1),
                "code": In(address),
                "literals": In(address),
                "streamed": In(1),
                "limits": In(PAGES),
                "pages": Out(PAGES),
                "code_port": Out(ReadPort(config)),
                "literal_port": Out(ReadPort(config)),
                "coded_port": Out(ReadPort(config)),
                "o": Out(RowPort(config, weight_row(config))),
                "records": Out(RowPort(config, record_row(config))),
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
            fetcher.streamed.eq(self.streamed),
            fetcher.limit.eq(self.limits.code),
            lanes.streamed.eq(self.streamed),
            lanes.limit.eq(self.limits.literals),
            self.pages.code.eq(fetcher.page),
            self.pages.literals.eq(lanes.page),
        ]
        first_literal = Signal.like(self.literals, reset_less=True)
        with m.If(self.start):
            m.d.sync += first_literal.eq(self.literals)

        m.submodules.pipeline = pipeline = RowPipeline(self.config)
        m.d.comb += [
            pipeline.start.eq(self.start),
            self.o.write.eq(pipeline.made & ~pipeline.record),
            self.o.row.eq(pipeline.row),
            self.records.write.eq(pipeline.made & pipeline.record),
            self.records.row.row.eq(pipeline.row),
            self.records.row.last.eq(pipeline.last),
        ]

        # The instruction at work; all its rows but one that are left. SKIP is one of one-bit literals that
        # come to nothing.
        running = Signal()
        kind = Signal(RowKind, reset_less=True)
        silent = Signal(reset_less=True)
        left = Signal(INSTRUCTION.widths["count"], reset_less=True)
        argument = Signal(INSTRUCTION.widths["argument"], reset_less=True)
        # Bits of its literals that a row passes, and one of the next cycle.
        passed = Signal(4, reset_less=True)
        following_passed = Signal(4)
        m.d.sync += passed.eq(following_passed)
        available = Signal()
        step = Signal()
        free = Signal()
        ending = Signal(reset_less=True)
        reading = kind.literal | kind.generated
        # There is room for a row of the kind at work.
        room: Value = Mux(kind.record, self.records.room, self.o.room)
        if self.config.fast:
            room = Signal(init=1)
            following_record = Signal()
            m.d.sync += room.eq(Mux(following_record, self.records.room, self.o.room))
        m.d.comb += [
            available.eq(~reading | lanes.available),
            step.eq(running & room & available),
            self.o.reserve.eq(step & ~silent & ~kind.record),
            self.records.reserve.eq(step & kind.record & ending),
            free.eq(~running | (step & ending)),
            following_passed.eq(passed),
        ]
        if self.config.fast:
            m.d.comb += following_record.eq(kind.record)
        m.d.comb += [
            lanes.passed.eq(following_passed),
            lanes.take.eq(step & reading),
            pipeline.valid.eq(step & ~silent),
            pipeline.kind.eq(kind),
            pipeline.kind.highest_bit.eq(argument),
            pipeline.kind.last.eq(ending),
            pipeline.view.eq(lanes.view),
        ]
        if self.config.generator:
            # Windows that do not move are changed, the same for all lanes.
            stirred = Signal(WINDOW_BITS, reset_less=True)
            parity = Cat(stirred[tap] for tap in STIRRING_TAPS).xor()
            for lane in range(self.config.columns):
                m.d.comb += pipeline.view[lane].eq(lanes.view[lane] ^ stirred[::-1])
            with m.If(step & kind.generated & (argument == 0)):
                m.d.sync += stirred.eq(Cat(~parity, stirred))
        terms = None
        if self.config.entropy_engines:
            m.submodules.engine = engine = EntropyEngine(self.config)
            wiring.connect(m, engine.port, wiring.flipped(self.coded_port))
            terms = Signal(Terms, reset_less=True)
            m.d.comb += [
                engine.start.eq(self.start),
                engine.base.eq(self.literals),
                engine.streamed.eq(self.streamed),
                engine.limit.eq(self.limits.coded),
                self.pages.coded.eq(engine.page),
                engine.run.eq(running & kind.coded),
                engine.records.eq(kind.record),
                engine.live.eq(argument),
                engine.terms.eq(terms),
                engine.take.eq(pipeline.coded_take),
                engine.more.eq(~pipeline.coded_last),
                pipeline.coded_row.eq(engine.row),
            ]
            # Records take the whole row, numbers alone or from the ones above.
            with m.If(kind.record):
                m.d.comb += [
                    engine.live.eq(-1),
                    *(engine.terms[term].distance.eq(1) for term in range(2)),
                    engine.terms[0].shift.eq(Mux(argument[:2] == 2, 0, NO_PREDICTION)),
                    engine.terms[1].shift.eq(Mux(argument[:2] == 3, 0, NO_PREDICTION)),
                ]
            with m.If(kind.coded):
                m.d.comb += available.eq(engine.coming & ~pipeline.coding)
        with m.If(step):
            m.d.sync += [left.eq(left - 1), ending.eq(left == 1)]

        # LOOP does not wait for the instruction before it, which may still be making rows.
        again = Signal(INSTRUCTION.widths["count"] + 1)
        # A cycle late; the next LOOP is further away.
        not_again, once_more = Signal(init=1), Signal()
        m.d.sync += [not_again.eq(again == 0), once_more.eq(again == 1)]
        instruction = fetcher.instruction
        looping = Signal()
        # SEEK withdraws no request that waits for its grant. It resets much, so that it waits for the last
        # row, and then, off the arbiter's path, for a cycle in which nothing is asked for.
        seeking = Signal()
        settled = Signal()
        seek = Signal()
        m.d.sync += seek.eq(fetcher.valid & seeking & settled & ~running & ~seek)
        m.d.comb += [
            seeking.eq(instruction.op == P0.SEEK),
            settled.eq(~lanes.port.request.valid | lanes.port.request.ready),
            lanes.pause.eq(seek),
            looping.eq(instruction.op == P0.LOOP),
            fetcher.take.eq(Mux(seeking, seek, fetcher.valid & (free | looping))),
            # LOOP is always taken.
            fetcher.jump.eq(fetcher.valid & looping & ~once_more),
            fetcher.back.eq(instruction.argument),
        ]

        def unknown() -> None:
            m.d.sync += [running.eq(0), self.error.eq(1)]
            m.d.comb += fetcher.more.eq(0)

        with m.If(free):
            m.d.sync += running.eq(0)
        with m.If(fetcher.take):
            with m.If(~looping):
                m.d.comb += following_passed.eq(passed_by(instruction))
                if self.config.fast:
                    m.d.comb += following_record.eq(instruction.op == P0.RECORDS)
                m.d.sync += [
                    left.eq(instruction.count),
                    argument.eq(instruction.argument),
                    kind.eq(0),
                    silent.eq(0),
                ]
                rows = Mux(instruction.op == P0.RECORDS, instruction.count[:3], instruction.count)
                m.d.sync += ending.eq(rows == 0)
                if self.config.generator:
                    m.d.sync += stirred.eq(0)
            with m.Switch(instruction.op):
                with m.Case(P0.GENERATE):
                    m.d.sync += running.eq(1)
                    m.d.comb += fetcher.more.eq(1)
                    with m.If(instruction.argument != WITHOUT_ARGUMENT[P0.ZERO]):
                        if not self.config.generator:
                            unknown()
                        else:
                            with m.If(instruction.argument == WITHOUT_ARGUMENT[P0.SKIP]):
                                m.d.sync += [kind.literal.eq(1), silent.eq(1), argument.eq(0)]
                            with m.Else():
                                m.d.sync += kind.generated.eq(1)
                with m.Case(P0.LITERAL):
                    m.d.sync += [running.eq(1), kind.literal.eq(1)]
                    m.d.comb += fetcher.more.eq(1)
                with m.Case(P0.SEEK):
                    m.d.comb += fetcher.more.eq(1)
                with m.Case(P0.LOOP):
                    # Counts the runs that are left; 0 outside a loop.
                    m.d.comb += fetcher.more.eq(1)
                    m.d.sync += again.eq(Mux(not_again, instruction.count + 1, again - 1))
                with m.Case(P0.RECORDS):
                    m.d.sync += [running.eq(1), kind.record.eq(1), left[3:].eq(0)]
                    m.d.comb += fetcher.more.eq(1)
                    with m.If(instruction.argument[:2] == 0):
                        m.d.sync += [kind.literal.eq(1), argument.eq(7)]
                    with m.Else():
                        m.d.sync += kind.coded.eq(1)
                        if terms is None:
                            unknown()
                if terms is not None:
                    with m.Case(P0.CODED):
                        m.d.sync += [running.eq(1), kind.coded.eq(1)]
                        m.d.comb += fetcher.more.eq(1)
                    with m.Case(P0.PREDICT):
                        m.d.comb += fetcher.more.eq(1)
                        term = terms[instruction.argument[0]]
                        m.d.sync += [
                            term.distance.eq(instruction.count),
                            term.shift.eq(instruction.argument[1:]),
                        ]
                with m.Case(P0.END):
                    pass
                if terms is None:
                    # With an entropy engine there is no unknown instruction.
                    with m.Default():
                        unknown()
        sought = first_literal + SEEK_WORDS * Cat(instruction.count, instruction.argument)
        m.d.comb += [
            lanes.start.eq(self.start | (seek & ~self.streamed)),
            lanes.base.eq(Mux(self.start, self.literals, sought)),
        ]
        with m.If(self.start):
            m.d.sync += [running.eq(0), seek.eq(0), again.eq(0), self.error.eq(0)]
            if terms is not None:
                m.d.sync += [terms[term].shift.eq(NO_PREDICTION) for term in range(2)]
        return m


def passed_by(instruction: data.View) -> Value:
    """Bits of its literals that a row of an instruction passes, if it does any."""
    literal = Mux(instruction.op == P0.RECORDS, 8, instruction.argument + 1)
    skipped = instruction.argument == WITHOUT_ARGUMENT[P0.SKIP]
    return Mux(instruction.op == P0.GENERATE, Mux(skipped, 1, instruction.argument), literal)


class InstructionFetcher(wiring.Component):
    """Holds the next instruction of the code stream.

    A word is read again for each of its instructions: they are rare, and a register for it is not small.

    Members
    -------
    start, base : begin with the first instruction at word ``base``.
    streamed, limit, page : of the ring, see `Ring` and `reader_page`.
    valid, instruction : it is there.
    take, more : it is taken; fetch the one behind it, or with ``jump``, which comes with ``take`` alone, the
        one ``back + 1`` before it.
    """

    start: Signal
    streamed: Signal
    limit: Signal
    page: Signal
    valid: Signal
    take: Signal
    more: Signal
    jump: Signal
    back: Signal
    instruction: data.View

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadPort(config)),
                "start": In(1),
                "base": In(word_address_bits(config)),
                **RING_MEMBERS,
                "valid": Out(1),
                "instruction": Out(struct_layout(INSTRUCTION)),
                "take": In(1),
                "more": In(1),
                "jump": In(1),
                "back": In(INSTRUCTION.widths["argument"]),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slots = 8 * self.config.columns // INSTRUCTION.bits
        address = Signal(word_address_bits(self.config), reset_less=True)
        slot = Signal(range(slots), reset_less=True)
        asking = Signal()
        # Answers to grants before a start are not awaited.
        awaited = Signal(ReadPort(self.config).latency)
        ring = Ring(self.config, self.streamed, self.limit)
        granted = Signal()
        m.d.comb += [
            self.port.request.valid.eq(asking & ~ring.waits(address)),
            self.port.request.payload.eq(address),
            self.page.eq(reader_page(self.config, address)),
            granted.eq(self.port.request.valid & self.port.request.ready),
        ]
        m.d.sync += awaited.eq(Cat(granted, awaited))
        with m.If(granted):
            m.d.sync += asking.eq(0)
        with m.If(awaited[-1]):
            m.d.sync += [
                self.valid.eq(1),
                self.instruction.as_value().eq(self.port.data.word_select(slot, INSTRUCTION.bits)),
            ]
        place = Cat(slot, address)
        with m.If(self.take):
            m.d.sync += [self.valid.eq(0), asking.eq(self.more)]
        with m.If(awaited[-1] | self.jump):
            # The place is that behind the instruction which is here.
            m.d.sync += place.eq(ring.advance(place, Mux(self.jump, -2 - self.back, 1), len(slot)))
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

    A lane holds two or three bytes of its stream, those of successive words, and sees a part of them from a
    bit position that all lanes share.

    Members
    -------
    start, base : begin at word ``base``.
    streamed, limit, page : of the ring, see `Ring` and `reader_page`.
    pause : ask for nothing.
    available, view : what the lanes see is here, the next `seen_bits`.
    take, passed : pass so many of them, at most 8; ``passed`` is that of the next cycle.
    """

    start: Signal
    streamed: Signal
    limit: Signal
    page: Signal
    pause: Signal
    passed: Signal
    available: Signal
    view: data.View
    take: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadPort(config)),
                "start": In(1),
                "base": In(word_address_bits(config)),
                **RING_MEMBERS,
                "pause": In(1),
                "passed": In(4),
                "available": Out(1),
                "view": Out(view_layout(config)),
                "take": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self.config.columns
        depth = self.config.literal_words
        held = (seen_bits(self.config) + 6) // 8
        # A read port with a register of its own, and the promise that no word is read while it is written:
        # block RAM then needs no logic around it.
        m.submodules.memory = words = memory.Memory(
            shape=8 * columns, depth=depth, init=[], attrs={"no_rw_check": True}
        )
        write = words.write_port()
        read = words.read_port(domain="comb")
        following = Signal(8 * columns, name=UNDEFINED, reset_less=True)

        # Requests as long as there is room for their answers.
        address = Signal(word_address_bits(self.config), reset_less=True)
        room = Signal(range(depth + 1))
        granted = Signal()
        awaited = Signal(ReadPort(self.config).latency)
        # A word that is taken makes room a cycle later, off the path of those who take it.
        pop, popped = Signal(), Signal()
        ring = Ring(self.config, self.streamed, self.limit)
        m.d.comb += [
            self.port.request.valid.eq((room != 0) & ~ring.waits(address) & ~self.pause),
            self.port.request.payload.eq(address),
            self.page.eq(reader_page(self.config, address)),
            granted.eq(self.port.request.valid & self.port.request.ready),
        ]
        m.d.sync += [popped.eq(pop), awaited.eq(Cat(granted, awaited))]
        # The grant comes late, and only enables the registers.
        with m.If(granted != popped):
            m.d.sync += room.eq(room + Mux(popped, 1, -1))

        with m.If(granted):
            m.d.sync += address.eq(ring.advance(address, 1, 0))

        # A ring of words behind the one in `following`. Its pointers count modulo twice the depth.
        written = Signal(range(2 * depth))
        taken = Signal(range(2 * depth))
        some = Signal()
        present = Signal()
        m.d.comb += [
            write.en.eq(awaited[-1]),
            write.addr.eq(written),
            write.data.eq(self.port.data),
            read.addr.eq(taken),
            some.eq(taken != written),
        ]
        # A word can be read from the cycle after it was written.
        m.d.sync += [written.eq(written + write.en), present.eq(some | (present & ~pop))]
        with m.If(some & (pop | ~present)):
            m.d.sync += [following.eq(read.data), taken.eq(taken + 1)]

        # The words before it, oldest first, and how many there are.
        current = Signal(data.ArrayLayout(8 * columns, held), reset_less=True)
        primed = Signal(held)
        position = Signal(3)
        following_position = Signal(3)
        # Of what is passed, if it is. In a register: that all lanes take a new word hangs on it.
        end = Signal(4, reset_less=True)
        m.d.sync += [
            position.eq(following_position),
            end.eq(following_position + self.passed),
        ]
        m.d.comb += [
            following_position.eq(Mux(self.take, end, position)),
            self.available.eq(primed[0] & present),
            pop.eq(Mux(primed[0], self.take & end[3], present)),
        ]
        words_here = [*current, following]
        with m.If(pop):
            m.d.sync += [older.eq(newer) for older, newer in zip(current, words_here[1:], strict=True)]
            m.d.sync += primed.eq(Cat(primed[1:], 1))
        with m.If(self.start):
            m.d.comb += following_position.eq(0)
            m.d.sync += [
                address.eq(self.base),
                room.eq(depth),
                popped.eq(0),
                awaited.eq(0),
                written.eq(0),
                taken.eq(0),
                present.eq(0),
                primed.eq(0),
            ]

        for c in range(columns):
            m.d.comb += self.view[c].eq(Cat(word.word_select(c, 8) for word in words_here) >> position)
        return m
