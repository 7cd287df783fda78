"""The driver against a model device, over a link that loses and damages frames."""

import math
import random
from dataclasses import asdict

import pytest
from kolmogate import protocol
from kolmogate.config import configuration
from kolmogate.driver import Device, Progress
from kolmogate.errors import DeviceError, UsageError
from kolmogate.isa import UNIT, ErrorCode
from kolmogate.link import Link
from kolmogate.machine import Machine
from kolmogate.protocol import Command, Entry, Status

CONFIG = configuration("up5k")
SIZE = CONFIG.scratchpad_bytes
ENTRY = Entry(descriptors=0x100, code=0x2000, literals=0x1FFF0)
LIMIT = 1_000_000


class ModelDevice(Link):
    """A device in Python behind a channel whose faults a subclass defines.

    ``clock`` counts the seconds spent waiting; an inference takes ``duration`` of them.
    """

    timeout = 0.1

    def __init__(self, config=CONFIG, duration=1e-3, error=0):
        self.identity = protocol.identity(config)
        self.memory = bytearray(config.scratchpad_bytes)
        self.duration, self.error = duration, error
        self.clock, self.ends = 0.0, 0.0
        self.runs, self.executed, self.previous, self.started = [], [], 0, False
        self.frames, self.arrived, self.closed = protocol.FrameReader(), b"", False

    def to_device(self, data):
        return data

    def to_host(self, data):
        return data

    def write(self, data):
        for body in self.frames.feed(self.to_device(data)):
            if body[1] != Command.IDENTIFY and (body[0] - self.previous) % 256 > 1:
                continue
            status, answer = self.execute(body[0], body[1], body[2:])
            self.arrived += self.to_host(protocol.pack_frame(bytes((body[0], status)) + answer))

    def read(self, timeout):
        arrived, self.arrived = self.arrived, b""
        if not arrived:
            self.clock += timeout
        return arrived

    def close(self):
        self.closed = True

    def execute(self, sequence, command, payload):
        self.executed.append(command)
        repeated = self.started and sequence == self.previous and command == Command.RUN
        self.previous, self.started = sequence, repeated
        word = int.from_bytes(payload, "little")
        busy = self.clock < self.ends
        if command == Command.IDENTIFY:
            return Status.OK, pack(protocol.IDENTITY, self.identity)
        if command in (Command.WRITE, Command.READ):
            access = protocol.ACCESS.unpack(word & (1 << 32) - 1)
            start, stop = access["address"], access["address"] + access["last"] + 1
            assert stop <= SIZE
            assert start // 256 == (stop - 1) // 256
            if command == Command.READ:
                return Status.OK, bytes(self.memory[start:stop])
            assert len(payload) == 4 + stop - start
            self.memory[start:stop] = payload[4:]
        elif command == Command.RUN and not repeated:
            if busy:
                return Status.BUSY, b""
            self.started = True
            self.runs.append(protocol.RUN.unpack(word))
            self.ends = self.clock + self.duration
        elif command == Command.STATUS:
            progress = {"busy": busy, "error": self.error, "cycles": round(1e6 * min(self.duration, 1.0))}
            return Status.OK, pack(protocol.PROGRESS, progress)
        elif command == Command.RESET:
            self.ends = self.clock
        return Status.OK, b""


