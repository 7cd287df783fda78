"""The requantiser: from accumulators to int8 outputs, TFLite's arithmetic to the bit."""

from operator import mul

from amaranth.hdl import C, Cat, EnableInserter, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import CONSTANTS, SHIFTS

from .cells import family
from .cells.mult18 import registered_product
from .cells.products import with_carry
from .records import struct_layout

__all__ = ["Requantiser"]

LOWEST_BIT = SHIFTS[0] - 1

WAITING = 16
"""Batches that the pipelined form has room for; a row of LUT RAM."""


def sum_shape(config: MachineConfig) -> Shape:
    """``a = accumulator + bias``."""
    return signed(config.accumulator_bits + 1)


def product_shape(config: MachineConfig) -> Shape:
    """``a * multiplier`` without the bits that no shift looks at."""
    return signed(sum_shape(config).width + CONSTANTS.widths["multiplier"] - LOWEST_BIT)


def batch_layout(config: MachineConfig) -> data.StructLayout:
    """Q accumulators and the constants of their channels."""
    lanes = config.requantisers
    return data.StructLayout(
        {
            "accumulators": data.ArrayLayout(signed(config.accumulator_bits), lanes),
            "constants": data.ArrayLayout(struct_layout(CONSTANTS), lanes),
        }
    )


class Requantiser(wiring.Component):
    """Q = ``config.requantisers`` outputs in lockstep, by the formula of `kolmogate.isa.CONSTANTS`.

    With 32-bit digits each output has a pipelined multiplier and a rounding unit: a batch a cycle, 8 cycles
    from ``i`` to ``o``. The pipeline never stops: as many batches are taken as there is room for where ``o``
    is not. With smaller digits of d bits one digit-serial multiplier and one rounding unit take
    the outputs of a batch one after the other: a batch in Q * 32 / d cycles, 7 more from ``i`` to ``o``.
    Both do not depend on the constants (`kolmogate.machine_arithmetic.requantiser_interval`).

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
        super().__init__(
            {
                "i": In(stream.Signature(batch_layout(config))),
                "single_rounding": In(1),
                "zero_point": In(signed(8)),
                "minimum": In(signed(8)),
                "maximum": In(signed(8)),
                "o": Out(stream.Signature(data.ArrayLayout(8, config.requantisers))),
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
        unit = RoundingUnit(self.config)
        m.submodules[name] = EnableInserter(advance)(unit)
        m.d.comb += [
            unit.single_rounding.eq(self.single_rounding),
            unit.zero_point.eq(self.zero_point),
            unit.minimum.eq(self.minimum),
            unit.maximum.eq(self.maximum),
        ]
        return unit

    def _pipelined(self, m: Module) -> None:
        valid = Signal(PipelinedMultiplier.LATENCY + RoundingUnit.LATENCY)
        made = Signal.like(self.o.payload)
        for q in range(self.config.requantisers):
            m.submodules[f"multiplier_{q}"] = multiplier = PipelinedMultiplier(self.config)
            rounding = self._rounding_unit(m, C(1), f"rounding_{q}")
            m.d.comb += [
                multiplier.accumulator.eq(self.i.payload.accumulators[q]),
                multiplier.constants.eq(self.i.payload.constants[q]),
                multiplier.single_rounding.eq(self.single_rounding),
                rounding.product.eq(multiplier.product),
                rounding.shift.eq(multiplier.shift),
                made[q].eq(rounding.y),
            ]
        m.d.sync += valid.eq(Cat(self.i.valid & self.i.ready, valid))

        # Batches that find others before them wait.
        m.submodules.waiting = waiting = memory.Memory(
            shape=self.o.payload.shape(), depth=WAITING, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = waiting.write_port(), waiting.read_port(domain="comb")
        some = Signal()
        move = Signal()
        behind = Signal()
        m.d.comb += [
            move.eq(~self.o.valid | self.o.ready),
            behind.eq(valid[-1] & (some | ~move)),
            write.data.eq(made),
            write.en.eq(behind),
        ]
        count = Signal(range(WAITING + 1))
        following = Signal.like(count)
        m.d.comb += following.eq(count + behind - (move & some))
        m.d.sync += [
            count.eq(following),
            some.eq(following != 0),
            write.addr.eq(write.addr + behind),
            read.addr.eq(read.addr + (move & some)),
        ]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(some | valid[-1]), self.o.payload.eq(Mux(some, read.data, made))]
        # Those taken at ``i`` and not yet at ``o``.
        room = Signal(range(WAITING + 1), init=WAITING)
        left = Signal.like(room)
        m.d.comb += left.eq(room - (self.i.valid & self.i.ready) + (self.o.valid & self.o.ready))
        m.d.sync += [room.eq(left), self.i.ready.eq(left != 0)]

    def _digit_serial(self, m: Module) -> None:
        config, lanes = self.config, self.config.requantisers
        digits = 32 // config.requantiser_digit_bits
        m.submodules.multiplier = multiplier = SerialMultiplier(config)
        advance = multiplier.advance
        rounding = self._rounding_unit(m, advance, "rounding")

        # One step a digit, output after output. What is at ``i`` is loaded as long as there is room for it;
        # it counts if it is valid.
        step = Signal(range(lanes * digits))
        busy = Signal()
        room = Signal(init=1)
        m.d.comb += self.i.ready.eq(advance & room)
        with m.If(advance):
            with m.If(room & self.i.valid):
                m.d.sync += [busy.eq(1), step.eq(0), room.eq(0)]
            with m.Elif(room):
                m.d.sync += busy.eq(0)
            with m.Else():
                m.d.sync += [step.eq(step + 1), room.eq(step == lanes * digits - 2)]
        first_digit, last_digit = Signal(), Signal()
        last_step = Signal()
        m.d.comb += [
            first_digit.eq(step % digits == 0),
            last_digit.eq(busy & (step % digits == digits - 1)),
            last_step.eq(step == lanes * digits - 1),
        ]

        # The shifts of the output at work and of those behind it, and of the product under way.
        shifts = [Signal(6, name=f"shift_{q}", reset_less=True) for q in range(lanes)]
        previous_shift = Signal(6, reset_less=True)
        product_shift = Signal(6, reset_less=True)
        with m.If(advance):
            with m.If(room):
                m.d.sync += [shifts[q].eq(self.i.payload.constants[q].shift) for q in range(lanes)]
            with m.Elif(last_digit):
                m.d.sync += Cat(shifts).eq(Cat(shifts[1:]))
            with m.If(last_digit):
                m.d.sync += previous_shift.eq(shifts[0])
            m.d.sync += product_shift.eq(previous_shift)
        m.d.comb += [
            multiplier.i.eq(self.i.payload),
            multiplier.load.eq(room),
            multiplier.first.eq(first_digit),
            multiplier.last.eq(last_digit),
            multiplier.nudge.eq(rounds_twice(shifts[0], self.single_rounding)),
            rounding.product.eq(multiplier.product),
            rounding.shift.eq(product_shift),
        ]

        # Outputs are gathered in the output register, which must be empty before the first.
        output = Signal(SerialMultiplier.LATENCY + RoundingUnit.LATENCY)
        batch = Signal.like(output)
        m.d.comb += advance.eq(~(output[-1] & self.o.valid))
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(advance):
            m.d.sync += [output.eq(Cat(last_digit, output)), batch.eq(Cat(busy & last_step, batch))]
            with m.If(output[-1]):
                m.d.sync += self.o.payload.as_value().eq(Cat(self.o.payload.as_value(), rounding.y)[8:])
            with m.If(batch[-1]):
                m.d.sync += self.o.valid.eq(1)


def rounds_twice(shift: Value, single_rounding: Value) -> Value:
    """Whether TFLite's first rounding, at bit 30 of the product, takes place."""
    return ~single_rounding & shift[5]


