"""The requantiser: from accumulators to int8 outputs, TFLite's arithmetic to the bit."""

from amaranth.hdl import C, Cat, EnableInserter, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import CONSTANTS, SHIFTS

from .records import struct_layout

__all__ = ["Requantiser"]

# ``a = accumulator + bias``, and the product ``a * multiplier`` without the bits that no shift looks at.
SUM = signed(CONSTANTS.widths["bias"] + 1)
LOWEST_BIT = SHIFTS[0] - 1
PRODUCT = signed(SUM.width + CONSTANTS.widths["multiplier"] - LOWEST_BIT)


class Requantiser(wiring.Component):
    """Q = ``config.requantisers`` outputs in lockstep, by the formula of `kolmogate.isa.CONSTANTS`.

    With 32-bit digits each output has a pipelined multiplier and a rounding unit: a batch a cycle, 7 cycles
    from ``i`` to ``o``. With smaller digits of d bits a multiplier takes a digit a cycle, and the products
    of a batch pass one after the other through a common rounding unit: a batch every
    `kolmogate.machine_arithmetic.requantiser_interval` cycles, 32 / d + Q + 4 cycles from ``i`` to ``o``.

    Members
    -------
    i : accumulators and the constants of their channels; shifts must be in `kolmogate.isa.SHIFTS`.
    single_rounding, zero_point, minimum, maximum : the layer's; steady while outputs are under way.
    o : outputs, two's complement.
    """

    i: stream.Interface
    o: stream.Interface
    single_rounding: Signal
    zero_point: Signal
    minimum: Signal
    maximum: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        lanes = config.requantisers
        batch = data.StructLayout(
            {
                "accumulators": data.ArrayLayout(signed(config.accumulator_bits), lanes),
                "constants": data.ArrayLayout(struct_layout(CONSTANTS), lanes),
            }
        )
        super().__init__(
            {
                "i": In(stream.Signature(batch)),
                "single_rounding": In(1),
                "zero_point": In(signed(8)),
                "minimum": In(signed(8)),
                "maximum": In(signed(8)),
                "o": Out(stream.Signature(data.ArrayLayout(8, lanes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.config.requantiser_digit_bits == 32:
            self._pipelined(m)
        else:
            self._digit_serial(m)
        return m

    def _rounding_unit(self, m: Module, advance: Signal, name: str) -> "RoundingUnit":
        """A rounding unit with the layer's settings."""
        unit = RoundingUnit()
        m.submodules[name] = EnableInserter(advance)(unit)
        m.d.comb += [
            unit.single_rounding.eq(self.single_rounding),
            unit.zero_point.eq(self.zero_point),
            unit.minimum.eq(self.minimum),
            unit.maximum.eq(self.maximum),
        ]
        return unit

    def _pipelined(self, m: Module) -> None:
        advance = Signal()
        valid = Signal(PipelinedMultiplier.LATENCY + RoundingUnit.LATENCY)
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        for q in range(self.config.requantisers):
            m.submodules[f"multiplier_{q}"] = EnableInserter(advance)(
                multiplier := PipelinedMultiplier(self.config)
            )
            rounding = self._rounding_unit(m, advance, f"rounding_{q}")
            m.d.comb += [
                multiplier.accumulator.eq(self.i.payload.accumulators[q]),
                multiplier.constants.eq(self.i.payload.constants[q]),
                multiplier.single_rounding.eq(self.single_rounding),
                rounding.product.eq(multiplier.product),
                rounding.shift.eq(multiplier.shift),
            ]
            with m.If(advance):
                m.d.sync += self.o.payload[q].eq(rounding.y)
        with m.If(advance):
            m.d.sync += Cat(valid, self.o.valid).eq(Cat(self.i.valid, valid))

    def _digit_serial(self, m: Module) -> None:
        config, lanes = self.config, self.config.requantisers
        digits = 32 // config.requantiser_digit_bits
        # The rounding unit is one cycle behind the last product when the next batch's shifts arrive.
        interval = max(digits, lanes + 1)

        advance = Signal()
        busy = Signal()
        step = Signal(range(interval))
        load = Signal()
        at_end = Signal()
        m.d.comb += [
            at_end.eq(step == interval - 1),
            self.i.ready.eq(advance & (~busy | at_end)),
            load.eq(self.i.valid & self.i.ready),
        ]
        first, last = Signal(), Signal()
        with m.If(advance):
            m.d.sync += [first.eq(busy & (step == 0)), last.eq(busy & (step == digits - 1))]
            with m.If(load):
                m.d.sync += [busy.eq(1), step.eq(0)]
            with m.Elif(at_end):
                m.d.sync += busy.eq(0)
            with m.Elif(busy):
                m.d.sync += step.eq(step + 1)

        # Products wait in a queue for the rounding unit; their shifts are there one cycle before them.
        rounding = self._rounding_unit(m, advance, "rounding")
        waiting = Signal(range(lanes + 1))
        products = [Signal(PRODUCT, name=f"product_{q}", reset_less=True) for q in range(lanes)]
        shifts = [Signal(6, name=f"shift_{q}", reset_less=True) for q in range(lanes)]
        m.d.comb += [rounding.product.eq(products[0]), rounding.shift.eq(shifts[0])]
        with m.If(advance):
            with m.If(waiting != 0):
                m.d.sync += [Cat(products).eq(Cat(products[1:])), Cat(shifts).eq(Cat(shifts[1:]))]
                m.d.sync += waiting.eq(waiting - 1)
            with m.If(last):
                m.d.sync += waiting.eq(lanes)
        for q in range(lanes):
            m.submodules[f"multiplier_{q}"] = EnableInserter(advance)(multiplier := SerialMultiplier(config))
            shift = Signal(6, reset_less=True)
            constants = self.i.payload.constants[q]
            m.d.comb += [
                multiplier.load.eq(load),
                multiplier.clear.eq(step == 0),
                multiplier.nudge.eq(first & rounds_twice(shift, self.single_rounding)),
                multiplier.accumulator.eq(self.i.payload.accumulators[q]),
                multiplier.constants.eq(constants),
            ]
            with m.If(load):
                m.d.sync += shift.eq(constants.shift)
            with m.If(advance & busy & (step == digits - 1)):
                m.d.sync += shifts[q].eq(shift)
            with m.If(advance & last):
                m.d.sync += products[q].eq(multiplier.product)

        # Outputs are gathered in the output register, which must be empty before the first.
        valid = Signal(RoundingUnit.LATENCY)
        final = Signal(RoundingUnit.LATENCY)
        m.d.comb += advance.eq(~(valid[-1] & self.o.valid))
        with m.If(advance):
            m.d.sync += [valid.eq(Cat(waiting != 0, valid)), final.eq(Cat(waiting == 1, final))]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(advance & valid[-1]):
            m.d.sync += self.o.payload.as_value().eq(Cat(self.o.payload.as_value()[8:], rounding.y))
            m.d.sync += self.o.valid.eq(final[-1])


def rounds_twice(shift: Value, single_rounding: Value) -> Value:
    """Whether TFLite's first rounding, at bit 30 of the product, takes place."""
    return ~single_rounding & shift[5]


class SerialMultiplier(wiring.Component):
    """``a * multiplier``, d bits of the multiplier a cycle, least significant first.

    Pairs of multiplier bits are recoded to -1, 0, 1 or 2, so that a partial product is one LUT a bit. A
    cycle after its digit, the sum of a digit's partial products meets the accumulator, which then moves
    down by d bits: floors nest, so that nothing is lost.

    Members
    -------
    load : take accumulator and constants; digit k is worked on k + 1 cycles later.
    clear : digit 0 is worked on.
    nudge : add 2**30; one cycle after ``clear``, or not at all.
    product : 32 / d + 1 cycles after ``load``.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.digit_bits = config.requantiser_digit_bits
        super().__init__(
            {
                "load": In(1),
                "clear": In(1),
                "nudge": In(1),
                "accumulator": In(signed(config.accumulator_bits)),
                "constants": In(struct_layout(CONSTANTS)),
                "product": Out(PRODUCT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        d = self.digit_bits
        a = Signal(SUM, reset_less=True)
        with m.If(self.load):
            m.d.sync += a.eq(self.accumulator + self.constants.bias)

        # A pair of bits and the carry from below make v = 0 to 4; (v + 1) mod 4 is the code of the digit
        # -1 to 2, and the carry out says that 4 are to be added: one addition of ...010101 does it all.
        rest = Signal(CONSTANTS.widths["multiplier"] - d, reset_less=True)
        codes = Signal(d, reset_less=True)
        carry = Signal(reset_less=True)
        present = Signal(d)
        following = Signal.like(rest)
        m.d.comb += Cat(present, following).eq(Mux(self.load, self.constants.multiplier, rest))
        m.d.sync += [
            Cat(codes, carry).eq(present + C(sum(1 << k for k in range(0, d, 2)), d) + (carry & ~self.load)),
            rest.eq(following),
        ]
        partial = []
        for k in range(0, d, 2):
            code = codes[k : k + 2]
            # -a is ~a + 1, and the 1 goes into a carry input.
            value = Mux(code[1], Mux(code[0], a << 1, a), Mux(code[0], 0, ~a))
            partial.append((value, code == 0))
        digit_product = Signal(signed(SUM.width + d), reset_less=True)
        negated = Signal(reset_less=True)
        m.d.sync += [digit_product.eq(tree(partial)), negated.eq(partial[0][1])]

        # The accumulator is never wider than a: room for the nudge is only made in the addition.
        accumulator = Signal(signed(SUM.width + 1), reset_less=True)
        below = Signal(max(32 - d - LOWEST_BIT, 0), reset_less=True)
        addend = accumulator | (self.nudge << 30)
        total = Signal(signed(SUM.width + d + 1))
        m.d.comb += [
            total.eq(with_carry(digit_product, addend.as_signed(), negated)),
            self.product.eq(Cat(below, total) if len(below) else total >> LOWEST_BIT - (32 - d)),
        ]
        m.d.sync += [
            accumulator.eq(Mux(self.clear, 0, total >> d)),
            below.eq(Cat(below, total[:d])[d:]),
        ]
        return m


def with_carry(a: Value, b: Value, carry: Value) -> Value:
    """``a + b + carry`` of signed numbers in one carry chain."""
    return ((Cat(C(1, 1), a).as_signed() + Cat(carry, b).as_signed()) >> 1).as_signed()


def tree(partial: list[tuple[Value, Value]]) -> Value:
    """The sum of values that are 2 bits apart, each with its carry; the first one's carry is left out."""
    if len(partial) == 1:
        return partial[0][0]
    half = len(partial) // 2
    low, high = tree(partial[:half]), tree(partial[half:])
    return Cat(low[: 2 * half], with_carry(low[2 * half :].as_signed(), high, partial[half][1])).as_signed()


class PipelinedMultiplier(wiring.Component):
    """``a * multiplier``, a product a cycle, from four multipliers of at most 17 unsigned or 18 signed bits.

    Members
    -------
    product, shift : of the accumulator and the constants given `LATENCY` cycles earlier.
    """

    LATENCY = 4
    LIMB = 17

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(
            {
                "accumulator": In(signed(config.accumulator_bits)),
                "constants": In(struct_layout(CONSTANTS)),
                "single_rounding": In(1),
                "product": Out(PRODUCT),
                "shift": Out(6),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        limb = self.LIMB
        a = Signal(SUM, reset_less=True)
        multiplier = Signal(CONSTANTS.widths["multiplier"], reset_less=True)
        m.d.sync += [
            a.eq(self.accumulator + self.constants.bias),
            multiplier.eq(self.constants.multiplier),
        ]
        shifts = [Signal(6, name=f"shift_{k}", reset_less=True) for k in range(self.LATENCY)]
        m.d.sync += Cat(shifts).eq(Cat(self.constants.shift, shifts))

        limbs_a = a[:limb], a[limb:].as_signed()
        limbs_m = multiplier[:limb], multiplier[limb:]
        products = {}
        for i in range(2):
            for j in range(2):
                value = limbs_a[i] * limbs_m[j]
                products[i, j] = Signal(value.shape(), name=f"product_{i}{j}", reset_less=True)
                m.d.sync += products[i, j].eq(value)

        outer = Signal(signed(SUM.width + len(multiplier)), reset_less=True)
        middle = Signal(Shape.cast((products[0, 1] + products[1, 0]).shape()), reset_less=True)
        nudge = rounds_twice(shifts[1], self.single_rounding)
        m.d.sync += [
            middle.eq(products[0, 1] + products[1, 0]),
            outer.eq(Cat(products[0, 0], products[1, 1]).as_signed() + (nudge << 30)),
            self.product.eq((outer[limb:].as_signed() + middle) >> LOWEST_BIT - limb),
        ]
        m.d.comb += self.shift.eq(shifts[-1])
        return m


class RoundingUnit(wiring.Component):
    """Shift, round, saturate, add the zero point, clamp: an output a cycle.

    Members
    -------
    product : ``a * multiplier``, with 2**30 added if `rounds_twice`; its lowest bit is `LOWEST_BIT`.
    shift, single_rounding : as in `kolmogate.isa.CONSTANTS`.
    zero_point, minimum, maximum : the layer's.
    y : the output for the product given `LATENCY` cycles earlier.
    """

    LATENCY = 2

    def __init__(self) -> None:
        super().__init__(
            {
                "product": In(PRODUCT),
                "shift": In(6),
                "single_rounding": In(1),
                "zero_point": In(signed(8)),
                "minimum": In(signed(8)),
                "maximum": In(signed(8)),
                "y": Out(signed(8)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product, sign = self.product, self.product[-1]
        octets, bits = self.shift[3:], self.shift[:3]

        # Whole octets first. The window's bit 0 is bit 8 * octets - 1 of a * multiplier, so that the rounding
        # bit, at shift - 1, is at index `bits` and the output above it, whatever the number of octets.
        window = Signal(17, reset_less=True)
        overflow = Signal(reset_less=True)
        # The second rounding, of a number without the bits below 31, rounds negative halves down.
        remainder = Signal(reset_less=True)
        halves_down = Signal(reset_less=True)
        fine = Signal(3, reset_less=True)
        negative = Signal(reset_less=True)
        m.d.sync += [
            fine.eq(bits),
            negative.eq(sign),
            halves_down.eq(sign & rounds_twice(self.shift, self.single_rounding)),
        ]
        with m.Switch(octets):
            for count in range(SHIFTS[-1] // 8, SHIFTS[0] // 8 - 1, -1):
                start = 8 * count - 1 - LOWEST_BIT
                with m.Default() if start == 0 else m.Case(count):
                    above = product[start + len(window) :]
                    m.d.sync += [
                        window.eq(product >> start),
                        overflow.eq((above ^ sign.replicate(len(above))).any()),
                        remainder.eq(
                            product[31 - LOWEST_BIT : start].any() if start > 31 - LOWEST_BIT else 0
                        ),
                    ]

        # Then single bits. Nine bits of output are enough: the zero point cannot bring more into range.
        lowest = Signal(8)
        m.d.comb += lowest.eq((0xFF << fine) & 0xFF)
        shifted = Signal(9)
        saturated = Signal()
        m.d.comb += [
            shifted.eq(window >> fine),
            saturated.eq(overflow | ((window[9:] ^ negative.replicate(8)) & lowest).any()),
        ]
        low = Signal(8, reset_less=True)
        high = Signal(reset_less=True)
        increment = Signal(reset_less=True)
        m.d.sync += [
            low.eq(Mux(saturated, (~negative).replicate(8), shifted[1:])),
            high.eq(negative),
            increment.eq(shifted[0] & ~(halves_down & ~remainder & ~(window[:8] & ~lowest).any())),
        ]
        total = Signal(signed(10))
        m.d.comb += [
            total.eq(with_carry(Cat(low, high).as_signed(), self.zero_point, increment)),
            self.y.eq(
                Mux(total > self.maximum, self.maximum, Mux(total < self.minimum, self.minimum, total))
            ),
        ]
        return m
