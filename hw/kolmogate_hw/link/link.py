"""The command processor between the framed byte link and the core."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.errors import UsageError
from kolmogate.isa import UNIT, Record
from kolmogate.protocol import ACCESS, IDENTITY, PAGE_BYTES, PROGRESS, RUN, Command, Status, identity
from kolmogate.rings import RINGS

from ..block_ram import BlockRam
from ..ports import HostPort
from .cobs import Decoder, Encoder
from .turn import Turn

__all__ = ["Link"]

# Bytes of a request around its payload: sequence number and command before it, the CRC after it.
_HEAD, _CRC = 2, 4
_ACCESS = ACCESS.bits // 8
# Bytes of an answer around its payload: sequence number and status, the same CRC.
_REPLY = 2
# Of a command, with one more than there are.
_COMMAND_BITS = len(Command).bit_length()
# A request's bytes are counted from here, so that a right WRITE ends with the counter at its `last`.
_START = -(_HEAD + _ACCESS + 1 + _CRC) % 512


def _layout(record: Record) -> data.StructLayout:
    return data.StructLayout(dict(record.widths))


class Link(wiring.Component):
    """Answers the requests of `kolmogate.protocol`.

    Half duplex: a request is received into one block RAM, checked, carried out and answered before the
    next is taken from ``i``. The CRC takes a bit a cycle, so a byte takes 10 cycles to receive and 11 to
    answer, which is much faster than any UART; a WRITE then takes as long as ``host`` takes for its bytes.

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

    Attributes
    ----------
    decoder, turn, receiving, left
        Parts of it, for the proofs: all frames come through the decoder, the CRC is in `Turn`, and nothing is
        done or answered while ``receiving`` is high. Otherwise ``left`` counts down to then.
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
        self.decoder = Decoder()
        self.turn = Turn()
        self.receiving = Signal()
        self.left = Signal(range(1024))
        super().__init__(
            {"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), "host": Out(HostPort())}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        host = self.host
        m.submodules.decoder = decoder = self.decoder
        m.submodules.encoder = encoder = Encoder()
        m.submodules.turn = turn = self.turn
        m.submodules.request = request = BlockRam(8, 512)
        store = request.write
        wiring.connect(m, wiring.flipped(self.i), decoder.i)
        wiring.connect(m, encoder.o, wiring.flipped(self.o))

        # Data path, which needs no reset. The newest bytes of a payload, or what is left of an answer, are
        # in a shift register, whose flip-flops have room for the loading of the answer.
        count = Signal(range(512), init=_START)  # place in `request`
        place = Signal(4)  # place in the request's or the answer's leading bytes; keeps its last value
        sequence = Signal(8, reset_less=True)
        command = Signal(_COMMAND_BITS, reset_less=True)  # all ones if there is no such command
        chain = Signal(max(RUN.bits, 8 * _REPLY + max(IDENTITY.bits, PROGRESS.bits)), reset_less=True)
        # The address of a READ stays where it is while an answer's first bytes leave.
        low, high = chain[: -ACCESS.bits], chain[-ACCESS.bits :]
        run = data.View(_layout(RUN), chain[-RUN.bits :])
        entries = {
            name: Cat(Const(0, (UNIT - 1).bit_length()), run[name])
            for name in ("descriptors", "code", "literals")
        }
        access = data.View(_layout(ACCESS), high)
        offset = access.address[:8]
        final = Signal(9, reset_less=True)  # offset of the last byte to move
        status = Signal(Status, reset_less=True)
        previous = Signal(8, reset_less=True)  # sequence number of the request before
        started = Signal()  # that request started an inference
        start, reset = Signal(), Signal()  # the request to execute does

        # Every byte, received or sent, turns round once. One to send then waits for the encoder.
        pending = Signal()
        free = Signal()
        tail = Signal()  # the CRC is sent
        m.d.comb += [
            free.eq(~turn.turning & ~pending),
            turn.tail.eq(tail),
            encoder.i.valid.eq(pending),
            encoder.i.p.data.eq(turn.byte),
        ]
        with m.If(turn.last):
            m.d.sync += pending.eq(~self.receiving)
        with m.If(pending & encoder.i.ready):
            m.d.sync += pending.eq(0)

        progress = Signal(_layout(PROGRESS))
        m.d.comb += [
            store.addr.eq(count),
            store.data.eq(decoder.o.p.data),
            request.read_address.eq(count),
            host.request.p.address.eq(access.address),
            host.request.p.data.eq(request.read_data),
            *(getattr(host, name).eq(entry) for name, entry in entries.items()),
            host.limit.eq(run.limit),
            host.last_page.eq(run.last_page),
            host.streamed.eq(run.streamed),
            host.start.eq(start),
            host.reset.eq(reset),
            progress.busy.eq(host.busy),
            progress.error.eq(host.error),
            progress.cycles.eq(host.cycles),
            *(progress[name].eq(host.pages[name]) for name in RINGS),
        ]

        # A request's distance from the one before: 0 if it is repeated, else 1. All others are dropped.
        distance = Signal(8)
        repeated = Signal()
        m.d.comb += [distance.eq(sequence - previous), repeated.eq(started & ~distance[0])]

        def expect(condition: Any, otherwise: Status) -> None:
            with m.If(~condition):
                m.d.sync += status.eq(otherwise)

        def length(payload: int) -> Any:
            return count == (_START + _HEAD + payload + _CRC) % 512

        def take(value: Any) -> None:
            m.d.comb += [turn.load.eq(1), turn.value.eq(value)]

        size = self.config.scratchpad_bytes
        whole = (size & -size).bit_length() - 1  # bits that the comparison with the size need not look at

        def below_size(address: Any) -> Any:
            return address[whole:] < size >> whole

        # What the place says comes a cycle late, which is sooner than the next byte: one to receive belongs
        # into the chain; one to send is the last of the leading bytes of an answer, or of all.
        chained = Signal()
        m.d.sync += chained.eq(
            (place < _HEAD + _ACCESS) | ((command == Command.RUN) & (place < _HEAD + RUN.bits // 8))
        )
        last = Signal.like(place)  # of the answer's leading bytes
        m.d.comb += last.eq(_REPLY - 1)
        with m.If(status == Status.OK), m.Switch(command):
            with m.Case(Command.IDENTIFY):
                m.d.comb += last.eq(_REPLY - 1 + IDENTITY.bits // 8)
            with m.Case(Command.STATUS, Command.FEED):
                m.d.comb += last.eq(_REPLY - 1 + PROGRESS.bits // 8)
        at_last, at_end = Signal(), Signal()
        m.d.sync += [at_last.eq(place == last), at_end.eq(place == _CRC)]
        m.d.sync += [start.eq(0), reset.eq(0)]
        with m.FSM() as machine:
            with m.State("RECEIVE"):
                m.d.comb += decoder.o.ready.eq(~turn.turning)
                m.d.comb += self.receiving.eq(1)
                with m.If(decoder.o.valid & decoder.o.ready & ~decoder.o.p.end):
                    take(decoder.o.p.data)
                    m.d.comb += store.en.eq(1)
                    # A request that is too long stays too long.
                    with m.If(count != _START - 1):
                        m.d.sync += count.eq(count + 1)
                    with m.If(~place.all()):
                        m.d.sync += place.eq(place + 1)
                    with m.If(place == 0):
                        m.d.sync += sequence.eq(decoder.o.p.data)
                    with m.Elif(place == 1):
                        unknown = decoder.o.p.data[_COMMAND_BITS:].any()
                        m.d.sync += command.eq(decoder.o.p.data | unknown.replicate(_COMMAND_BITS))
                    with m.Elif(chained):
                        m.d.sync += chain.eq(Cat(chain[8:], decoder.o.p.data))
                with m.If(decoder.o.valid & decoder.o.ready & decoder.o.p.end):
                    m.d.comb += turn.restart.eq(1)
                    m.d.sync += [count.eq(_START), place.eq(0)]
                    # No frame with a right CRC has fewer bytes than the CRC, but it can be all it has.
                    with m.If((decoder.o.p.data == 0) & turn.match & (place >= _HEAD + _CRC)):
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
                    with m.Case(Command.WRITE, Command.FEED):
                        expect(count == access.last, Status.BAD_LENGTH)
                    with m.Case(Command.READ):
                        expect(length(_ACCESS), Status.BAD_LENGTH)
                    with m.Case(Command.RUN):
                        expect(~host.busy | repeated, Status.BUSY)
                        expect(length(RUN.bits // 8), Status.BAD_LENGTH)
                    with m.Default():
                        m.d.sync += status.eq(Status.BAD_COMMAND)
                m.next = "ADDRESS"
                with m.If((command != Command.IDENTIFY) & distance[1:].any()):
                    m.d.sync += count.eq(_START)
                    m.next = "RECEIVE"

            with m.State("ADDRESS"):
                m.next = "EXECUTE"
                with m.If(status == Status.OK), m.Switch(command):
                    with m.Case(Command.WRITE, Command.READ, Command.FEED):
                        expect(~final[8] & below_size(access.address), Status.BAD_ADDRESS)
                    with m.Case(Command.RUN):
                        inside = Cat(map(below_size, entries.values())).all()
                        expect(inside, Status.BAD_ADDRESS)
                        m.d.sync += start.eq(inside & ~repeated)
                    with m.Case(Command.RESET):
                        m.d.sync += reset.eq(1)

            with m.State("EXECUTE"):
                m.d.comb += request.read_enable.eq(1)
                m.d.sync += [
                    count.eq(count + 1),
                    previous.eq(sequence),
                    started.eq(start | ((command == Command.RUN) & repeated)),
                ]
                constant = Const(IDENTITY.pack(**identity(self.config)), IDENTITY.bits)
                reply = Cat(sequence, Const(0, 8), Mux(command == Command.IDENTIFY, constant, progress))
                m.d.sync += low.eq(reply)
                with m.If(command == Command.IDENTIFY):
                    m.d.sync += high.eq(reply[len(low) :])
                m.next = "HEAD"
                writes = (command == Command.WRITE) | (command == Command.FEED)
                with m.If((status == Status.OK) & writes):
                    m.next = "WRITE"

            with m.State("WRITE"):
                m.d.comb += [host.request.valid.eq(1), host.request.p.write.eq(1)]
                with m.If(host.request.ready):
                    m.d.comb += request.read_enable.eq(1)
                    m.d.sync += [count.eq(count + 1), offset.eq(offset + 1)]
                    with m.If(offset == final[:8]):
                        m.d.comb += host.fed.eq(command == Command.FEED)
                        m.next = "HEAD"

            with m.State("HEAD"), m.If(free):
                take(low[:8] | Mux(place == 1, status, 0))
                m.d.sync += [place.eq(place + 1), low.eq(chain[8:])]
                with m.If(command == Command.IDENTIFY):
                    m.d.sync += high.eq(high[8:])
                with m.If(at_last):
                    m.d.sync += place.eq(0)
                    m.next = "CRC"
                    with m.If((command == Command.READ) & (status == Status.OK)):
                        m.next = "READ"

            with m.State("READ"):
                # What is read has nowhere to wait but the register.
                m.d.comb += host.request.valid.eq(free)
                with m.If(host.request.ready & free):
                    m.next = "AWAIT"
            with m.State("AWAIT"), m.If(host.valid):
                take(host.data)
                m.d.sync += offset.eq(offset + 1)
                m.next = "READ"
                with m.If(offset == final[:8]):
                    m.next = "CRC"

            with m.State("CRC"), m.If(free):
                m.d.comb += turn.load.eq(~at_end)
                m.d.sync += [tail.eq(1), place.eq(place + 1)]
                with m.If(at_end):
                    m.d.sync += [pending.eq(1), place.eq(0), count.eq(_START)]
                    m.next = "END"
            with m.State("END"):
                m.d.comb += [encoder.i.p.end.eq(1), turn.restart.eq(1)]
                with m.If(free):
                    m.d.sync += tail.eq(0)
                    m.next = "RECEIVE"

        # Counters end where they are equal to something, so that they end from wherever they are.
        bytes_left = (final[:8] - offset)[:8]
        for state, left in (
            ("CHECK", 1002),
            ("ADDRESS", 1001),
            ("EXECUTE", 1000),
            ("WRITE", 740 + bytes_left),
            ("HEAD", 720 + (last - place)[:4]),
            ("READ", 101 + 2 * bytes_left),
            ("AWAIT", 100 + 2 * bytes_left),
            ("CRC", 2 + (_CRC - place)[:4]),
            ("END", 1),
        ):
            with m.If(machine.ongoing(state)):
                m.d.comb += self.left.eq(left)
        return m
