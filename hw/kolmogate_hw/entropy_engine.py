"""The entropy engine: rows of numbers from the coded stream, P1 of the weight programs."""

from enum import IntEnum

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import HISTORY_ROWS, NO_PREDICTION, RECORD_HEADS
from kolmogate.programs import entropy

from .column_buffer import weight_row
from .ports import ReadPort, word_address_bits
from .rings import RING_MEMBERS, Ring, reader_page

__all__ = ["BitReader", "EntropyEngine", "Terms"]

Terms = data.ArrayLayout(data.StructLayout({"distance": range(HISTORY_ROWS), "shift": 2}), 2)
"""The two terms of a prediction, as PREDICT sets them."""

PROBABILITY = entropy.PROBABILITY_BITS


Context = data.StructLayout({"probability": PROBABILITY, "rate": 3})
"""A context in its memory; a column's running mean is a probability without a rate."""


class Stage(IntEnum):
    """Which decision about a number is next."""

    UNARY = 0
    FIRST = 1
    SECOND = 2
    SIGN = 3
    ZERO = 4


class EntropyEngine(wiring.Component):
    """Decodes what `kolmogate.programs.entropy` codes, one row of columns after the other.

    While ``run`` is high it makes the rows of an instruction, first row first; each stays at ``row`` until
    ``take``, with which ``more`` says whether the instruction has another one. ``coming`` is high from two
    cycles before it is there.

    ================  =======================================================================
    of                cycles
    ================  =======================================================================
    ``start``         1,024 to forget all contexts, 9 for the first bits
    row               3
    number            3, and one more if its sign was decided or it was said to be 0
    decision          3, and one more for each bit but the first that the range had to be shifted
    plain bit         1
    ================  =======================================================================

    Members
    -------
    start, base : begin with the byte below word ``base``, whatever was under way.
    streamed, limit, page : of the ring, see `Ring` and `reader_page`.
    run, records, live, terms : an instruction, held to its end: whether its rows are records, the number of
        its coded columns less one, in eighths of all columns, and its prediction.
    """

    start: Signal
    base: Signal
    streamed: Signal
    limit: Signal
    page: Signal
    run: Signal
    records: Signal
    live: Signal
    terms: data.View
    coming: Signal
    row: data.View
    take: Signal
    more: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadPort(config)),
                "start": In(1),
                "base": In(word_address_bits(config)),
                **RING_MEMBERS,
                "run": In(1),
                "records": In(1),
                "live": In(3),
                "terms": In(Terms),
                "coming": Out(1),
                "row": Out(weight_row(config)),
                "take": In(1),
                "more": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = BitReader(self.config)
        decoder = RowDecoder(self.config)
        m.submodules.decoder = ResetInserter(self.start)(decoder)
        wiring.connect(m, reader.port, wiring.flipped(self.port))
        m.d.comb += [
            reader.start.eq(self.start),
            reader.base.eq(self.base),
            reader.streamed.eq(self.streamed),
            reader.limit.eq(self.limit),
            self.page.eq(reader.page),
            decoder.bit.eq(reader.bit),
            decoder.bit_valid.eq(reader.valid),
            reader.take.eq(decoder.bit_take),
            decoder.run.eq(self.run),
            decoder.records.eq(self.records),
            decoder.live.eq(self.live),
            decoder.terms.eq(self.terms),
            self.coming.eq(decoder.coming),
            self.row.eq(decoder.row),
            decoder.take.eq(self.take),
            decoder.more.eq(self.more),
        ]
        return m


