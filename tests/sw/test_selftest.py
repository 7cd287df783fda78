"""The self-test on the machine model behind the protocol, whole and with one thing broken at a time."""

import functools
import json
import re

import pytest
from kolmogate import protocol, selftest
from kolmogate.cli import main
from kolmogate.config import configuration
from kolmogate.driver import Device
from kolmogate.errors import DeviceError
from kolmogate.isa import UNIT
from kolmogate.link import Link
from kolmogate.machine import Machine
from kolmogate.protocol import Command, Status
from kolmogate.runtime import Opened

CONFIG = configuration("ecp5-25f")
NAMES = ["identify", "memory", "network", "refusals", "errors", "link"]
WEIGHTLESS_LIMIT = 1 << 20


class MachineDevice(Link):
    """The machine model as a device: an inference is over at once, unless it never ends."""

    timeout = 0.1

    def __init__(self):
        self.machine = Machine(CONFIG)
        self.identity = protocol.identity(CONFIG)
        self.frames, self.arrived, self.clock = protocol.FrameReader(), b"", 0.0
        self.busy, self.error = False, 0

    def write(self, data):
        for body in self.frames.feed(data):
            status, answer = self.execute(body[1], body[2:])
            self.arrived += protocol.pack_frame(bytes((body[0], status)) + answer)

    def read(self, timeout):
        arrived, self.arrived = self.arrived, b""
        self.clock += 1e-3 if arrived else timeout
        return arrived

    def now(self):
        return self.clock

    def close(self):
        pass

    def execute(self, command, payload):
        word = int.from_bytes(payload, "little")
        if command not in list(Command):
            return Status.BAD_COMMAND, b""
        if command in (Command.READ, Command.WRITE):
            access = protocol.ACCESS.unpack(word & (1 << protocol.ACCESS.bits) - 1)
            start, count = access["address"], access["last"] + 1
            content = payload[protocol.ACCESS.bits // 8 :]
            if len(payload) < 4 or len(content) != (count if command == Command.WRITE else 0):
                return Status.BAD_LENGTH, b""
            if start + count > CONFIG.scratchpad_bytes or start % 256 + count > 256:
                return Status.BAD_ADDRESS, b""
            if command == Command.READ:
                return Status.OK, self.machine.read(start, count)
            self.machine.write(start, content)
        elif command == Command.IDENTIFY:
            return Status.OK, pack(protocol.IDENTITY, self.identity)
        elif command == Command.RUN:
            if self.busy:
                return Status.BUSY, b""
            self.run(protocol.RUN.unpack(word))
        elif command == Command.STATUS:
            return Status.OK, pack(protocol.PROGRESS, {"busy": self.busy, "error": self.error, "cycles": 1})
        elif command == Command.RESET:
            self.busy = False
        return Status.OK, b""

    def run(self, fields):
        self.error = 0
        entry = protocol.Entry(*(UNIT * fields[name] for name in ("descriptors", "code", "literals")))
        bound = protocol.PAGE_BYTES * (fields["last_page"] + 1)
        try:
            self.machine.run(entry, bound=bound, limit=min(fields["limit"], WEIGHTLESS_LIMIT))
        except DeviceError as error:
            self.busy = fields["limit"] > WEIGHTLESS_LIMIT and error.code == selftest.ErrorCode.TIMEOUT
            self.error = 0 if self.busy else error.code


def pack(layout, fields):
    return layout.pack(**fields).to_bytes(layout.bits // 8, "little")


class StuckBit(MachineDevice):
    """Bit 3 of byte 0xc234, which the shipped network does not use, is always 1."""

    def execute(self, command, payload):
        self.machine.memory[0xC234] |= 8
        return super().execute(command, payload)


class NeighboursWritten(MachineDevice):
    """Its memory writes whole words."""

    def execute(self, command, payload):
        result = super().execute(command, payload)
        if command == Command.WRITE and len(payload) == 5 and result[0] == Status.OK:
            self.machine.memory[int.from_bytes(payload[1:4], "little") ^ 1] = 0
        return result


class WrongProducts(MachineDevice):
    """An output is one too large."""

    def run(self, fields):
        super().run(fields)
        self.machine.memory[self.output] += 1


class Careless(MachineDevice):
    """Answers wrong requests as if they were right."""

    def execute(self, command, payload):
        return Status.OK, super().execute(command, payload)[1]


class NeverFails(MachineDevice):
    def run(self, fields):
        super().run(fields)
        self.error = 0


class Slow(MachineDevice):
    def read(self, timeout):
        self.clock += 0.08
        return super().read(timeout)


class Dies(MachineDevice):
    """In the middle of the first inference."""

    def write(self, data):
        if not self.error:
            super().write(data)

    def run(self, fields):
        self.error = 1


class Foreign(MachineDevice):
    def __init__(self):
        super().__init__()
        self.identity["columns"] = 24


@pytest.fixture(autouse=True)
def compile_once(monkeypatch):
    monkeypatch.setattr(selftest, "_network", NETWORK)


NETWORK = functools.cache(selftest._network)


def outcomes(link):
    return list(selftest.selftest(Device(link)))


def test_a_sound_device():
    results = outcomes(MachineDevice())
    assert [one.test for one in results] == NAMES
    assert all(one.passed and not one.advice for one in results), results
    assert results[0].detail == "ecp5-25f: 4 x 8 MACs, 96 KB, protocol " + str(protocol.VERSION)


@pytest.mark.parametrize(
    ("link", "failed", "detail"),
    [
        (StuckBit, {"memory"}, r"1 of 98,304 bytes differ, the first at 0xc234: 0x.[89a-f], written was"),
        (NeighboursWritten, {"memory"}, r"of \d+ bytes differ, the first at 0x"),
        (WrongProducts, {"network", "errors"}, "10 of 10 digits have other outputs than the golden model"),
        (Careless, {"refusals", "errors"}, "an unknown command was answered with OK instead of BAD_COMMAND"),
        (NeverFails, {"errors"}, "a damaged image ended well instead of with BAD_DESCRIPTOR"),
        (Slow, {"link"}, "after 100 ms an answer is taken for lost"),
    ],
)
def test_a_failing_device(link, failed, detail):
    """Only the tests that look at what is broken fail, and say what they saw and what to try."""
    broken = link()
    broken.output = NETWORK(CONFIG).image.output.address
    results = outcomes(broken)
    assert [one.test for one in results] == NAMES
    assert {one.test for one in results if not one.passed} == failed
    first = next(one for one in results if not one.passed)
    assert re.search(detail, first.detail), first
    assert first.advice


def test_a_device_that_ceases_to_answer():
    """It is not waited for any more than needed to see that."""
    results = outcomes(Dies())
    assert [(one.test, one.passed) for one in results] == [
        ("identify", True),
        ("memory", True),
        ("network", False),
    ]
    assert "did not answer" in results[-1].detail


def test_a_device_of_no_known_configuration():
    results = outcomes(Foreign())
    assert [(one.test, one.passed) for one in results] == [("identify", False)]
    assert "4 x 24 MACs" in results[0].detail
    assert "kolmogate flash" in results[0].advice


@pytest.mark.parametrize("link", [MachineDevice, StuckBit])
def test_command_line(link, monkeypatch, capsys):
    """A line a test, and a second one with advice where it failed; or the same as JSON; exit codes."""
    monkeypatch.setattr("kolmogate.cli.open_device", lambda *_, **__: Opened(Device(link())))
    sound = link is MachineDevice
    assert main(["selftest", "/dev/ttyUSB0"]) == (0 if sound else 4)
    text = capsys.readouterr()
    assert re.findall(r"^(?:ok|FAILED) +(\w+)", text.out, re.MULTILINE) == NAMES
    assert len(text.out.splitlines()) == len(NAMES) + (not sound)
    assert (
        text.err == ""
        if sound
        else text.err.startswith("kolmogate: the device failed the self-test in memory")
    )
    assert main(["selftest", "/dev/ttyUSB0", "--json"]) == (0 if sound else 4)
    results = json.loads(capsys.readouterr().out)
    assert [one["test"] for one in results] == NAMES
    assert [one["passed"] for one in results] == [True, sound, True, True, True, True]


def test_wrong_ports(capsys):
    for port, message in (("machine", "the machine model is no device"), ("golden", "cannot test 'golden'")):
        assert main(["selftest", port]) == 2
        assert message in capsys.readouterr().err
    assert main(["selftest", "/dev/nothing"]) == 4
    assert capsys.readouterr().err.startswith("kolmogate: ")