def pack(layout, fields):
    return layout.pack(**fields).to_bytes(layout.bits // 8, "little")


class Unreliable(ModelDevice):
    """Loses, damages, repeats and delays what it carries, both ways, but not so often as to be given up."""

    def __init__(self, seed, **options):
        super().__init__(**options)
        self.source, self.faults, self.losses = random.Random(seed), 0, 0
        self.sent, self.answered = [], []

    def to_device(self, data):
        return self.disturb(data, self.sent)

    def to_host(self, data):
        return self.disturb(data, self.answered)

    def read(self, timeout):
        arrived = super().read(timeout)
        if any(body[0] == self.previous for body in protocol.FrameReader().feed(arrived)):
            self.losses = 0
        return arrived

    def disturb(self, data, past):
        kinds = ["none", "none", "twice", "noise", "replay"]
        if self.losses < 4:
            kinds += ["flip", "lose", "cut", "late"]
        kind = self.source.choice(kinds)
        self.losses += kind in ("flip", "lose", "cut", "late")
        self.faults += kind != "none"
        # All old frames may come again but one that opens a connection.
        if data[:1] != b"\0" or protocol.unpack_frame(data[1:-1])[1] != Command.IDENTIFY:
            past.append(data)
        old = self.source.choice(past[-100:] or [b""])
        place = self.source.randrange(len(data))
        if kind == "flip":
            return data[:place] + bytes((data[place] ^ 1 << self.source.randrange(8),)) + data[place + 1 :]
        if kind == "cut":
            return data[:place] + data[place + self.source.randrange(1, 9) :]
        if kind == "twice":
            return data + data
        if kind == "noise":
            return self.source.randbytes(8) + b"\0" + data
        if kind == "replay":
            return self.source.choice((old + data, data + old))
        if kind in ("lose", "late"):
            # What is late comes with a later replay.
            return b""
        return data


def test_identity_and_requirements():
    link = ModelDevice()
    device = Device(link)
    assert device.identity == protocol.identity(CONFIG)
    device.require(CONFIG)
    with pytest.raises(DeviceError, match=r"ecp5-45f.* columns 8 instead of 16.*compile it for this device"):
        device.require(configuration("ecp5-45f"))
    with device:
        pass
    assert link.closed


@pytest.mark.parametrize("answer", ["version", "short", "empty"])
def test_another_protocol_version_is_refused(answer):
    class Other(ModelDevice):
        def execute(self, sequence, command, payload):
            newer = pack(protocol.IDENTITY, self.identity | {"version": protocol.VERSION + 1})
            return Status.OK, {"version": newer, "short": newer[:3], "empty": b""}[answer]

    with pytest.raises(DeviceError, match=r"protocol version .* program the device"):
        Device(Other())


def test_memory_is_moved_in_pages():
    source = random.Random(1)
    link = ModelDevice()
    device = Device(link)
    model = bytearray(SIZE)
    for address, size in [(0, 1), (255, 2), (256, 256), (1, 1000), (SIZE - 1, 1), (7, 0), (0, SIZE)]:
        content = source.randbytes(size)
        model[address : address + size] = content
        device.write(address, content)
        assert link.memory == model
        assert device.read(address, size) == content


@pytest.mark.parametrize(("address", "count"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (5, -1)])
def test_addresses_beyond_the_scratchpad_are_refused(address, count):
    device = Device(ModelDevice())
    with pytest.raises(UsageError, match=f"scratchpad of {SIZE} bytes"):
        device.read(address, count)
    if count > 0:
        with pytest.raises(UsageError, match=f"scratchpad of {SIZE} bytes"):
            device.write(address, bytes(count))


def test_run_says_where_layers_may_write():
    link = ModelDevice()
    Device(link).run(ENTRY, limit=LIMIT, bound=0x700)
    assert link.runs[-1]["last_page"] == 6


@pytest.mark.parametrize("bound", [0, 100, SIZE + 256])
def test_layers_write_up_to_the_end_of_a_page(bound):
    link = ModelDevice()
    for target in (Device(link), Machine(CONFIG)):
        with pytest.raises(UsageError, match=f"up to the end of a page .*, not up to {bound}$"):
            target.run(ENTRY, limit=LIMIT, bound=bound)
    assert not link.runs


@pytest.mark.parametrize("duration", [0, 1e-5, 1e-3, 0.5])
def test_run_returns_its_cycles(duration):
    link = ModelDevice(duration=duration)
    device = Device(link)
    assert device.run(ENTRY, limit=LIMIT) == int(duration * 1e6)
    addresses = {name: address // UNIT for name, address in asdict(ENTRY).items()}
    assert link.runs == [{**addresses, "limit": LIMIT, "last_page": SIZE // 256 - 1, "streamed": 0}]
    assert link.ends <= link.clock <= link.ends * 1.05 + 1e-4
    assert link.executed.count(Command.STATUS) < 300
    assert device.status() == Progress(False, 0, int(duration * 1e6))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ErrorCode.BAD_DESCRIPTOR, "stopped after 1000 cycles with BAD_DESCRIPTOR: .*load it again"),
        (ErrorCode.BAD_PROGRAM, "BAD_PROGRAM: .*load it again"),
        (ErrorCode.TIMEOUT, "TIMEOUT: raise the cycle limit"),
        (13, "error 13: reset it"),
    ],
)
def test_errors_of_an_inference(error, sentence):
    with pytest.raises(DeviceError, match=sentence):
        Device(ModelDevice(error=error)).run(ENTRY, limit=LIMIT)


def test_busy_device():
    link = ModelDevice(duration=math.inf)
    device = Device(link)
    device.start(ENTRY, limit=LIMIT)
    with pytest.raises(DeviceError, match="busy with an inference"):
        device.start(ENTRY, limit=LIMIT)
    with pytest.raises(DeviceError, match=r"no progress, still busy after 0\.25\d s: reset it"):
        device.wait(0.25)
    device.reset()
    assert not device.status().busy


@pytest.mark.parametrize("status", [*list(Status)[1:4], 99])
def test_refusals_are_told(status):
    link = ModelDevice()
    device = Device(link)
    link.execute = lambda *_: (status, b"")
    name = f"status {status}" if status == 99 else status.name
    with pytest.raises(DeviceError, match=f"refused RESET with {name}"):
        device.reset()


@pytest.mark.parametrize("call", [lambda device: device.read(0, 4), Device.status])
def test_answers_of_a_wrong_length_are_refused(call):
    link = ModelDevice()
    device = Device(link)
    link.execute = lambda *_: (Status.OK, b"abc")
    with pytest.raises(DeviceError, match="wrong length"):
        call(device)


@pytest.mark.parametrize("sent", [b"", b"\0", b"\1", b"\x55noise without end", bytes(100)])
def test_a_silent_or_babbling_device_is_given_up(sent):
    class Babble(ModelDevice):
        writes = 0

        def write(self, data):
            self.writes += 1

        def read(self, timeout):
            return sent

    link = Babble()
    with pytest.raises(DeviceError, match="did not answer IDENTIFY in 5 tries"):
        Device(link)
    assert link.writes == 5


@pytest.mark.parametrize("seed", range(20))
def test_faults_cost_time_never_correctness(seed):
    source = random.Random(seed)
    link = Unreliable(seed, duration=1e-3)
    device = Device(link)
    model = bytearray(SIZE)
    for runs in range(20):
        size = source.randrange(600)
        address = source.randrange(SIZE - size)
        content = source.randbytes(size)
        model[address : address + size] = content
        device.write(address, content)
        assert device.read(address, size) == content
        assert link.memory == model
        assert device.run(ENTRY, limit=LIMIT) == 1000
        assert len(link.runs) == runs + 1
    assert link.faults > 50


def test_an_inference_that_goes_on_is_waited_for():
    """The device's own limit bounds it, however slow its clock."""

    class Slow(ModelDevice):
        def execute(self, sequence, command, payload):
            status, answer = super().execute(sequence, command, payload)
            if command == Command.STATUS:
                progress = protocol.PROGRESS.unpack(int.from_bytes(answer, "little"))
                answer = pack(protocol.PROGRESS, progress | {"cycles": int(10 * self.clock)})
            return status, answer

    link = Slow(duration=100.0)
    assert Device(link).run(ENTRY, limit=LIMIT) == pytest.approx(1000, rel=0.05)


def test_opening_ends_what_runs():
    link = ModelDevice(duration=math.inf)
    Device(link).start(ENTRY, limit=LIMIT)
    assert not Device(link).status().busy


@pytest.mark.parametrize("moment", range(30))
@pytest.mark.parametrize("kind", [KeyboardInterrupt, DeviceError])
def test_an_interrupt_at_any_moment_leaves_a_device_that_answers(moment, kind):
    """At every use of the link, before it took effect and after."""

    class Interrupted(ModelDevice):
        left = math.inf

        def count(self):
            self.left -= 1
            if self.left == 0:
                raise kind("now")

        def write(self, data):
            self.count()
            super().write(data)
            self.count()

        def read(self, timeout):
            self.count()
            return super().read(timeout)

    link = Interrupted(duration=1e-4)
    device = Device(link)
    link.left = moment + 1
    try:
        device.write(10, b"content")
        device.run(ENTRY, limit=LIMIT)
        device.read(10, 7)
    except kind:
        pass
    link.left = math.inf
    # An interrupt that comes while an inference is ended goes through, and the next user ends it.
    runs, device = len(link.runs), (device if link.clock >= link.ends else Device(link))
    device.write(10, b"another")
    assert device.run(ENTRY, limit=LIMIT) == 100
    assert device.read(10, 7) == b"another"
    assert len(link.runs) == runs + 1


def test_a_device_that_fell_silent_is_found_again():
    class Plugged(ModelDevice):
        there = True

        def to_device(self, data):
            return data if self.there else b""

    link = Plugged()
    device = Device(link)
    link.there = False
    for _ in range(3):
        with pytest.raises(DeviceError, match="did not answer"):
            device.write(0, b"lost")
    link.there = True
    device.write(0, b"found")
    assert device.read(0, 5) == b"found"


def test_frames_are_found_in_any_chunks():
    source = random.Random(1)
    bodies = [source.randbytes(source.randrange(1, 300)) for _ in range(50)]
    sent = b"\0noise\0\0".join(protocol.pack_frame(body) for body in bodies)
    reader, found = protocol.FrameReader(), []
    while sent:
        size = source.randrange(1, 100)
        found += reader.feed(sent[:size])
        sent = sent[size:]
    assert found == bodies


def test_noise_without_end_is_not_kept():
    reader = protocol.FrameReader()
    for _ in range(100):
        assert list(reader.feed(b"\x05" * 1000)) == []
    assert list(reader.feed(b"\0" + protocol.pack_frame(b"after"))) == [b"after"]
    assert len(reader._partial) == 0