class RowDecoder(wiring.Component):
    """The engine without its reader; its reset begins a stream. Members as those of `EntropyEngine`."""

    bit: Signal
    bit_valid: Signal
    bit_take: Signal
    run: Signal
    records: Signal
    live: Signal
    terms: data.View
    coming: Signal
    row: data.View
    take: Signal
    more: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "bit": In(1),
                "bit_valid": In(1),
                "bit_take": Out(1),
                "run": In(1),
                "records": In(1),
                "live": In(3),
                "terms": In(Terms),
                "coming": Out(1),
                "row": Out(weight_row(config)),
                "take": In(1),
                "more": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self.config.columns
        m.submodules.contexts = contexts = memory.Memory(
            shape=Context, depth=entropy.CONTEXTS, init=[], attrs={"no_rw_check": True}
        )
        read_context = contexts.read_port()
        write_context = contexts.write_port()
        m.submodules.history = history = memory.Memory(
            shape=weight_row(self.config), depth=HISTORY_ROWS, init=[], attrs={"no_rw_check": True}
        )
        read_history = history.read_port()
        write_history = history.write_port(granularity=1)

        # Where we are: row of the instruction, its highest bit saying "beyond the history", and column.
        t = Signal(range(2 * HISTORY_ROWS), reset_less=True)
        c = Signal(range(columns), reset_less=True)

        # A number: class, unary part, decisions, magnitude, sign.
        octave = Signal(3, reset_less=True)
        new_octave = Signal(3)
        noise = Signal(3)
        h = Signal(3, reset_less=True)
        first = Signal(reset_less=True)
        stage = Signal(Stage, reset_less=True)
        u = Signal(7, reset_less=True)
        negative = Signal(reset_less=True)
        plain = Signal(range(9), reset_less=True)
        mean = read_context.data.probability[5:]
        m.d.comb += noise.eq(Mux(octave[1:] == 0, 0, octave - 2))
        for bit in range(7):
            with m.If(mean[bit]):
                m.d.comb += new_octave.eq(bit + 1)

        # The context of the next decision, or the column's mean. Shifts have contexts of their own.
        at_mean = Signal()
        place = Signal(6)
        other = Signal(6)
        column = Signal(6)
        m.d.comb += [
            column.eq(c),
            other.eq(Mux(self.records & column[:3].all(), entropy.SHIFT_CONTEXTS, 0)),
        ]
        with m.Switch(stage):
            with m.Case(Stage.UNARY):
                m.d.comb += place.eq(Cat(Const(0, 2), h))
            with m.Case(Stage.FIRST):
                m.d.comb += place.eq(Cat(Const(1, 2), h))
            with m.Case(Stage.SECOND):
                m.d.comb += place.eq(Cat(first, Const(1, 1), h))
            with m.Case(Stage.SIGN):
                m.d.comb += place.eq(Cat(u[:2], Const(entropy.SIGNS >> 2, 4)))
            with m.Case(Stage.ZERO):
                m.d.comb += place.eq(entropy.ZEROS)
        m.d.comb += [
            read_context.addr.eq(
                Mux(
                    at_mean,
                    Cat(column[:3], Const(entropy.MEANS >> 3, 3), column[3:], self.records),
                    Cat(place ^ other, octave, self.records),
                )
            ),
        ]

        # The range coder. `bound` splits the range in proportion to the probability of a 1.
        size = Signal(entropy.RANGE_BITS, reset_less=True)
        code = Signal(entropy.RANGE_BITS, reset_less=True)
        bound = Signal(entropy.RANGE_BITS)
        halves = [Signal(PROBABILITY + 2, name=f"half_{k}", reset_less=True) for k in range(2)]
        rest = Signal(entropy.RANGE_BITS + 1)
        one = Signal()
        normal = size[-1]
        shift = Signal()
        m.d.comb += [
            bound.eq((halves[0] + (halves[1] << 1)) >> 5),
            rest.eq(code - bound),
            one.eq(rest[-1]),
        ]
        with m.If(shift & self.bit_valid):
            m.d.sync += [size.eq(size << 1), code.eq(Cat(self.bit, code))]

        # What was read from the context memory moves a part of the way to where it tends. All that is worked
        # out from registers, a cycle after the decision; until then nobody reads the same context.
        update = Signal()
        updating = Signal()
        forgetting = Signal()
        decided = Signal(reset_less=True)
        of_mean = Signal(reset_less=True)
        of_records = Signal(reset_less=True)
        before = Signal(Context, reset_less=True)
        target = Signal(PROBABILITY)
        step = Signal(signed(PROBABILITY + 1))
        rate = Signal(3)
        m.d.sync += [
            updating.eq(update),
            forgetting.eq(0),
            decided.eq(one),
            of_mean.eq(at_mean),
            of_records.eq(self.records),
            before.eq(read_context.data),
            write_context.addr.eq(read_context.addr),
        ]
        m.d.comb += [
            target.eq(Mux(decided, entropy.LIMITS[1], entropy.LIMITS[0])),
            rate.eq(before.rate),
        ]
        last_rate, mean_rate = (
            Mux(of_records, rates[1], rates[0]) for rates in (entropy.LAST_RATES, entropy.MEAN_RATES)
        )
        with m.If(of_mean):
            m.d.comb += [target.eq(Cat(Const(16, 5), u)), rate.eq(mean_rate)]
        m.d.comb += [
            step.eq((target - before.probability).as_signed() >> rate),
            write_context.en.eq(updating),
            write_context.data.probability.eq(before.probability + step),
            write_context.data.rate.eq(Mux(before.rate == last_rate, last_rate, before.rate + 1)),
        ]
        with m.If(forgetting):
            m.d.comb += [
                write_context.data.probability.eq(
                    Mux(write_context.addr[3:6] == entropy.MEANS >> 3, entropy.FIRST_MEAN, entropy.EVEN)
                ),
                write_context.data.rate.eq(entropy.FIRST_RATE),
            ]

        # The prediction: term 0 is read first, then term 1; each is added three cycles later.
        prediction = Signal(8, reset_less=True)
        which = Signal()
        term = Signal(Terms.elem_shape)
        back = Signal(range(2 * HISTORY_ROWS), reset_less=True)
        ahead = Signal()
        left = Signal()
        whole_row = Signal()
        # The second term of records is for their heads.
        counts = Signal()
        # Term 0 is read in the cycle of the first, and in `value` in that of the third; term 1 follows it.
        term_0_read = Signal()
        term_0_picked = Signal()
        term_0_here = Signal()
        term_1_here = Signal()
        source = Signal(range(columns), reset_less=True)
        used = Signal(reset_less=True)
        by = Signal(2, reset_less=True)
        # Of the row that is read, the eight columns with the term's.
        picked = Signal(64, reset_less=True)
        picked_source = Signal(3, reset_less=True)
        picked_used = Signal(reset_less=True)
        picked_by = Signal.like(by, reset_less=True)
        value = Signal(signed(8), reset_less=True)
        value_by = Signal.like(by, reset_less=True)
        m.d.comb += [
            term.eq(self.terms[which]),
            left.eq(term.distance == 0),
            counts.eq(~(which & self.records) | (c % RECORD_HEADS == RECORD_HEADS - 1)),
            read_history.addr.eq(Mux(whole_row, t, back)),
        ]
        # A distance beyond the first row borrows, unless the row's highest bit is there.
        m.d.sync += [
            # A cycle ahead: the row's and the term's numbers stay that long.
            back.eq(t - self.terms[ahead].distance),
            source.eq(c - left),
            used.eq((term.shift != NO_PREDICTION) & counts & Mux(left, c != 0, t >= term.distance)),
            by.eq(term.shift),
            picked.eq(read_history.data.as_value().word_select(source[3:], 64)),
            picked_source.eq(source),
            picked_used.eq(used),
            picked_by.eq(by),
            value.eq(Mux(picked_used, picked.word_select(picked_source, 8), 0)),
            value_by.eq(picked_by),
            term_0_picked.eq(term_0_read),
            term_0_here.eq(term_0_picked),
            term_1_here.eq(term_0_here),
        ]
        with m.If(term_0_here | term_1_here):
            m.d.sync += prediction.eq(Mux(term_0_here, 0, prediction) + (value >> value_by))

        number = Signal(8)
        m.d.comb += [
            number.eq((Cat(u, 0) ^ negative.replicate(8)) + prediction),
            write_history.addr.eq(t),
        ]
        for lane in range(columns):
            m.d.comb += write_history.data[lane].eq(number)

        m.d.comb += self.row.eq(read_history.data)
        were_records = Signal()
        clearing = Signal(range(entropy.CONTEXTS))
        last = Signal()
        # A cycle late; `c` stays longer.
        m.d.sync += last.eq(c == Cat(Const(-1, len(c) - 3) if len(c) > 3 else Const(0, 0), self.live))
        # Of the next cycle: rows are set out by it, all over the machine.
        coming = Signal()
        m.d.sync += self.coming.eq(coming)
        with m.FSM(init="CLEAR") as fsm:
            with m.State("CLEAR"):
                m.d.comb += update.eq(1)
                m.d.sync += [
                    forgetting.eq(1),
                    write_context.addr.eq(clearing),
                    clearing.eq(clearing + 1),
                    size.eq(1),
                ]
                with m.If(clearing == entropy.CONTEXTS - 1):
                    m.next = "HEAD"
            with m.State("HEAD"):
                # As many bits as shift a 1 through the range.
                m.d.comb += shift.eq(1)
                with m.If(self.bit_valid & normal):
                    m.d.sync += size.eq((1 << entropy.RANGE_BITS) - 1)
                    m.next = "IDLE"
            with m.State("IDLE"), m.If(self.run):
                # Records go on behind the records before them.
                with m.If(~(self.records & were_records)):
                    m.d.sync += t.eq(0)
                m.d.sync += were_records.eq(self.records)
                m.next = "ROW"
            with m.State("ROW"):
                m.d.comb += write_history.en.eq(-1)
                for lane in range(columns):
                    m.d.comb += write_history.data[lane].eq(0)
                m.d.sync += c.eq(0)
                m.next = "MEAN"
            with m.State("MEAN"):
                m.d.comb += [at_mean.eq(1), ahead.eq(1)]
                m.next = "OCTAVE"
            with m.State("OCTAVE"):
                m.d.comb += [which.eq(1), term_0_read.eq(1)]
                m.d.sync += [
                    octave.eq(new_octave),
                    h.eq(0),
                    stage.eq(Mux(new_octave == 7, Stage.FIRST, Stage.UNARY)),
                ]
                with m.If(new_octave < entropy.ZERO_CLASSES):
                    m.d.sync += stage.eq(Stage.ZERO)
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += shift.eq(~normal)
                with m.If(normal | (size[-2] & self.bit_valid)):
                    m.next = "BOUND"
            with m.State("BOUND"):
                # A product of 10 by 4 bits, kept out of the multipliers that the array needs: the memory is
                # slow, so that the sum of its halves is left to the next cycle.
                p = read_context.data.probability[2:]
                m.d.sync += [
                    halves[0].eq(Mux(size[5], p, 0) + (p << 3)),
                    halves[1].eq(Mux(size[6], p, 0) + Mux(size[7], p << 1, 0)),
                ]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.comb += update.eq(1)
                m.d.sync += [
                    size.eq(Mux(one, bound, size - bound)),
                    code.eq(Mux(one, code, rest)),
                ]
                m.next = "READ"
                with m.Switch(stage):
                    with m.Case(Stage.UNARY):
                        # The most that the class needs: 7, or what 7 bits of magnitude leave.
                        limit = Mux(noise[2], 0, Mux(noise[:2] == 3, 2, 6))
                        m.d.sync += h.eq(h + one)
                        with m.If(~one | (h == limit)):
                            m.d.sync += stage.eq(Stage.FIRST)
                        with m.If(one & (h == entropy.UNARY - 1)):
                            m.d.sync += plain.eq(8)
                            m.next = "PLAIN"
                    with m.Case(Stage.FIRST):
                        m.d.sync += [first.eq(one), stage.eq(Stage.SECOND)]
                    with m.Case(Stage.SECOND):
                        m.d.sync += [
                            u.eq(Cat(one, first, h)),
                            plain.eq(noise + 1),
                            stage.eq(Stage.SIGN),
                        ]
                        with m.If((noise != 0) | (h != 0)):
                            m.next = "PLAIN"
                    with m.Case(Stage.SIGN):
                        m.d.sync += negative.eq(one)
                        m.next = "UPDATE"
                    with m.Case(Stage.ZERO):
                        m.d.sync += stage.eq(Stage.UNARY)
                        with m.If(~one):
                            m.d.sync += [u.eq(0), negative.eq(0)]
                            m.next = "UPDATE"
            with m.State("PLAIN"):
                # Bits of the magnitude and then the sign, after those that normalise the range.
                m.d.comb += [shift.eq(~normal), at_mean.eq(1)]
                with m.If(normal & self.bit_valid):
                    m.d.sync += plain.eq(plain - 1)
                    with m.If(plain == 1):
                        m.d.sync += negative.eq(self.bit)
                        m.d.comb += coming.eq(last)
                        m.next = "FINISH"
                    with m.Else():
                        m.d.sync += u.eq(Cat(self.bit, u))
            with m.State("UPDATE"):
                m.d.comb += [at_mean.eq(1), coming.eq(last)]
                m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += [at_mean.eq(1), update.eq(1)]
                for lane in range(columns):
                    m.d.comb += write_history.en[lane].eq(c == lane)
                m.d.sync += c.eq(c + 1)
                m.next = "MEAN"
                with m.If(last):
                    m.d.comb += coming.eq(1)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += [whole_row.eq(1), coming.eq(1)]
                m.next = "ROW_READY"
            with m.State("ROW_READY"):
                m.d.comb += [whole_row.eq(1), coming.eq(~self.take)]
                with m.If(self.take):
                    # Saturates: from there on every distance is within reach.
                    m.d.sync += t.eq(Cat((t + 1)[:-2], (t + 1)[-2] | t[-1]))
                    m.next = "ROW"
                    with m.If(~self.more):
                        m.next = "IDLE"
        # Normalising the range takes bits, plain ones are taken.
        m.d.comb += self.bit_take.eq(
            fsm.ongoing("HEAD") | fsm.ongoing("PLAIN") | (fsm.ongoing("READ") & ~normal)
        )
        return m


