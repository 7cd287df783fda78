"""Residual addition: a tensor in the scratchpad is added to a layer's outputs on their way there."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, RESIDUAL, RESIDUAL_FRACTION

from .ports import ReadPort
from .records import struct_layout

__all__ = ["ResidualAdder"]

DIFFERENCE_BITS = 9
"""Of a byte less its zero point."""

TOTAL = signed(RESIDUAL.widths["output_scale"] + DIFFERENCE_BITS + 1)
"""Two products of a `DIFFERENCE_BITS` number and a scale, and the zero point."""


class ResidualAdder(wiring.Component):
    """Adds by the formula of `kolmogate.isa.RESIDUAL`, or passes outputs on.

    Members
    -------
    start, record : add a tensor to the outputs of the layer that begins next.
    adding : the outputs of this layer are added to.
    done : that layer is complete: pass on what follows.
    i, o : batches of Q outputs.
    address : where the outputs at ``o`` go; steady while they wait there.
    port : to the scratchpad, for the tensor.

    Throughput: a batch a cycle where nothing is added, 6 cycles a batch where the larger is kept. Additions
    take 9 cycles a batch with pipelined requantisers, and 5 + 10 * Q with digit-serial ones, whose Q outputs
    share a multiplier that takes a bit a cycle instead of three; a word of the tensor that the scratchpad
    does not grant at once takes longer.
    """

    i: stream.Interface
    o: stream.Interface
    adding: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        batch = stream.Signature(data.ArrayLayout(8, config.requantisers))
        super().__init__(
            {
                "start": In(1),
                "record": In(struct_layout(RESIDUAL)),
                "done": In(1),
                "adding": Out(1),
                "i": In(batch),
                "o": Out(batch),
                "address": In(ADDRESS_BITS),
                "port": Out(ReadPort(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        lanes = config.requantisers
        shared = config.requantiser_digit_bits < 32
        lane_bits = config.columns.bit_length() - 1
        batch_bits = lanes.bit_length() - 1

        enabled = self.adding
        record = Signal(struct_layout(RESIDUAL), reset_less=True)
        with m.If(self.done):
            m.d.sync += enabled.eq(0)
        with m.If(self.start):
            m.d.sync += [enabled.eq(1), record.eq(self.record)]

        # Differences, most significant bit first at the top. With a shared multiplier it is output 0 that is
        # at work, and the others move down behind it.
        outputs = [Signal(signed(DIFFERENCE_BITS), name=f"output_{q}", reset_less=True) for q in range(lanes)]
        operands = [
            Signal(signed(DIFFERENCE_BITS), name=f"operand_{q}", reset_less=True) for q in range(lanes)
        ]
        both = Signal(RESIDUAL.widths["output_scale"] + 1, reset_less=True)
        m.d.sync += both.eq(record.output_scale + record.operand_scale)
        # What doubles with each bit of the differences becomes the zero point and a half.
        initial = (record.zero_point << RESIDUAL_FRACTION - DIFFERENCE_BITS) + (
            1 << RESIDUAL_FRACTION - DIFFERENCE_BITS - 1
        )
        totals = [Signal(TOTAL, name=f"total_{q}", reset_less=True) for q in range(1 if shared else lanes)]
        # Bits that are multiplied in a cycle, and such digits of a difference.
        digit_bits = 1 if shared else 3
        digits = DIFFERENCE_BITS // digit_bits
        digit = Signal(range(digits))
        index = Signal(range(lanes))
        finished = Signal()
        word = Signal.like(self.port.data)
        slot = self.address[batch_bits:lane_bits]
        m.d.comb += [
            word.eq(self.port.data),
            self.port.request.payload.eq((self.address + record.offset)[lane_bits:]),
            finished.eq(digit == digits - 1),
        ]

        def multiply() -> None:
            """A digit of each difference at work; the sign bit, which comes first, counts negative."""
            first = digit == 0
            for total, output, operand in zip(totals, outputs, operands, strict=False):
                following = Mux(first, initial, total) << digit_bits
                for place in range(digit_bits):
                    part = Mux(
                        output[place - digit_bits],
                        Mux(operand[place - digit_bits], both, record.output_scale),
                        Mux(operand[place - digit_bits], record.operand_scale, 0),
                    )
                    if place == digit_bits - 1:
                        # minus part is not part and 1
                        part = Cat(part ^ first.replicate(len(part)), first).as_signed() + first
                    following = following + (part << place)
                m.d.sync += [
                    total.eq(following),
                    output.eq(output << digit_bits),
                    operand.eq(operand << digit_bits),
                ]

        def rounded(total: Signal) -> Value:
            value = total >> RESIDUAL_FRACTION
            low = Mux(value < record.minimum, record.minimum, value)
            return Mux(value > record.maximum, record.maximum, low)

        result = Signal(data.ArrayLayout(8, lanes), reset_less=True)
        with m.FSM():
            with m.State("PASS"):
                m.d.comb += [
                    self.i.ready.eq(enabled | self.o.ready),
                    self.o.valid.eq(self.i.valid & ~enabled),
                    self.o.payload.eq(self.i.payload),
                ]
                m.d.sync += [
                    outputs[q].eq(self.i.payload[q].as_signed() - record.output_zero_point)
                    for q in range(lanes)
                ]
                with m.If(self.i.valid & enabled):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.port.request.valid.eq(1)
                with m.If(self.port.request.ready):
                    m.next = "AWAIT"
            with m.State("AWAIT"):
                # What comes out of the memory is registered before anything is made of it.
                bytes_ = word.word_select(slot, 8 * lanes)
                m.d.sync += [operands[q].eq(bytes_.word_select(q, 8).as_signed()) for q in range(lanes)]
                with m.If(self.port.valid):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                for operand, output, larger in zip(operands, outputs, result, strict=True):
                    m.d.sync += [
                        operand.eq(operand - record.operand_zero_point),
                        larger.eq(Mux(operand > output, operand, output)),
                    ]
                m.next = "MULTIPLY"
                with m.If(record.largest):
                    m.next = "GIVE"
            with m.State("MULTIPLY"):
                multiply()
                m.d.sync += digit.eq(digit + 1)
                with m.If(finished):
                    m.d.sync += digit.eq(0)
                    m.next = "ROUND"
            with m.State("ROUND"):
                if shared:
                    m.d.sync += result.as_value().eq(Cat(result.as_value()[8:], rounded(totals[0])[:8]))
                    for q in range(lanes - 1):
                        m.d.sync += [outputs[q].eq(outputs[q + 1]), operands[q].eq(operands[q + 1])]
                    m.d.sync += index.eq(index + 1)
                    m.next = "MULTIPLY"
                    with m.If(index == lanes - 1):
                        m.d.sync += index.eq(0)
                        m.next = "GIVE"
                else:
                    m.d.sync += [result[q].eq(rounded(totals[q])) for q in range(lanes)]
                    m.next = "GIVE"
            with m.State("GIVE"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(result)]
                with m.If(self.o.ready):
                    m.next = "PASS"
        return m
