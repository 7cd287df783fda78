"""Residual addition: a tensor in the scratchpad is added to a layer's outputs on their way there."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, RESIDUAL, RESIDUAL_FRACTION

from .block_ram import BlockRam
from .ports import BatchPort
from .records import struct_layout
from .requantiser import sum_of, with_carry

__all__ = ["DIGIT_BITS", "ROWS", "ResidualAdder"]

DIGIT_BITS = 4
"""Bits of both scales that are multiplied with in a cycle."""

ROWS = RESIDUAL.widths["output_scale"] // DIGIT_BITS + 1
"""Cycles in which a record is taken: one for each digit of the scales, lowest first, one for what is left."""

FRACTION_ROWS = RESIDUAL_FRACTION // DIGIT_BITS


class ResidualAdder(wiring.Component):
    """Adds by the formula of `kolmogate.isa.RESIDUAL`, or passes outputs on.

    Members
    -------
    start, row, record : add a tensor to the outputs of the layer that begins next. ``start`` is high for
        `ROWS` cycles, which ``row`` counts; the scales move down by a digit with each.
    done : that layer is complete: pass on what follows.
    i, o : batches of Q outputs; ``o`` must be ready.
    accept : the batch that was at ``i`` has been taken, two cycles before where something is added.
    address : where the outputs at ``i`` go; it is to move on with ``accept``.
    adding : something is added: what is taken at ``i`` comes out at ``o`` in a later cycle, but before the
        next is accepted.
    port : to the scratchpad, for the tensor.

    Throughput: a batch a cycle where nothing is added, else one in 9 cycles, and the more the scratchpad
    takes longer than 5 to answer, in fast machines 4. What is added to comes out 10 cycles after it was
    taken.
    """

    i: stream.Interface
    o: stream.Interface
    start: Signal
    row: Signal
    record: data.View
    done: Signal
    accept: Signal
    address: Signal
    adding: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        batch = stream.Signature(data.ArrayLayout(8, config.requantisers))
        super().__init__(
            {
                "start": In(1),
                "row": In(range(ROWS)),
                "record": In(struct_layout(RESIDUAL)),
                "done": In(1),
                "i": In(batch),
                "o": Out(batch),
                "accept": Out(1),
                "address": In(ADDRESS_BITS),
                "adding": Out(1),
                "port": Out(BatchPort(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, record = self.config, self.record
        lanes = config.requantisers
        lane_bits = config.columns.bit_length() - 1

        # The scales' digits and the zero points of what comes in are in a memory that is read in turn, what
        # goes with the result in registers.
        m.submodules.settings = settings = BlockRam(16, ROWS)
        offset = Signal(len(record.offset) - lane_bits, reset_less=True)  # in words
        largest = Signal(reset_less=True)
        zero_point = Signal(signed(8), reset_less=True)
        minimum = Signal(signed(8), reset_less=True)
        maximum = Signal(signed(8), reset_less=True)
        digits = Cat(record.output_scale[:DIGIT_BITS], record.operand_scale[:DIGIT_BITS])
        m.d.comb += [
            settings.write.en.eq(self.start),
            settings.write.addr.eq(self.row),
            settings.write.data.eq(
                Cat(
                    Mux(self.row == ROWS - 1, record.output_zero_point, digits)[:8], record.operand_zero_point
                )
            ),
        ]
        with m.If(self.done):
            m.d.sync += self.adding.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.adding.eq(1),
                offset.eq(record.offset[lane_bits:]),
                largest.eq(record.largest),
                zero_point.eq(record.zero_point),
                minimum.eq(record.minimum),
                maximum.eq(record.maximum),
            ]

        # The operands of the batch at ``i`` are fetched while the one before is at work. The request comes a
        # cycle before the address.
        take = Signal()
        taken = Signal(2)
        m.d.sync += taken.eq(Cat(take, taken))
        m.d.comb += [
            self.port.request.eq(self.i.valid & self.adding & ~taken[0]),
            self.port.address.eq(Cat(self.address[:lane_bits], self.address[lane_bits:] + offset)),
            self.port.take.eq(take),
        ]

        # The row of the settings that is here; between batches it is the last, with the zero points.
        row = Signal(range(ROWS), init=ROWS - 1)
        following = Signal.like(row)
        if config.fast:
            # In registers: the operands come from afar.
            here = Signal()
            working, busy = Signal(), Signal()
        else:
            working = Signal()
        # The sum is there; what it is rounded to; what comes of it.
        summed, rounded, full = Signal(), Signal(), Signal()
        setting = settings.read_data
        if config.fast:
            ready = here & self.i.valid & ~busy
        else:
            ready = self.port.valid & self.i.valid & ~working & ~summed
        m.d.comb += [
            working.eq(row != ROWS - 1),
            take.eq(ready),
            following.eq(Mux(take | working, row + 1, row)),
            settings.read_enable.eq(1),
            settings.read_address.eq(following),
        ]
        m.d.sync += row.eq(following)
        if config.fast:
            m.d.sync += [
                here.eq(self.port.valid & ~take),
                busy.eq((following != ROWS - 1) | (row == ROWS - 2)),
            ]
        m.d.sync += [
            summed.eq(row == ROWS - 2),
            rounded.eq(summed),
            full.eq(rounded),
        ]

        m.d.comb += [
            self.i.ready.eq(~self.adding | take),
            self.o.valid.eq(Mux(self.adding, full, self.i.valid)),
            self.accept.eq(Mux(self.adding, taken[1], self.i.valid)),
        ]
        for q in range(lanes):
            output = Signal(signed(9), name=f"output_{q}", reset_less=True)
            operand = Signal(signed(9), name=f"operand_{q}", reset_less=True)
            total = Signal(signed(14), name=f"total_{q}", reset_less=True)
            # Half a unit, which rounds up.
            half = Signal(name=f"half_{q}", reset_less=True)
            with m.If(take):
                m.d.sync += [
                    output.eq(self.i.payload[q].as_signed() - setting[:8].as_signed()),
                    operand.eq(self.port.data.word_select(q, 8).as_signed() - setting[8:].as_signed()),
                    total.eq(0),
                ]
            a, b = sum_of(parts(output, setting[:4]), 2), sum_of(parts(operand, setting[4:8]), 2)
            carry_a, carry_b = setting[:2] == 0, setting[4:6] == 0
            with m.If(working):
                m.d.sync += [
                    half.eq(total[DIGIT_BITS - 1]),
                    total.eq(with_carry(with_carry(a, b, carry_a), total >> DIGIT_BITS, carry_b)),
                ]
            # A register in each adder's, or choice's, cells costs nothing.
            sum_and_half = with_carry(total, zero_point, half)
            value = Signal(sum_and_half.shape(), name=f"value_{q}", reset_less=True)
            lowest = Signal(signed(9), name=f"lowest_{q}", reset_less=True)
            raised = Signal.like(value, name=f"raised_{q}", reset_less=True)
            m.d.sync += [
                value.eq(sum_and_half),
                lowest.eq(Mux(largest, operand, minimum)),
                raised.eq(Mux(value < lowest, lowest, value)),
            ]
            result = Mux(raised > maximum, maximum, raised)
            m.d.comb += self.o.payload[q].eq(Mux(self.adding, result[:8], self.i.payload[q]))
        return m


def parts(factor: Value, digit: Value) -> list[tuple[Value, Value]]:
    """Signed partial products and their carries: a pair of a digit's bits, 0 to 3, is -1 to 2."""
    made = []
    for k in range(0, DIGIT_BITS, 2):
        code = digit[k : k + 2]
        # -a is ~a + 1, and the 1 goes into a carry input.
        value = Mux(code[1], Mux(code[0], factor << 1, factor), Mux(code[0], 0, ~factor))
        made.append((value.as_signed(), code == 0))
    return made
