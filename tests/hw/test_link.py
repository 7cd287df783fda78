"""The gateware link against the `cobs` package and the protocol's definition, under random stalls."""

import random

import pytest
from cobs import cobs
from kolmogate import protocol
from kolmogate.config import configuration
from kolmogate.isa import UNIT
from kolmogate.protocol import Command, Status
from kolmogate_hw.link import Decoder, Encoder, Link
from kolmogate_hw.link.cobs import TOKEN
from kolmogate_sim.streams import collect, drive, seed, simulate, stalls

CONFIG = configuration("up5k")
SIZE = CONFIG.scratchpad_bytes
FIRST = 250
"""Sequence number of the first request after the one that opens the connection."""


def contents(source):
    """Frames at the corners of the code: around full blocks, with and without zeros."""
    frames = [bytes(length) for length in (0, 1, 2, 20)]
    frames += [bytes(source.choices(range(1, 256), k=length)) for length in (1, 2, 253, 254, 255, 508, 509)]
    frames += [source.randbytes(length) for length in (3, 254, 300)]
    frames += [bytes(source.choices((0, 1, 255), k=source.randrange(40))) for _ in range(20)]
    frames += [b"\xff" * 254 + b"\0\0", b"\0" + b"\xff" * 254]
    source.shuffle(frames)
    return frames


def tokens(frame, damaged=False):
    return [{"data": byte, "end": 0} for byte in frame] + [{"data": int(damaged), "end": 1}]


def test_encoder_agrees_with_cobs():
    source = random.Random(seed())
    frames = contents(source)
    dut = Encoder()
    received = bytearray()

    async def send(ctx):
        for frame in frames:
            await drive(ctx, dut.i, tokens(frame), stalls(source))

    async def receive(ctx):
        async for byte in collect(ctx, dut.o, stalls(source)):
            received.append(byte)
            if received.count(0) == len(frames):
                return

    monitors = simulate(dut, send, receive, cycles=200_000)
    assert bytes(received) == b"".join(cobs.encode(frame) + b"\0" for frame in frames)
    assert monitors["o"].transfers == len(received)


def test_decoder_agrees_with_cobs():
    source = random.Random(seed())
    frames = contents(source)
    sent, expected = b"", []
    for frame in frames:
        encoded = cobs.encode(frame)
        damaged = source.random() < 0.3
        if damaged:
            encoded = encoded[: source.randrange(len(encoded))]
        try:
            content = cobs.decode(encoded)
            damaged = False
        except cobs.DecodeError:
            # What came before the damage is passed on all the same: complete the block to see it.
            content, damaged = whole_prefix(encoded), True
        sent += encoded + b"\0"
        expected += tokens(content, damaged)
    assert any(token["end"] and token["data"] for token in expected)
    dut = Decoder()
    received = []

    async def send(ctx):
        await drive(ctx, dut.i, sent, stalls(source))

    async def receive(ctx):
        async for token in collect(ctx, dut.o, stalls(source)):
            received.append(token)
            if len(received) == len(expected):
                return

    simulate(dut, send, receive, cycles=200_000)
    assert received == [TOKEN.const(token) for token in expected]


def whole_prefix(encoded):
    """Content of a truncated chain of blocks, as far as it goes."""
    missing = 0
    while True:
        missing += 1
        try:
            return cobs.decode(encoded + b"\1" * missing)[:-missing]
        except cobs.DecodeError:
            assert missing < 256


class Host:
    """A memory behind a Link's host port that stalls at random, and what was asked of it."""

    def __init__(self, dut, source):
        self.dut, self.source = dut, source
        self.memory = bytearray(source.randbytes(SIZE))
        self.runs, self.resets, self.accesses, self.fed = [], 0, 0, []
        self.ticking = False
        self.progress = {"busy": 0, "error": 0, "cycles": 0}
        self.pages = {"coded": 0, "literals": 0, "code": 0}

    async def serve(self, ctx):
        port = self.dut.host.request
        async for access in collect(ctx, port, stalls(self.source, 0.4)):
            self.accesses += 1
            if access.write:
                self.memory[access.address] = access.data
                continue
            for _ in range(self.source.randrange(5)):
                await ctx.tick()
            ctx.set(self.dut.host.data, self.memory[access.address])
            ctx.set(self.dut.host.valid, 1)
            await ctx.tick()
            ctx.set(self.dut.host.data, self.source.randrange(256))
            ctx.set(self.dut.host.valid, 0)

    async def control(self, ctx):
        host = self.dut.host
        fed = host.fed & host.request.valid & host.request.ready
        sampled = (host.start, host.reset, fed, host.request.p.address)
        entries = (host.descriptors, host.code, host.literals, host.limit, host.last_page, host.streamed)
        async for _, _, start, reset, filled, address, *entry in ctx.tick().sample(*sampled, *entries):
            if filled:
                self.fed.append(address)
            ctx.set(host.pages, self.pages)
            if start:
                self.runs.append(tuple(entry))
            self.resets += reset
            self.progress["cycles"] += 0x01010101 * self.ticking
            ctx.set(host.busy, self.progress["busy"])
            ctx.set(host.error, self.progress["error"])
            ctx.set(host.cycles, self.progress["cycles"] % (1 << 32))


