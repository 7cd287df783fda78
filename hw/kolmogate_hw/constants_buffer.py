"""The constants buffer: requantisation constants of two column groups, one in use and one arriving."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, CONSTANTS, DESCRIPTOR

from .block_ram import BlockRam
from .ports import ReadPort, word_address_bits
from .records import struct_layout

__all__ = ["ConstantsBuffer"]


class ConstantsBuffer(wiring.Component):
    """Loads the channel constants of a layer, group after group, ahead of their use.

    Members
    -------
    start : begin with the layer whose descriptor is given.
    ready : the present group's constants are here.
    batch : which Q columns are wanted; ``constants`` are theirs one cycle later.
    release : the present group is finished.

    A group is C records of 8 bytes: 8 scratchpad words.
    """

    start: Signal
    ready: Signal
    batch: Signal
    constants: data.View
    release: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.batches = config.columns // config.requantisers
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "port": Out(ReadPort(config)),
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
        lane_bits = config.columns.bit_length() - 1
        words = 8

        m.submodules.memory = storage = BlockRam(
            data.ArrayLayout(CONSTANTS.bits * records, lanes // records), 2 * self.batches, granularity=1
        )
        write = storage.write

        # Requests: one group after another while fewer than two are here or on their way.
        address = Signal(word_address_bits(config), reset_less=True)
        channels_left = Signal(12)
        asking = Signal(range(words))
        groups = Signal(range(3))
        group_asked = Signal()
        m.d.comb += [
            self.port.request.valid.eq((channels_left != 0) & (groups != 2)),
            self.port.request.payload.eq(address),
        ]
        with m.If(self.port.request.valid & self.port.request.ready):
            m.d.sync += [address.eq(address + 1), asking.eq(asking + 1)]
            with m.If(asking == words - 1):
                m.d.comb += group_asked.eq(1)
                with m.If(channels_left > config.columns):
                    m.d.sync += channels_left.eq(channels_left - config.columns)
                with m.Else():
                    m.d.sync += channels_left.eq(0)
        m.d.sync += groups.eq(groups + group_asked - self.release)

        # Answers fill the groups' banks in turn. A word holds the records of C/8 neighbouring columns.
        arriving = Signal(range(2 * words))
        per_row = lanes // records
        place = Signal(range(per_row))
        m.d.comb += [
            Cat(place, write.addr).eq(arriving),
            write.data.as_value().eq(self.port.data.replicate(per_row)),
        ]
        m.d.comb += [write.en[k].eq(self.port.valid & (place == k)) for k in range(per_row)]
        here = Signal(range(3))
        arrived = Signal()
        # A cycle late: the word being written is not yet what the read port gives.
        m.d.sync += arrived.eq(self.port.valid & (arriving[:3] == words - 1))
        with m.If(self.port.valid):
            m.d.sync += arriving.eq(arriving + 1)
        m.d.sync += here.eq(here + arrived - self.release)

        bank = Signal()
        m.d.sync += bank.eq(bank ^ self.release)
        m.d.comb += [
            self.ready.eq(here != 0),
            storage.read_enable.eq(1),
            storage.read_address.eq(Cat(self.batch, bank)),
            self.constants.as_value().eq(storage.read_data.as_value()),
        ]
        with m.If(self.start):
            m.d.sync += [
                channels_left.eq(self.descriptor.channels),
                address.eq(self.descriptor.constants_base[lane_bits:ADDRESS_BITS]),
            ]
        return m
