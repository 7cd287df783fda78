"""The constants buffer: requantisation constants of two column groups, one in use and one arriving."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import CONSTANTS, RECORD_WORDS, SHIFT_BASE, STORED_CONSTANTS

from .block_ram import BlockRam
from .column_buffer import weight_row
from .ports import RowPort
from .records import struct_layout

__all__ = ["ConstantsBuffer", "record_row"]


def record_row(config: MachineConfig) -> data.StructLayout:
    """A row of `isa.STORED_CONSTANTS`, C/8 channels; ``last`` of its column group."""
    return data.StructLayout({"row": weight_row(config), "last": 1})


class ConstantsBuffer(wiring.Component):
    """Takes the constants of column groups as the program makes them, ahead of their use.

    Members
    -------
    i : rows of records; a group ends with the one marked so, and has at most 8. Room is kept for groups.
    ready : the present group's constants are here.
    batch : which Q columns are wanted; ``constants`` are theirs one cycle later. Those of channels without
        a record are left over from earlier groups.
    release : the present group is finished.
    """

    i: wiring.PureInterface
    ready: Signal
    batch: Signal
    constants: data.View
    release: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.batches = config.columns // config.requantisers
        super().__init__(
            {
                "i": In(RowPort(config, record_row(config))),
                "ready": Out(1),
                "batch": In(range(self.batches)),
                "constants": Out(data.ArrayLayout(struct_layout(CONSTANTS), config.requantisers)),
                "release": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        lanes = config.requantisers
        records = config.columns // 8

        m.submodules.memory = storage = BlockRam(
            data.ArrayLayout(STORED_CONSTANTS.bits * records, lanes // records),
            2 * self.batches,
            granularity=1,
        )
        write = storage.write

        # Rows fill the groups' banks in turn. A row holds the records of C/8 neighbouring columns.
        arriving = Signal(range(RECORD_WORDS))
        filling = Signal()
        per_word = lanes // records
        place = Signal(range(per_word))
        reserved = Signal(range(3))
        following = Signal.like(reserved)
        arrived = Signal()
        m.d.comb += following.eq(reserved + self.i.reserve - self.release)
        if config.fast:
            m.d.comb += self.i.room.eq(following != 2)
        else:
            room = Signal(init=1)
            m.d.comb += self.i.room.eq(room)
        m.d.comb += [
            Cat(place, write.addr).eq(Cat(arriving, filling)),
            write.data.as_value().eq(self.i.row.row.as_value().replicate(per_word)),
        ]
        m.d.comb += [write.en[k].eq(self.i.write & (place == k)) for k in range(per_word)]
        with m.If(self.i.write):
            m.d.sync += arriving.eq(arriving + 1)
            with m.If(self.i.row.last):
                m.d.sync += [arriving.eq(0), filling.eq(~filling)]
        m.d.sync += reserved.eq(following)
        if not config.fast:
            m.d.sync += room.eq(following != 2)
        # A cycle late: the word being written is not yet what the read port gives.
        readable = Signal(range(3))
        m.d.sync += [
            arrived.eq(self.i.write & self.i.row.last),
            readable.eq(readable + arrived - self.release),
        ]

        bank = Signal()
        m.d.sync += bank.eq(bank ^ self.release)
        m.d.comb += [
            self.ready.eq(readable != 0),
            storage.read_enable.eq(1),
            storage.read_address.eq(Cat(self.batch, bank)),
        ]
        words = storage.read_data.as_value()
        for lane in range(lanes):
            stored = data.View(struct_layout(STORED_CONSTANTS), words.word_select(lane, 64))
            constants = self.constants[lane]
            middle = stored.bias_middle ^ stored.bias_low[-1].replicate(8)
            inverted = middle[-1] ^ stored.shift[-1]
            m.d.comb += [
                constants.multiplier.eq(
                    Cat(
                        stored.low[::-1],
                        stored.fraction[:-1],
                        ~stored.fraction[-1],
                        ~(stored.sign[0] ^ stored.fraction[-1]),
                    )
                ),
                constants.bias.eq(Cat(stored.bias_low, middle, stored.bias_high ^ inverted.replicate(2))),
                constants.shift.eq(stored.shift + SHIFT_BASE),
            ]
        return m