class BitReader(wiring.Component):
    """Bits of a stream that grows towards lower addresses, highest bit of a byte first, one a cycle.

    A byte is read ahead, so that none is waited for unless the scratchpad is busy.

    Members
    -------
    start, base : begin with the byte below word ``base``.
    streamed, limit, page : of the ring, see `Ring` and `reader_page`.
    valid, bit : the next bit; ``take`` it, if it is there.
    """

    start: Signal
    base: Signal
    streamed: Signal
    limit: Signal
    page: Signal
    valid: Signal
    bit: Signal
    take: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "port": Out(ReadPort(config)),
                "start": In(1),
                "base": In(word_address_bits(config)),
                **RING_MEMBERS,
                "valid": Out(1),
                "bit": Out(1),
                "take": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot = Signal(range(self.config.columns), reset_less=True)
        address = Signal(word_address_bits(self.config), reset_less=True)
        asking = Signal()
        # Answers to grants before a start are not awaited.
        awaited = Signal(ReadPort(self.config).latency)
        ahead = Signal(8, reset_less=True)
        present = Signal()
        current = Signal(8, reset_less=True)
        # Bits of it behind the next.
        left = Signal(3, reset_less=True)
        load = Signal()
        ring = Ring(self.config, self.streamed, self.limit)
        granted = Signal()
        m.d.comb += [
            self.port.request.valid.eq(asking & ~ring.waits(address)),
            self.port.request.payload.eq(address),
            self.page.eq(reader_page(self.config, address)),
            granted.eq(self.port.request.valid & self.port.request.ready),
            self.bit.eq(current[-1]),
            load.eq(present & (~self.valid | ((left == 0) & self.take))),
        ]
        m.d.sync += awaited.eq(Cat(granted, awaited))
        with m.If(granted):
            m.d.sync += asking.eq(0)
        with m.If(awaited[-1]):
            m.d.sync += [
                ahead.eq(self.port.data.word_select(slot, 8)),
                present.eq(1),
                Cat(slot, address).eq(ring.advance(Cat(slot, address), -1, len(slot))),
            ]
        with m.If(self.take):
            m.d.sync += [current.eq(current << 1), left.eq(left - 1)]
            with m.If(left == 0):
                m.d.sync += self.valid.eq(0)
        with m.If(load):
            m.d.sync += [current.eq(ahead), left.eq(7), self.valid.eq(1), present.eq(0), asking.eq(1)]
        with m.If(self.start):
            m.d.sync += [
                slot.eq(-1),
                address.eq(self.base - 1),
                asking.eq(1),
                awaited.eq(0),
                present.eq(0),
                self.valid.eq(0),
            ]
        return m
