"""The output-stationary multiply-accumulate array with its draining shadow registers."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig

from .column_buffer import weight_row

__all__ = ["MacArray"]


class MacArray(wiring.Component):
    """R x C accumulators: row = output position, column = output channel.

    Members
    -------
    valid, first, last : a tap enters; it is the first or last of its window.
    bytes, words, word_mode : activations, one byte a row, or in word mode one word a row whose byte c goes
        to column c. Given with ``valid``.
    weights, unit_weights : one weight a column, given one cycle after ``valid``; unit weights are all 1.
    captured : high in the cycle in which a finished tile appears in the shadow registers.
    shift : move the shadow registers one place towards ``accumulators``.
    accumulators : the Q oldest of them. Row 0 leaves first; within a row, columns in ascending order.

    Latency: a tile is in the shadow registers 4 cycles after its last tap entered. Throughput: a tap a cycle.
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

        # Stage 1: activations and weights at the multipliers. 2: products. 3: accumulators. 4: shadow.
        valid_1, valid_2 = Signal(), Signal()
        first_1, first_2 = Signal(reset_less=True), Signal(reset_less=True)
        last_1, last_2, last_3 = Signal(), Signal(), Signal()
        m.d.sync += [
            valid_1.eq(self.valid),
            first_1.eq(self.first),
            last_1.eq(self.valid & self.last),
            valid_2.eq(valid_1),
            first_2.eq(first_1),
            last_2.eq(last_1),
            last_3.eq(last_2),
            self.captured.eq(last_3),
        ]
        weights = [Signal(signed(8), name=f"weight_{c}") for c in range(columns)]
        for c in range(columns):
            m.d.comb += weights[c].eq(Mux(self.unit_weights, 1, self.weights[c]))

        shadow = []
        for r in range(rows):
            for c in range(columns):
                activation = Signal(signed(8), name=f"activation_{r}_{c}", reset_less=True)
                product = Signal(signed(16), name=f"product_{r}_{c}", reset_less=True)
                accumulator = Signal(
                    signed(config.accumulator_bits), name=f"accumulator_{r}_{c}", reset_less=True
                )
                m.d.sync += [
                    activation.eq(Mux(self.word_mode, self.words[r][c], self.bytes[r])),
                    product.eq(activation * weights[c]),
                ]
                with m.If(valid_2):
                    m.d.sync += accumulator.eq(Mux(first_2, 0, accumulator) + product)
                shadow.append((accumulator, Signal.like(accumulator, name=f"shadow_{r}_{c}")))
        for index, (accumulator, register) in enumerate(shadow):
            behind = shadow[index + lanes][1] if index + lanes < len(shadow) else register
            with m.If(last_3 | self.shift):
                m.d.sync += register.eq(Mux(last_3, accumulator, behind))
        for q in range(lanes):
            m.d.comb += self.accumulators[q].eq(shadow[q][1])
        return m