def exchange(conversation, config=CONFIG, cycles=400_000):
    """Run ``conversation(host, ask)`` on a Link, where ``await ask(bytes)`` sends bytes and gives the next
    answer's body; with ``answered=False`` it checks that nothing comes back."""
    source = random.Random(seed())
    dut = Link(config)
    host = Host(dut, source)

    async def talk(ctx):
        answers = protocol.FrameReader()
        arriving = collect(ctx, dut.o, stalls(source))

        async def ask(sent, answered=True):
            await drive(ctx, dut.i, sent, stalls(source))
            if not answered:
                ctx.set(dut.o.ready, 1)
                for _ in range(100):
                    await ctx.tick()
                    assert not ctx.get(dut.o.valid), "the device answered a bad frame"
                ctx.set(dut.o.ready, 0)
                return None
            async for byte in arriving:
                for body in answers.feed(bytes((byte,))):
                    return body

        assert (await ask(request(FIRST - 1, Command.IDENTIFY)))[:2] == bytes((FIRST - 1, Status.OK))
        await conversation(host, ask)

    simulate(dut, talk, cycles=cycles, background=(host.serve, host.control))
    return host


def request(sequence, command, payload=b""):
    return protocol.pack_frame(bytes((sequence, command)) + payload)


def record(layout, **values):
    return layout.pack(**values).to_bytes(layout.bits // 8, "little")


def write(sequence, address, content):
    return request(
        sequence, Command.WRITE, record(protocol.ACCESS, last=len(content) - 1, address=address) + content
    )


def feed(sequence, address, content):
    return request(
        sequence, Command.FEED, record(protocol.ACCESS, last=len(content) - 1, address=address) + content
    )


def read(sequence, address, size):
    return request(sequence, Command.READ, record(protocol.ACCESS, address=address, last=size - 1))


def run(sequence, *, descriptors=0, code=0, literals=0, **entry):
    addresses = {"descriptors": descriptors, "code": code, "literals": literals}
    units = {name: address // UNIT for name, address in addresses.items()}
    return request(sequence, Command.RUN, record(protocol.RUN, **units, **entry))


@pytest.mark.parametrize("name", ["up5k", "ecp5-85f"])
def test_identify(name):
    config = configuration(name)

    async def conversation(host, ask):
        answer = await ask(request(7, Command.IDENTIFY))
        assert answer[:2] == bytes((7, Status.OK))
        assert protocol.IDENTITY.unpack(int.from_bytes(answer[2:], "little")) == {
            "version": protocol.VERSION,
            "rows": config.rows,
            "columns": config.columns,
            "requantisers": config.requantisers,
            "requantiser_digit_bits": config.requantiser_digit_bits,
            "scratchpad_ports": config.scratchpad_ports,
            "accumulator_bits": config.accumulator_bits,
            "column_buffer_depth": config.column_buffer_depth,
            "entropy_engines": config.entropy_engines,
            "residual_adder": config.residual_adder,
            "generator": config.generator,
            "scratchpad_bytes": config.scratchpad_bytes,
        }

    exchange(conversation, config)


def test_memory_is_written_and_read():
    source = random.Random(seed() + 1)

    def in_page(size):
        return 256 * source.randrange(SIZE // 256) + source.randrange(257 - size)

    async def conversation(host, ask):
        model = bytearray(host.memory)
        sizes = [1, 2, 255, 256, *(source.randrange(1, 257) for _ in range(2))]
        for number, size in enumerate(sizes):
            sequence, following = (FIRST + 2 * number) % 256, (FIRST + 2 * number + 1) % 256
            address = source.choice((0, SIZE - size, in_page(size)))
            content = source.choice((source.randbytes(size), bytes(size), b"\xff" * size))
            model[address : address + size] = content
            assert await ask(write(sequence, address, content)) == bytes((sequence, Status.OK))
            assert host.memory == model
            address = in_page(size)
            expected = model[address : address + size]
            assert await ask(read(following, address, size)) == bytes((following, Status.OK)) + expected

    exchange(conversation)


def test_damaged_frames_are_dropped_without_effect():
    source = random.Random(seed() + 2)
    good = write(FIRST, 64, source.randbytes(20))

    async def conversation(host, ask):
        before = bytes(host.memory)
        for _ in range(40):
            frame = bytearray(good)
            kind = source.choice(("flip", "cut", "insert", "swap", "empty"))
            place = source.randrange(len(frame) - 1)
            if kind == "flip":
                frame[place] ^= 1 << source.randrange(8)
            elif kind == "cut":
                del frame[place : place + source.randrange(1, 4)]
            elif kind == "insert":
                frame[place:place] = source.randbytes(source.randrange(1, 4))
            elif kind == "swap":
                frame[place], frame[place - 1] = frame[place - 1], frame[place]
            else:
                frame[:] = bytes(source.randrange(1, 4))
            if bytes(frame) == good or frame[-1]:
                frame = bytearray(b"\x05noise\0")
            await ask(frame, answered=False)
            assert host.memory == before
            assert host.accesses == 0
        assert await ask(good) == bytes((FIRST, Status.OK))
        assert host.accesses == 20

    exchange(conversation)


def test_frame_longer_than_the_buffer():
    source = random.Random(seed() + 3)

    async def conversation(host, ask):
        # A counter that wrapped would make 512 bytes too many look right.
        for size in (257, 300, 501, 502, 1 + 512, 100 + 512):
            payload = bytes(((size - 1) % 256, 0, 0, 0)) + source.randbytes(size)
            assert await ask(request(FIRST, Command.WRITE, payload)) == bytes((FIRST, Status.BAD_LENGTH))
        assert host.accesses == 0
        assert await ask(write(FIRST, 0, b"x")) == bytes((FIRST, Status.OK))

    exchange(conversation)


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        (request(FIRST, 7), Status.BAD_COMMAND),
        (request(FIRST, 255, b"abc"), Status.BAD_COMMAND),
        (request(FIRST, Command.IDENTIFY, b"\0"), Status.BAD_LENGTH),
        (request(FIRST, Command.STATUS, b"\0"), Status.BAD_LENGTH),
        (request(FIRST, Command.RESET, b"\0"), Status.BAD_LENGTH),
        (request(FIRST, Command.WRITE), Status.BAD_LENGTH),
        (request(FIRST, Command.WRITE, bytes(4)), Status.BAD_LENGTH),
        (request(FIRST, Command.WRITE, bytes((255, 0, 0, 0))), Status.BAD_LENGTH),
        (request(FIRST, Command.WRITE, bytes((1, 0, 0, 0, 7))), Status.BAD_LENGTH),
        (request(FIRST, Command.WRITE, bytes((1, 0, 0, 0, 7, 8, 9))), Status.BAD_LENGTH),
        (request(FIRST, Command.READ, bytes(3)), Status.BAD_LENGTH),
        (request(FIRST, Command.READ, bytes(5)), Status.BAD_LENGTH),
        (request(FIRST, Command.RUN, bytes(11)), Status.BAD_LENGTH),
        (request(FIRST, Command.RUN, bytes(13)), Status.BAD_LENGTH),
        (request(FIRST, Command.FEED, bytes((1, 0, 0, 0, 7))), Status.BAD_LENGTH),
        (feed(FIRST, 255, b"ab"), Status.BAD_ADDRESS),
        (feed(FIRST, SIZE, b"a"), Status.BAD_ADDRESS),
        (write(FIRST, SIZE, b"a"), Status.BAD_ADDRESS),
        (write(FIRST, SIZE - 2, b"abc"), Status.BAD_ADDRESS),
        (write(FIRST, 255, b"ab"), Status.BAD_ADDRESS),
        (read(FIRST, 257, 256), Status.BAD_ADDRESS),
        (write(FIRST, (1 << 24) - 1, b"ab"), Status.BAD_ADDRESS),
        (read(FIRST, SIZE, 1), Status.BAD_ADDRESS),
        (read(FIRST, SIZE - 1, 2), Status.BAD_ADDRESS),
        (read(FIRST, 1 << 20, 1), Status.BAD_ADDRESS),
        (run(FIRST, descriptors=SIZE), Status.BAD_ADDRESS),
        (run(FIRST, code=SIZE), Status.BAD_ADDRESS),
        (run(FIRST, literals=(1 << 20) - UNIT), Status.BAD_ADDRESS),
    ],
    ids=lambda value: value.name if isinstance(value, Status) else "",
)
def test_bad_requests_are_refused_without_effect(frame, status):
    async def conversation(host, ask):
        before = bytes(host.memory)
        assert await ask(frame) == bytes((FIRST, status))
        assert host.memory == before
        assert (host.accesses, host.runs, host.resets) == (0, [], 0)
        assert await ask(read(FIRST + 1, 0, 2)) == bytes((FIRST + 1, Status.OK)) + before[:2]

    exchange(conversation)


def test_run_status_reset():
    entry = {"descriptors": SIZE - 8, "code": 0x1238, "literals": 0xABC8, "limit": 0xDEADBEEF}
    entry |= {"last_page": 0xABC, "streamed": 1}
    started = tuple(entry.values())

    async def conversation(host, ask):
        sequence = FIRST - 1

        async def repeat(frame, status=Status.OK):
            answer = await ask(frame(sequence))
            assert answer[:2] == bytes((sequence, status))
            return answer[2:]

        async def new(frame, status=Status.OK):
            nonlocal sequence
            sequence = (sequence + 1) % 256
            return await repeat(frame, status)

        def start(sequence):
            return run(sequence, **entry)

        def status(sequence):
            return request(sequence, Command.STATUS)

        await new(start)
        assert host.runs == [started]
        host.progress = {"busy": 1, "error": 0, "cycles": 5}
        # Repeated while it runs, because the answer was lost.
        await repeat(start)
        await new(start, Status.BUSY)
        # The repetition of a refused request is refused again.
        await repeat(start, Status.BUSY)
        assert len(host.runs) == 1
        assert await new(status) == record(protocol.PROGRESS, busy=1, error=0, cycles=5)
        # Memory may be moved while an inference runs.
        await new(lambda sequence: write(sequence, 5, b"hello"))
        assert await new(lambda sequence: read(sequence, 5, 5)) == b"hello"
        host.progress = {"busy": 0, "error": 3, "cycles": 0x01020304}
        assert await new(status) == record(protocol.PROGRESS, busy=0, error=3, cycles=0x01020304)
        # The repetition starts nothing even when the inference has ended.
        await new(start)
        await repeat(start)
        await repeat(start)
        assert len(host.runs) == 2
        # Repeating something else's sequence number is a start like any other.
        await new(status)
        await repeat(start)
        assert host.runs == [started] * 3
        await new(lambda sequence: request(sequence, Command.RESET))
        assert host.resets == 1

    exchange(conversation)


def test_feed_writes_and_then_fills_a_page():
    source = random.Random(seed() + 4)

    async def conversation(host, ask):
        for number in range(5):
            sequence, size = FIRST + number, source.choice((1, 256, source.randrange(1, 257)))
            address = 256 * source.randrange(SIZE // 256) + source.randrange(257 - size)
            content = source.randbytes(size)
            host.pages = {name: source.randrange(4) for name in host.pages}
            host.progress = {"busy": 1, "error": 0, "cycles": source.getrandbits(32)}
            expected = record(protocol.PROGRESS, **host.progress, **host.pages)
            # Repeated because the answer was lost: it does the same.
            for _ in range(2):
                assert await ask(feed(sequence, address, content)) == bytes((sequence, Status.OK)) + expected
                assert host.memory[address : address + size] == content
                assert host.fed.pop() == address + size - 1
            assert host.fed == []
        await ask(write(sequence + 1, 0, bytes(256)))
        assert host.fed == []

    exchange(conversation)


def test_frames_out_of_sequence_are_dropped():
    async def conversation(host, ask):
        before = bytes(host.memory)
        for distance in (-128, -5, -2, 1, 2, 127):
            stale = (FIRST + distance) % 256
            await ask(write(stale, 0, b"stale"), answered=False)
            await ask(run(stale, limit=1), answered=False)
        assert (host.memory, host.runs) == (before, [])
        assert await ask(write(FIRST - 1, 0, b"a")) == bytes((FIRST - 1, Status.OK))
        assert await ask(write(FIRST, 1, b"b")) == bytes((FIRST, Status.OK))
        await ask(write(FIRST - 1, 0, b"z"), answered=False)
        assert await ask(write(FIRST, 1, b"b")) == bytes((FIRST, Status.OK))
        # A new connection counts from anywhere.
        assert (await ask(request(77, Command.IDENTIFY)))[0] == 77
        assert await ask(write(78, 2, b"c")) == bytes((78, Status.OK))
        assert host.memory == b"abc" + before[3:]

    exchange(conversation)


def test_answer_holds_while_the_device_runs_on():
    """A status that changes while its answer waits must still be one good frame."""

    async def conversation(host, ask):
        host.progress["busy"] = 1
        host.ticking = True
        for number in range(20):
            sequence = (FIRST + number) % 256
            answer = await ask(request(sequence, Command.STATUS))
            assert answer[:3] == bytes((sequence, Status.OK, 1))
            assert len(answer) == 2 + protocol.PROGRESS.bits // 8

    exchange(conversation)
