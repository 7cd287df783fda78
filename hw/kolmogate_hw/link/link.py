"""The command processor between the framed byte link and the core."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.errors import UsageError
from kolmogate.isa import Record
from kolmogate.protocol import ACCESS, IDENTITY, PAGE_BYTES, PROGRESS, RUN, Command, Status, identity

from ..block_ram import BlockRam
from ..ports import HostPort
from .cobs import TOKEN, Decoder, Encoder

__all__ = ["Link"]

# Bytes of a request around its payload: sequence number and command before it, the CRC after it.
_HEAD, _CRC = 2, 4
_ACCESS = ACCESS.bits // 8
# A request's bytes are counted from here, so that a right WRITE ends with the counter at its `last`.
_START = -(_HEAD + _ACCESS + 1 + _CRC) % 512


def _layout(record: Record) -> data.StructLayout:
    return data.StructLayout(dict(record.widths))


class Link(wiring.Component):
    """Answers the requests of `kolmogate.protocol`.

    Half duplex: a request is received into one block RAM, checked, carried out and answered before the
    next is taken from ``i``. Reception takes a byte a cycle; a WRITE then one cycle a byte as long as
    ``host`` takes them, a READ one access and two cycles a byte.

    Parameters
    ----------
    config : MachineConfig
        What IDENTIFY answers, and the scratchpad size that addresses are checked against. Raises
        `UsageError` if the scratchpad is not whole pages.

    Members
    -------
    i, o : streams of bytes
        From and to the host.
    host : HostPort, out
    """

    i: stream.Interface
    o: stream.Interface
    host: Any

    def __init__(self, config: MachineConfig) -> None:
        if config.scratchpad_bytes % PAGE_BYTES:
            raise UsageError(
                f"scratchpad_bytes must be a multiple of {PAGE_BYTES}, not {config.scratchpad_bytes}"
            )
        self.config = config
        super().__init__(
            {"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), "host": Out(HostPort())}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        host = self.host
        m.submodules.decoder = decoder = Decoder()
        m.submodules.encoder = encoder = Encoder()
        crc, restart = CRC32_ISO_HDLC(data_width=8).create(), Signal()
        # The processor's own `start` may come with the first byte, which costs a multiplexer.
        m.submodules.crc = ResetInserter(restart)(crc)
        m.submodules.request = request = BlockRam(8, 512)
        store = request.write
        wiring.connect(m, wiring.flipped(self.i), decoder.i)
        wiring.connect(m, encoder.o, wiring.flipped(self.o))

        # Data path, which needs no reset. The payload's newest bytes are kept in a shift register.
        count = Signal(range(512), init=_START)  # place in `request`
        place = Signal(4)  # place in the request's or the answer's leading bytes; keeps its last value
        sequence = Signal(8, reset_less=True)
        command = Signal(8, reset_less=True)
        arguments = Signal(RUN.bits, reset_less=True)
        run = data.View(_layout(RUN), arguments)
        access = data.View(_layout(ACCESS), arguments[-ACCESS.bits :])
        offset, page = access.address[:8], access.address[8:]
        final = Signal(9, reset_less=True)  # offset of the last byte to move
        status = Signal(Status, reset_less=True)
        previous = Signal(8, reset_less=True)  # sequence number of the request before
        started = Signal()  # that request started an inference

        # The answer leaves through a register, because what it tells may change while a byte waits.
        token = Signal(TOKEN, reset_less=True)
        pending = Signal()
        room = Signal()
        progress = Signal(_layout(PROGRESS))

        m.d.comb += [
            store.addr.eq(count),
            store.data.eq(decoder.o.p.data),
            request.read_address.eq(count),
            crc.data.eq(decoder.o.p.data),
            host.request.p.address.eq(access.address),
            host.request.p.data.eq(request.read_data),
            host.descriptors.eq(run.descriptors),
            host.code.eq(run.code),
            host.literals.eq(run.literals),
            host.limit.eq(run.limit),
            progress.busy.eq(host.busy),
            progress.error.eq(host.error),
            progress.cycles.eq(host.cycles),
            encoder.i.valid.eq(pending),
            encoder.i.payload.eq(token),
            room.eq(~pending | encoder.i.ready),
        ]
        with m.If(encoder.i.ready):
            m.d.sync += pending.eq(0)

        again = sequence == previous
        repeated = started & again

        def expect(condition: Any, otherwise: Status) -> None:
            with m.If(~condition):
                m.d.sync += status.eq(otherwise)

        def length(payload: int) -> Any:
            return count == (_START + _HEAD + payload + _CRC) % 512

        def answer(byte: Any, *, covered: bool = True) -> None:
            """Send a byte, which the CRC covers; only when there is room."""
            m.d.comb += [crc.data.eq(byte), crc.valid.eq(covered)]
            m.d.sync += [token.data.eq(byte), token.end.eq(0), pending.eq(1)]

        with m.FSM():
            with m.State("RECEIVE"):
                m.d.comb += decoder.o.ready.eq(1)
                with m.If(decoder.o.valid & ~decoder.o.p.end):
                    m.d.comb += [crc.valid.eq(1), store.en.eq(1)]
                    # A request that is too long stays too long.
                    with m.If(count != _START - 1):
                        m.d.sync += count.eq(count + 1)
                    with m.If(~place.all()):
                        m.d.sync += place.eq(place + 1)
                    with m.If(place == 0):
                        m.d.sync += sequence.eq(decoder.o.p.data)
                    with m.Elif(place == 1):
                        m.d.sync += command.eq(decoder.o.p.data)
                    with m.Elif(
                        (place < _HEAD + _ACCESS)
                        | ((command == Command.RUN) & (place < _HEAD + RUN.bits // 8))
                    ):
                        m.d.sync += arguments.eq(Cat(arguments[8:], decoder.o.p.data))
                with m.If(decoder.o.valid & decoder.o.p.end):
                    m.d.comb += restart.eq(1)
                    m.d.sync += [count.eq(_START), place.eq(0)]
                    # No frame with a right CRC has fewer bytes than the CRC, but it can be all it has.
                    with m.If((decoder.o.p.data == 0) & crc.match_detected & (place >= _HEAD + _CRC)):
                        m.d.sync += count.eq(count)
                        m.next = "CHECK"

            with m.State("CHECK"):
                m.d.sync += [
                    status.eq(Status.OK),
                    final.eq(offset + access.last),
                    # Where the data of a WRITE begins.
                    count.eq((_START + _HEAD + _ACCESS) % 512),
                ]
                with m.Switch(command):
                    with m.Case(Command.IDENTIFY, Command.STATUS, Command.RESET):
                        expect(length(0), Status.BAD_LENGTH)
                    with m.Case(Command.WRITE):
                        expect(count == access.last, Status.BAD_LENGTH)
                    with m.Case(Command.READ):
                        expect(length(_ACCESS), Status.BAD_LENGTH)
                    with m.Case(Command.RUN):
                        expect(~host.busy | repeated, Status.BUSY)
                        expect(length(RUN.bits // 8), Status.BAD_LENGTH)
                    with m.Default():
                        m.d.sync += status.eq(Status.BAD_COMMAND)
                m.next = "EXECUTE"
                with m.If((command != Command.IDENTIFY) & ~again & (sequence != (previous + 1)[:8])):
                    m.d.sync += count.eq(_START)
                    m.next = "RECEIVE"

            with m.State("EXECUTE"):
                m.d.comb += request.read_enable.eq(1)
                m.d.sync += [
                    count.eq(count + 1),
                    previous.eq(sequence),
                    started.eq((command == Command.RUN) & repeated),
                ]
                m.next = "HEAD"
                with m.If(status == Status.OK):
                    size = self.config.scratchpad_bytes
                    with m.Switch(command):
                        with m.Case(Command.WRITE, Command.READ):
                            inside = ~final[8] & (page < size // PAGE_BYTES)
                            expect(inside, Status.BAD_ADDRESS)
                            with m.If(inside & (command == Command.WRITE)):
                                m.next = "WRITE"
                        with m.Case(Command.RUN):
                            inside = (run.descriptors < size) & (run.code < size) & (run.literals < size)
                            expect(inside, Status.BAD_ADDRESS)
                            with m.If(inside & ~repeated):
                                m.d.comb += host.start.eq(1)
                                m.d.sync += started.eq(1)
                        with m.Case(Command.RESET):
                            m.d.comb += host.reset.eq(1)

            with m.State("WRITE"):
                m.d.comb += [host.request.valid.eq(1), host.request.p.write.eq(1)]
                with m.If(host.request.ready):
                    m.d.comb += request.read_enable.eq(1)
                    m.d.sync += [count.eq(count + 1), offset.eq(offset + 1)]
                    with m.If(offset == final[:8]):
                        m.next = "HEAD"

            with m.State("HEAD"), m.If(room):
                last = Signal.like(place)
                m.d.sync += place.eq(place + 1)
                m.d.comb += last.eq(1)
                with m.If(place == 0):
                    answer(sequence)
                with m.Elif(place == 1):
                    answer(status)
                with m.Elif(command == Command.IDENTIFY):
                    constant = Const(IDENTITY.pack(**identity(self.config)), IDENTITY.bits)
                    answer(Cat(Const(0, 8 * _HEAD), constant).word_select(place, 8))
                with m.Else():
                    answer(Cat(Const(0, 8 * _HEAD), progress).word_select(place, 8))
                with m.If(status == Status.OK), m.Switch(command):
                    with m.Case(Command.IDENTIFY):
                        m.d.comb += last.eq(1 + IDENTITY.bits // 8)
                    with m.Case(Command.STATUS):
                        m.d.comb += last.eq(1 + PROGRESS.bits // 8)
                with m.If(place == last):
                    m.d.sync += place.eq(0)
                    m.next = "CRC"
                    with m.If((command == Command.READ) & (status == Status.OK)):
                        m.next = "READ"

            with m.State("READ"):
                # What is read has nowhere to wait but the register.
                m.d.comb += host.request.valid.eq(~pending)
                with m.If(host.request.ready & ~pending):
                    m.next = "AWAIT"
            with m.State("AWAIT"), m.If(host.valid):
                answer(host.data)
                m.d.sync += offset.eq(offset + 1)
                m.next = "READ"
                with m.If(offset == final[:8]):
                    m.next = "CRC"

            with m.State("CRC"), m.If(room):
                answer(crc.crc.word_select(place[:2], 8), covered=False)
                m.d.sync += place.eq(place + 1)
                with m.If(place == _CRC - 1):
                    m.next = "END"
            with m.State("END"), m.If(room):
                m.d.comb += restart.eq(1)
                m.d.sync += [token.end.eq(1), pending.eq(1), count.eq(_START), place.eq(0)]
                m.next = "RECEIVE"
        return m
