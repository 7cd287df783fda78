"""From the bits that the lanes see to rows: sign extension, the hash, and what the entropy engine made."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import INSTRUCTION, WINDOW_BITS

from .column_buffer import weight_row
from .generator import Mixed, mix, total

__all__ = ["RowKind", "RowPipeline", "seen_bits", "view_layout"]

RowKind = data.StructLayout(
    {
        "literal": 1,
        "generated": 1,
        "coded": 1,
        # Of a literal.
        "highest_bit": INSTRUCTION.widths["argument"],
        "record": 1,
        "last": 1,
    }
)
"""What is made of what the lanes see, zeros if none of the first three; whether the row is of records, and
the last of its instruction."""


def seen_bits(config: MachineConfig) -> int:
    """Bits of its literals that a lane sees."""
    return WINDOW_BITS if config.generator else 8


def view_layout(config: MachineConfig) -> data.ArrayLayout:
    """What the lanes see, the first bit to read lowest."""
    return data.ArrayLayout(seen_bits(config), config.columns)


class RowPipeline(wiring.Component):
    """Three stages: what the lanes see; literals, and the first step of the hash; rows. No row waits in them.
    Where all rows are literals or zeros, the second is the last.

    Members
    -------
    valid, kind, view : a row to make.
    coded_row : the entropy engine's. It is looked at when ``coded_take`` is high, two cycles after a coded
        row came, with ``coded_last`` if it is its instruction's last; ``coding`` until then.
    start : forget the rows under way.
    made, row, record, last : a row is made; whether it is of records, and the last of its instruction.
    """

    start: Signal
    valid: Signal
    kind: data.View
    view: data.View
    coded_row: data.View
    coding: Signal
    coded_take: Signal
    coded_last: Signal
    made: Signal
    row: data.View
    record: Signal
    last: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "valid": In(1),
                "kind": In(RowKind),
                "view": In(view_layout(config)),
                "coded_row": In(weight_row(config)),
                "coding": Out(1),
                "coded_take": Out(1),
                "coded_last": Out(1),
                "made": Out(1),
                "row": Out(weight_row(config)),
                "record": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        plain = not (self.config.generator or self.config.entropy_engines)
        valid = Signal(2 if plain else 3)
        seen, shaped, made = (
            Signal(RowKind, reset_less=True, name=name) for name in ("seen", "shaped", "made")
        )
        view = Signal(view_layout(self.config), reset_less=True)
        literals = Signal(weight_row(self.config), reset_less=True)
        mixed = Signal(data.ArrayLayout(Mixed, self.config.columns), reset_less=True)
        row = Signal(weight_row(self.config), reset_less=True)

        # A literal's sign is its first bit. In rows of other kinds it says which: all ones are coded.
        kept = Signal(7)
        m.d.comb += [kept[bit].eq(Mux(seen.literal, bit < seen.highest_bit, seen.coded)) for bit in range(7)]
        m.d.sync += [
            valid.eq(valid << 1 | self.valid),
            seen.eq(self.kind),
            shaped.eq(seen),
            made.eq(seen if plain else shaped),
        ]
        m.d.sync += view.eq(self.view)
        for lane in range(self.config.columns):
            bits = view[lane]
            for bit in range(7):
                literal = Mux(kept[bit], bits[bit + 1], bits[0])
                m.d.sync += literals[lane][bit].eq(Mux(seen.literal, literal, kept[bit]))
            m.d.sync += literals[lane][7].eq(Mux(seen.literal, bits[0], seen.coded))
            weight = Const(0, 8)
            if self.config.generator:
                m.d.sync += mixed[lane].eq(mix(m, bits[::-1]))
                weight = total(m, mixed[lane])
            for bit in range(8):
                literal, other = literals[lane][bit], Const(0)
                if self.config.generator and self.config.entropy_engines:
                    other = Mux(literal, self.coded_row[lane][bit], weight[bit])
                elif self.config.generator:
                    other = weight[bit]
                else:
                    other = self.coded_row[lane][bit]
                m.d.sync += row[lane][bit].eq(Mux(shaped.generated | shaped.coded, other, literal))
        # In registers, off the path of what sets the next row out.
        coding = Signal()
        m.d.sync += coding.eq((self.valid & self.kind.coded) | (valid[0] & seen.coded))
        with m.If(self.start):
            m.d.sync += [valid.eq(0), coding.eq(0)]

        m.d.comb += [
            self.made.eq(valid[-1]),
            self.row.eq(literals if plain else row),
            self.record.eq(made.record),
            self.last.eq(made.last),
        ]
        if not plain:
            m.d.comb += [
                self.coding.eq(coding),
                self.coded_take.eq(valid[1] & shaped.coded),
                self.coded_last.eq(shaped.last),
            ]
        return m
