"""The output-stationary multiply-accumulate array with its draining shadow registers."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import INPUT_OFFSET

from .cells import ICE40_ULTRAPLUS, family
from .cells.mac16 import DualAccumulator
from .cells.products import logic_product
from .column_buffer import weight_row

__all__ = ["MacArray"]


class MacArray(wiring.Component):
    """R x C accumulators: row = output position, column = output channel. Activations are added up with
    `INPUT_OFFSET`, which makes them numbers without sign: it takes the other highest bit.

    Members
    -------
    valid, first, last : a tap enters; it is the first or last of its window.
    bytes, words, word_mode : activations, one byte a row, or in word mode one word a row whose byte c goes
        to column c. Given with ``valid``.
    weights, unit_weights : one weight a column, given one cycle after ``valid``; the lowest bits of unit
        weights are set, which makes 1 of 0.
    captured : high in the cycle before a finished tile appears in the shadow registers.
    shift : move the shadow registers one place towards ``accumulators``.
    accumulators : the Q oldest of them. Row 0 leaves first; within a row, columns in ascending order.

    With ``config.tile_gap`` no tap may enter in the cycle after the last of a tile: the iCE40 UltraPlus then
    accumulates in its multiplier cells, which need it to start again from 0.

    Latency: a tile is in the shadow registers ``config.capture_latency`` cycles after its last tap entered.
    Throughput: a tap a cycle.
    """

    valid: Signal
    first: Signal
    last: Signal
    word_mode: Signal
    unit_weights: Signal
    captured: Signal
    shift: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        accumulator = signed(config.accumulator_bits)
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "word_mode": In(1),
                "unit_weights": In(1),
                "bytes": In(data.ArrayLayout(8, config.rows)),
                "words": In(data.ArrayLayout(data.ArrayLayout(8, config.columns), config.rows)),
                "weights": In(weight_row(config)),
                "captured": Out(1),
                "shift": In(1),
                "accumulators": Out(data.ArrayLayout(accumulator, config.requantisers)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        rows, columns, lanes = config.rows, config.columns, config.requantisers

        # Stage 1: activations and weights at the multipliers.
        valid_1, last_1 = Signal(), Signal()
        first_1 = Signal(reset_less=True)
        m.d.sync += [
            valid_1.eq(self.valid),
            first_1.eq(self.first),
            last_1.eq(self.valid & self.last),
        ]
        weights = [Signal(signed(8), name=f"weight_{c}", reset_less=True) for c in range(columns)]
        for c in range(columns):
            m.d.comb += weights[c].eq(self.weights[c] | self.unit_weights)
        activations = [Signal(8, name=f"activation_{index}", reset_less=True) for index in range(config.macs)]
        for r in range(rows):
            for c in range(columns):
                m.d.sync += activations[r * columns + c].eq(
                    Mux(self.word_mode, self.words[r][c], self.bytes[r]) ^ INPUT_OFFSET
                )
        if not config.tile_gap:
            # Weights come out of block RAM late: their products are made of registers, a stage further on.
            valid_1, first_1, last_1 = (self._later(m, one) for one in (valid_1, first_1, last_1))
            weights = [self._later(m, weight) for weight in weights]
            activations = [self._later(m, activation) for activation in activations]
        factors = [(activation, weights[index % columns]) for index, activation in enumerate(activations)]
        chip = family(platform)
        if chip is ICE40_ULTRAPLUS and config.tile_gap:
            self._in_cells(m, factors, valid_1, last_1)
        else:
            # Multiplier cells that the pipelined requantisers leave; the other products are made of logic.
            taken = 4 * lanes if config.requantiser_digit_bits == 32 else 0
            cells = len(factors) if chip is None else chip.multipliers - taken
            self._in_fabric(m, factors, cells, valid_1, first_1, last_1)
        return m

    def _later(self, m: Module, signal: Signal) -> Signal:
        """The signal a cycle later."""
        later = Signal.like(signal, name=f"{signal.name}_later")
        m.d.sync += later.eq(signal)
        return later

    def _in_fabric(
        self,
        m: Module,
        factors: list[tuple[Signal, Signal]],
        cells: int,
        valid_1: Signal,
        first_1: Signal,
        last_1: Signal,
    ) -> None:
        # Stage 2: products. 3: accumulators. 4: shadow.
        valid_2, last_2, last_3 = Signal(), Signal(), Signal()
        first_2 = Signal(reset_less=True)
        m.d.sync += [
            valid_2.eq(valid_1),
            first_2.eq(first_1),
            last_2.eq(last_1),
            last_3.eq(last_2),
        ]
        m.d.comb += self.captured.eq(last_3)
        accumulators = []
        for index, (activation, weight) in enumerate(factors):
            product = Signal(signed(16), name=f"product_{index}", reset_less=True)
            accumulator = Signal(
                signed(self.config.accumulator_bits), name=f"accumulator_{index}", reset_less=True
            )
            m.d.sync += product.eq(
                activation * weight if index < cells else logic_product(activation, weight)
            )
            with m.If(valid_2):
                m.d.sync += accumulator.eq(Mux(first_2, 0, accumulator) + product)
            accumulators.append(accumulator)
        m.d.comb += Cat(self.accumulators).eq(Cat(self._shadow(m, accumulators, last_3, "")))

    def _in_cells(
        self, m: Module, factors: list[tuple[Signal, Signal]], valid_1: Signal, last_1: Signal
    ) -> None:
        # Stage 2: lower halves of the accumulators. 3: upper halves, and shadow of the lower. 4: shadow of
        # the upper. The array must not begin with the rest of a tile that was abandoned.
        last_2, last_3 = Signal(), Signal()
        clear = Signal(init=1)
        m.d.sync += [
            last_2.eq(last_1),
            clear.eq(last_1),
            last_3.eq(last_2),
        ]
        m.d.comb += self.captured.eq(last_3)
        lows, highs = [], []
        for index in range(0, len(factors), 2):
            m.submodules[f"cell_{index // 2}"] = cell = DualAccumulator(self.config.accumulator_bits)
            m.d.comb += [cell.add.eq(valid_1), cell.clear.eq(clear)]
            for k, (activation, weight) in enumerate(factors[index : index + 2]):
                m.d.comb += [cell.a[k].eq(activation), cell.b[k].eq(weight)]
                lows.append(cell.low[k])
                highs.append(cell.high[k])
        low = self._shadow(m, lows, last_2, "low_")
        high = self._shadow(m, highs, last_3, "high_")
        for q in range(self.config.requantisers):
            m.d.comb += self.accumulators[q].eq(Cat(low[q], high[q]))

    def _shadow(self, m: Module, values: list[Signal], capture: Signal, prefix: str) -> list[Signal]:
        """Registers that capture ``values`` and hand them down; returns the Q at the draining end."""
        lanes = self.config.requantisers
        registers = [
            Signal.like(value, name=f"shadow_{prefix}{index}", reset_less=True)
            for index, value in enumerate(values)
        ]
        for index, (value, register) in enumerate(zip(values, registers, strict=True)):
            behind = registers[index + lanes] if index + lanes < len(registers) else register
            with m.If(capture | self.shift):
                m.d.sync += register.eq(Mux(capture, value, behind))
        return registers[:lanes]