class SerialMultiplier(wiring.Component):
    """``a * multiplier`` for the outputs of a batch one after the other, d bits of the multiplier a cycle.

    Digits come least significant first. Pairs of their bits are recoded to -1, 0, 1 or 2, so that a partial
    product is one LUT a bit. The sum of a digit's partial products meets the accumulator two cycles later,
    which then moves down by d bits; floors nest, so that nothing is lost.

    Members
    -------
    advance : everything holds while it is low.
    load : take the accumulators and multipliers at ``i``; their first digit is worked on in the next cycle.
    first, last, nudge : of the digit at work: the first or last of its output, whose product is to have
        2**30 added.
    product : `LATENCY` cycles after the last digit was worked on.
    """

    LATENCY = 3
    advance: Signal
    load: Signal
    first: Signal
    last: Signal
    nudge: Signal
    product: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "advance": In(1),
                "i": In(batch_layout(config)),
                "load": In(1),
                "first": In(1),
                "last": In(1),
                "nudge": In(1),
                "product": Out(product_shape(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        d, lanes = self.config.requantiser_digit_bits, self.config.requantisers

        # The sum of the output at work, those that follow behind it.
        sums = [Signal(sum_shape(self.config), name=f"sum_{q}", reset_less=True) for q in range(lanes)]
        with m.If(self.advance & (self.load | self.last)):
            for q in range(lanes):
                loaded = self.i.accumulators[q] + self.i.constants[q].bias
                m.d.sync += sums[q].eq(Mux(self.load, loaded, sums[q + 1]) if q + 1 < lanes else loaded)
        a = sums[0]

        # Multipliers are 32 bits apart. A pair of bits and the carry from below make v = 0 to 4; (v + 1) % 4
        # is the code of the digit -1 to 2, and a carry out says that 4 are to be added: one addition of
        # ...010101 does it all. No carry leaves a multiplier, as its 32nd bit is 0; but one that is loaded
        # again, as it was not valid, has left one.
        multipliers = Cat(Cat(constants.multiplier, C(0, 1)) for constants in self.i.constants)
        rest = Signal(len(multipliers) - d, reset_less=True)
        digit = Signal(d)
        following = Signal.like(rest)
        codes = Signal(d, reset_less=True)
        carry = Signal()
        m.d.comb += Cat(digit, following).eq(Mux(self.load, multipliers, rest))
        parts = []
        for k in range(0, d, 2):
            code = codes[k : k + 2]
            # -a is ~a + 1, and the 1 goes into a carry input.
            value = Mux(code[1], Mux(code[0], a << 1, a), Mux(code[0], 0, ~a))
            parts.append((value, code == 0))
        # Sums of 4 bits' worth, then of 8: a register in each adder's cells costs nothing.
        for distance in (2, 4):
            parts = [
                self._registered(m, sum_of(parts[k : k + 2], distance), parts[k][1], f"{2 * distance}_{k}")
                for k in range(0, len(parts), 2)
            ]

        starting = Signal(2, reset_less=True)
        nudge = Signal(2, reset_less=True)
        accumulator = Signal(signed(sum_shape(self.config).width + 1 + d), reset_less=True)
        addend = Mux(starting[-1], nudge[-1] << 30, accumulator >> d)
        below = Signal(max(32 - d - LOWEST_BIT, 0), reset_less=True)
        with m.If(self.advance):
            m.d.sync += [
                Cat(codes, carry).eq(digit + C(0x55555555, d) + (carry & ~self.load)),
                rest.eq(following),
                starting.eq(Cat(self.first, starting)),
                nudge.eq(Cat(self.nudge, nudge)),
                accumulator.eq(with_carry(sum_of(parts, 8), addend, parts[0][1])),
                below.eq(accumulator[:d][d - len(below) :]),
            ]
        m.d.comb += self.product.eq(Cat(below, accumulator)[max(LOWEST_BIT + d - 32, 0) :].as_signed())
        return m

    def _registered(self, m: Module, value: Value, carry: Value, name: str) -> tuple[Value, Value]:
        """A sum and its carry, one cycle later."""
        sum_register = Signal(value.shape(), name=f"sum_{name}", reset_less=True)
        carry_register = Signal(name=f"carry_{name}", reset_less=True)
        with m.If(self.advance):
            m.d.sync += [sum_register.eq(value), carry_register.eq(carry)]
        return sum_register, carry_register


def sum_of(parts: list[tuple[Value, Value]], distance: int) -> Value:
    """The sum of signed values, each with its carry and ``distance`` bits above the one before.

    The carry of the lowest value is left out.
    """
    if len(parts) == 1:
        return parts[0][0]
    half = len(parts) // 2
    low, high = sum_of(parts[:half], distance), sum_of(parts[half:], distance)
    place = half * distance
    return Cat(low[:place], with_carry(low[place:].as_signed(), high, parts[half][1])).as_signed()


class PipelinedMultiplier(wiring.Component):
    """``a * multiplier``, a product a cycle, from four multipliers of at most 17 unsigned or 18 signed bits.

    Members
    -------
    product, shift : of the accumulator and the constants given `LATENCY` cycles earlier.
    """

    LATENCY = 4
    LIMB = 17

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "accumulator": In(signed(config.accumulator_bits)),
                "constants": In(struct_layout(CONSTANTS)),
                "single_rounding": In(1),
                "product": Out(product_shape(config)),
                "shift": Out(6),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        limb = self.LIMB
        a = Signal(sum_shape(self.config), reset_less=True)
        multiplier = Signal(CONSTANTS.widths["multiplier"], reset_less=True)
        m.d.sync += [
            a.eq(self.accumulator + self.constants.bias),
            multiplier.eq(self.constants.multiplier),
        ]
        shifts = [Signal(6, name=f"shift_{k}", reset_less=True) for k in range(self.LATENCY)]
        m.d.sync += Cat(shifts).eq(Cat(self.constants.shift, shifts))

        limbs_a = a[:limb], a[limb:].as_signed()
        limbs_m = multiplier[:limb], multiplier[limb:]
        chip = family(platform)
        multiply = None if chip and chip.multipliers else mul
        products = {
            (i, j): registered_product(m, f"product_{i}{j}", limbs_a[i], limbs_m[j], multiply, factors=False)
            for i in range(2)
            for j in range(2)
        }

        outer = Signal(signed(len(a) + len(multiplier)), reset_less=True)
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

    LATENCY = 3

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "product": In(product_shape(config)),
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
        total = Signal(signed(10), reset_less=True)
        m.d.sync += total.eq(with_carry(Cat(low, high).as_signed(), self.zero_point, increment))
        m.d.comb += self.y.eq(
            Mux(total > self.maximum, self.maximum, Mux(total < self.minimum, self.minimum, total))
        )
        return m
