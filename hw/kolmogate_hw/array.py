"""The output-stationary multiply-accumulate array with its draining shadow registers."""

from collections.abc import Callable
from operator import mul

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import INPUT_OFFSET

from .cells import ICE40_ULTRAPLUS, family
from .cells.mac16 import DualAccumulator
from .cells.mult18 import registered_product
from .cells.products import logic_product
from .column_buffer import weight_row

__all__ = ["MacArray"]

ENTERING = ("word_mode", "bytes", "words")
"""What comes with a tap."""


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

        # Weights come out of block RAM a cycle after the tap.
        valid, last = Signal(), Signal()
        first = Signal(reset_less=True)
        m.d.sync += [
            valid.eq(self.valid),
            first.eq(self.first),
            last.eq(self.valid & self.last),
        ]
        weights = [Signal(signed(8), name=f"weight_{c}", reset_less=True) for c in range(columns)]
        for c in range(columns):
            m.d.comb += weights[c].eq(self.weights[c] | self.unit_weights)
        entered = data.StructLayout({name: self.signature.members[name].shape for name in ENTERING})
        tap = Signal(entered, reset_less=True)
        m.d["comb" if config.tile_gap else "sync"] += [tap[name].eq(getattr(self, name)) for name in ENTERING]
        activations = [Signal(8, name=f"activation_{index}", reset_less=True) for index in range(config.macs)]
        for r in range(rows):
            for c in range(columns):
                m.d.sync += activations[r * columns + c].eq(
                    Mux(tap.word_mode, tap.words[r][c], tap.bytes[r]) ^ INPUT_OFFSET
                )
        if not config.tile_gap:
            # From here to the multipliers a weight goes to all rows, and from the registers before that a
            # byte to all columns: both have a whole cycle for it.
            valid, first, last = (self._later(m, one) for one in (valid, first, last))
            weights = [self._later(m, weight) for weight in weights]
        factors = [(activation, weights[index % columns]) for index, activation in enumerate(activations)]
        chip = family(platform)
        if chip is ICE40_ULTRAPLUS and config.tile_gap:
            self._in_cells(m, factors, valid, last)
        else:
            multiply: list[Callable[[Value, Value], Value] | None] = [mul] * len(factors)
            if chip is not None and not config.tile_gap:
                # Cells that the pipelined requantisers leave; the other products are made of logic.
                taken = 4 * lanes if config.requantiser_digit_bits == 32 else 0
                cells = max(chip.multipliers - taken, 0)
                multiply = [None if index < cells else logic_product for index in range(len(factors))]
            self._in_fabric(m, factors, multiply, valid, first, last)
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
        multiply: list[Callable[[Value, Value], Value] | None],
        valid: Signal,
        first: Signal,
        last: Signal,
    ) -> None:
        # Factors and products, or products alone; then accumulators, then their shadow.
        for _ in range(1 if self.config.tile_gap else 2):
            valid, first, last = (self._later(m, one) for one in (valid, first, last))
        captured = self._later(m, last)
        m.d.comb += self.captured.eq(captured)
        accumulators = []
        for index, (activation, weight) in enumerate(factors):
            product = registered_product(
                m,
                f"product_{index}",
                activation,
                weight,
                multiply[index],
                factors=not self.config.tile_gap,
            )
            accumulator = Signal(
                signed(self.config.accumulator_bits), name=f"accumulator_{index}", reset_less=True
            )
            with m.If(valid):
                m.d.sync += accumulator.eq(Mux(first, 0, accumulator) + product)
            accumulators.append(accumulator)
        m.d.comb += Cat(self.accumulators).eq(Cat(self._shadow(m, accumulators, captured, last, "")))

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
        low = self._shadow(m, lows, last_2, last_1, "low_")
        high = self._shadow(m, highs, last_3, last_2, "high_")
        for q in range(self.config.requantisers):
            m.d.comb += self.accumulators[q].eq(Cat(low[q], high[q]))

    def _shadow(
        self, m: Module, values: list[Signal], capture: Signal, before: Signal, prefix: str
    ) -> list[Signal]:
        """Registers that capture ``values`` and hand them down; returns the Q at the draining end.
        ``before`` is ``capture`` a cycle earlier.

        In fast machines all but those move a cycle late, so that ``shift`` need not reach them all at once:
        where the next shift comes first, the last Q take what those behind them are about to get.
        """
        lanes = self.config.requantisers
        registers = [
            Signal.like(value, name=f"shadow_{prefix}{index}", reset_less=True)
            for index, value in enumerate(values)
        ]
        moves: Value = capture | self.shift
        if self.config.fast:
            late, moves_late = Signal(), Signal()
            m.d.sync += [late.eq(self.shift & ~capture), moves_late.eq(before | (self.shift & ~capture))]
        else:
            late = Signal()  # never
        for index, (value, register) in enumerate(zip(values, registers, strict=True)):
            behind = [*registers[index + lanes :: lanes][:2], register, register][:2]
            with m.If(moves if not self.config.fast or index < lanes else moves_late):
                ahead = Mux(late, behind[1], behind[0]) if index < lanes else behind[0]
                m.d.sync += register.eq(Mux(capture, value, ahead))
        return registers[:lanes]
