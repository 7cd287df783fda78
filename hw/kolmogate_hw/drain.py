"""The drain: takes finished tiles out of the array, through the requantisers, to the writer."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, DESCRIPTOR, RESIDUAL
from kolmogate.machine_arithmetic import leaving_latency, requantiser_interval

from .constants_buffer import ConstantsBuffer, record_row
from .ports import BatchPort, RowPort, write_port
from .positions import BatchCounter
from .records import struct_layout
from .requantiser import Requantiser
from .residual import ROWS, ResidualAdder
from .writer import OutputWriter

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Empties the array's shadow registers while the array works on the next tile.

    Members
    -------
    captured : a tile appears in the shadow registers in the next cycle.
    final_tile, last_row : it is the last of its column group; the last of its rows with a position.
    drained : high for one cycle when the array may take the last tap of the next tile: the last live output
        of the tile has left the registers, or will have before they capture again.
    accumulators, shift : the array's draining end.
    records : rows of constants from the weight decoder.
    next_group, group_base : the descriptor's ``output_base`` is to become this.
    start_residual, row, residual : add a tensor to the outputs of the layer that starts next.
    done : high for one cycle when the layer's last output is in the scratchpad.
    last_tile, leaving : high for one cycle when the layer's last tile is in the registers; high from when all
        other outputs are in the scratchpad until the next start, if nothing is added to them, else low. Only
        of machines with two scratchpad ports.

    Throughput: Q outputs per requantiser interval; columns beyond the layer's last channel pass at one
    shift a cycle.
    """

    start: Signal
    captured: Signal
    final_tile: Signal
    last_row: Signal
    drained: Signal
    shift: Signal
    next_group: Signal
    group_base: Signal
    done: Signal
    last_tile: Signal
    leaving: Signal
    records: wiring.PureInterface

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "descriptor": In(struct_layout(DESCRIPTOR)),
                "captured": In(1),
                "final_tile": In(1),
                "last_row": In(range(config.rows)),
                "drained": Out(1),
                "accumulators": In(data.ArrayLayout(signed(config.accumulator_bits), config.requantisers)),
                "shift": Out(1),
                "next_group": Out(1),
                "group_base": Out(ADDRESS_BITS),
                "done": Out(1),
                "last_tile": Out(1),
                "leaving": Out(1),
                "records": In(RowPort(config, record_row(config))),
                "start_residual": In(1),
                "row": In(range(ROWS)),
                "residual": In(struct_layout(RESIDUAL)),
                "residual_port": Out(BatchPort(config)),
                "write_port": Out(write_port(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, descriptor = self.config, self.descriptor
        batches = config.columns // config.requantisers
        m.submodules.constants = constants = ConstantsBuffer(config)
        m.submodules.counter = counter = BatchCounter(config)
        m.submodules.requantiser = requantiser = Requantiser(config)
        m.submodules.writer = writer = OutputWriter(config)
        wiring.connect(m, wiring.flipped(self.records), constants.i)
        wiring.connect(m, writer.port, wiring.flipped(self.write_port))
        for part in (counter, writer):
            m.d.comb += [part.start.eq(self.start), part.descriptor.eq(descriptor)]
        m.d.comb += [
            requantiser.single_rounding.eq(descriptor.single_rounding),
            requantiser.zero_point.eq(descriptor.zero_point),
            requantiser.minimum.eq(descriptor.minimum),
            requantiser.maximum.eq(descriptor.maximum),
            requantiser.i.payload.accumulators.eq(self.accumulators),
            requantiser.i.payload.constants.eq(constants.constants),
            self.next_group.eq(writer.next_group),
            self.group_base.eq(writer.group_base),
            self.done.eq(writer.done),
        ]

        adding = Signal()
        if config.residual_adder:
            m.submodules.residual = residual = ResidualAdder(config)
            wiring.connect(m, requantiser.o, residual.i)
            wiring.connect(m, residual.o, writer.i)
            wiring.connect(m, residual.port, wiring.flipped(self.residual_port))
            m.d.comb += [
                residual.start.eq(self.start_residual),
                residual.row.eq(self.row),
                residual.record.eq(self.residual),
                residual.address.eq(writer.address),
                residual.done.eq(writer.done),
                writer.accept.eq(residual.accept),
                writer.late.eq(residual.adding),
                adding.eq(residual.adding),
            ]
        else:
            wiring.connect(m, requantiser.o, writer.i)
            m.d.comb += writer.accept.eq(writer.i.valid)

        # `draining` offers a batch; `skipping` shifts the dead columns of a position out of the way. The
        # batch address runs one cycle ahead of the batch, for the constants memory.
        draining = Signal()
        skipping = Signal()
        row = Signal(range(config.rows))
        # Of the tile in the registers.
        final_tile = Signal(reset_less=True)
        last_row = Signal.like(self.last_row, reset_less=True)
        with m.If(self.captured):
            m.d.sync += [final_tile.eq(self.final_tile), last_row.eq(self.last_row)]
        column = Signal(range(batches))
        row_end = Signal()
        tile_end = Signal()
        transfer = Signal()
        # A group's constants are there two cycles after the last batch of the group before. In the pipelined
        # form the next tile may be sooner.
        interval = requantiser_interval(config)
        released = Signal()
        if interval == 1:
            m.d.sync += released.eq(constants.release)
        m.d.comb += [
            requantiser.i.valid.eq(draining & ~skipping & constants.ready & ~released),
            transfer.eq(requantiser.i.valid & requantiser.i.ready),
            tile_end.eq(row == last_row),
            counter.group_end.eq(tile_end & final_tile),
            self.shift.eq(transfer | skipping),
            counter.next_batch.eq(transfer & ~counter.last.batch),
            counter.next_position.eq(transfer & counter.last.batch),
            constants.batch.eq(counter.batch),
            constants.release.eq(counter.next_position & counter.group_end),
            row_end.eq(column == batches - 1),
        ]
        # Where nothing is added to the outputs, those left of a tile leave at the pace of the requantisers:
        # the last of them may follow while the next tile is on its way into the registers: whole rows in
        # the pipelined form, and batches of the row before if there is time; a batch in the digit-serial one.
        final = Signal()
        ahead = Signal()
        m.d.comb += final.eq(counter.next_position & tile_end)
        if interval == 1:
            behind = min(config.rows - 1, config.capture_latency // batches)
            enough = config.rows - 1 - behind
            left = counter.next_position
            # Batches of the row before that may follow, too.
            if more := config.capture_latency - behind * batches:
                left = transfer & (counter.batch == Mux(counter.end > more, counter.end - more, 0))
            m.d.comb += ahead.eq(((row == enough) & left) | ((row < enough) & final))
        elif interval <= config.capture_latency:
            follows = Signal()
            m.d.sync += follows.eq(counter.next_batch & counter.last_follows & tile_end)
            m.d.comb += ahead.eq(follows | (final & (counter.batch == 0)))
        else:
            m.d.comb += ahead.eq(final)
        m.d.comb += self.drained.eq(Mux(adding, final, ahead))
        with m.If(counter.next_batch):
            m.d.comb += constants.batch.eq(counter.batch + 1)
        with m.If(counter.next_position):
            m.d.comb += constants.batch.eq(0)
        with m.If(self.shift):
            m.d.sync += column.eq(column + 1)
            with m.If(row_end):
                m.d.sync += [column.eq(0), skipping.eq(0)]
        with m.If(transfer & counter.last.batch):
            m.d.sync += [row.eq(row + 1), skipping.eq(~row_end)]
            with m.If(tile_end):
                m.d.sync += [draining.eq(0), skipping.eq(0), row.eq(0), column.eq(0)]
        with m.If(self.captured):
            m.d.sync += draining.eq(1)
        if config.scratchpad_ports == 2:
            # When a tile is in the registers, what was there before it has gone to the requantisers. The last
            # tile is final, and in the last group as soon as the batches are.
            ending = Signal(1 + leaving_latency(config))
            last = draining & final_tile & counter.last.group
            with m.If(self.start):
                m.d.sync += ending.eq(0)
            with m.Else():
                m.d.sync += ending.eq(Cat(last | ending[0], ending))
            m.d.comb += [self.last_tile.eq(ending[0] & ~ending[1]), self.leaving.eq(ending[-1] & ~adding)]
        return m
