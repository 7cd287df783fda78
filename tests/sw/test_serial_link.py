"""The serial end of the link, and what users are told when a port is not what they hoped for."""

import errno
import os
import pty
import threading
import time
import tty
from types import SimpleNamespace

import pytest
import serial
from kolmogate import protocol, runtime, serial_link
from kolmogate.config import configuration
from kolmogate.driver import Device
from kolmogate.errors import DeviceError, UsageError
from kolmogate.protocol import Command, Status
from kolmogate.serial_link import SerialLink, usb_ports

CONFIG = configuration("up5k")


class Board:
    """What is at the other end of a pseudo-terminal: a memory that answers IDENTIFY, WRITE, READ, RESET."""

    def __init__(self, config=CONFIG, version=protocol.VERSION, babble=b"", silent=False):
        self.master, self.slave = pty.openpty()
        tty.setraw(self.slave)
        self.name = os.ttyname(self.slave)
        self.identity = protocol.identity(config) | {"version": version}
        self.memory = bytearray(config.scratchpad_bytes)
        self.babble, self.silent = babble, silent
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        frames = protocol.FrameReader()
        try:
            while received := os.read(self.master, 4096):
                for body in frames.feed(received):
                    if self.babble:
                        os.write(self.master, self.babble)
                    if not self.silent:
                        os.write(self.master, protocol.pack_frame(body[:1] + self.execute(body[1], body[2:])))
        except OSError:
            pass

    def execute(self, command, payload):
        if command == Command.IDENTIFY:
            return bytes((Status.OK,)) + pack(protocol.IDENTITY, self.identity)
        if command in (Command.WRITE, Command.READ):
            access = protocol.ACCESS.unpack(int.from_bytes(payload[:4], "little"))
            span = slice(access["address"], access["address"] + access["last"] + 1)
            if command == Command.READ:
                return bytes((Status.OK,)) + self.memory[span]
            self.memory[span] = payload[4:]
        return bytes((Status.OK,))


def pack(layout, fields):
    return layout.pack(**fields).to_bytes(layout.bits // 8, "little")


@pytest.fixture
def ports(monkeypatch):
    """``ports(name, ...)``: the serial ports there are, all on USB."""

    def there_are(*names):
        there = [SimpleNamespace(device=name, vid=0x0403) for name in names]
        # Ports of the mainboard are never looked at.
        there.append(SimpleNamespace(device="/dev/ttyS0", vid=None))
        monkeypatch.setattr(serial_link, "comports", lambda: there)

    return there_are


@pytest.mark.parametrize("baud", [115_200, 1_000_000, 3_000_000])
def test_memory_moves_through_a_port(baud):
    board = Board()
    with Device(SerialLink(board.name, baud)) as device:
        device.require(CONFIG)
        content = bytes(range(256)) * 8
        device.write(100, content)
        assert board.memory[100 : 100 + len(content)] == content
        assert device.read(100, len(content)) == content


def test_time_outs_allow_for_the_baud_rate():
    name = Board().name
    # Two of the longest frames, ten bits a byte.
    with SerialLink(name, 115_200) as slow:
        assert slow.timeout > 2 * 270 * 10 / 115_200 + 0.05
    with SerialLink(name, 3_000_000) as fast:
        assert fast.timeout < 0.15


def test_babbling_and_silent_boards():
    with Device(SerialLink(Board(babble=b"\0\5noise\0\1\0").name)) as device:
        device.write(0, b"all the same")
        assert device.read(0, 12) == b"all the same"
    before = time.monotonic()
    with pytest.raises(DeviceError, match=r"did not answer IDENTIFY in 5 tries: check that it is connected"):
        runtime.open(Board(silent=True).name)
    assert time.monotonic() - before < 3


def test_another_configuration_or_version():
    with (
        Device(SerialLink(Board(configuration("ecp5-25f")).name)) as device,
        pytest.raises(DeviceError, match="the image was compiled for up5k and the device has rows 4"),
    ):
        device.require(CONFIG)
    with pytest.raises(DeviceError, match="speaks protocol version 7 and this driver version"):
        runtime.open(Board(version=7).name)


def test_a_port_is_held_until_it_is_closed():
    name = Board().name
    device = runtime.open(name)
    with pytest.raises(DeviceError, match="in use by another program: close that first"):
        runtime.open(name)
    device.close()
    device.close()
    runtime.open(name).close()
    # A failed opening holds nothing either.
    name = Board(version=9).name
    for _ in range(2):
        with pytest.raises(DeviceError, match="protocol version 9"):
            runtime.open(name)


def test_unplugged_while_it_is_used(monkeypatch):
    board = Board()
    link = SerialLink(board.name)
    device = Device(link)

    def fail(*_):
        raise serial.SerialException("device reports readiness to read but returned no data")

    monkeypatch.setattr(link._port, "read", fail)
    with pytest.raises(DeviceError, match="was lost, as when a board is unplugged: plug it in"):
        device.read(0, 1)
    monkeypatch.setattr(link._port, "write", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "gone")))
    with pytest.raises(DeviceError, match="was lost"):
        device.read(0, 1)
    device.close()
    monkeypatch.undo()
    with pytest.raises(DeviceError, match="is closed: open the device again"):
        device.read(0, 1)


def test_a_port_that_takes_nothing(monkeypatch):
    link = SerialLink(Board().name)

    def stuck(_):
        raise serial.SerialTimeoutException("Write timeout")

    monkeypatch.setattr(link._port, "write", stuck)
    with pytest.raises(DeviceError, match="takes no data"):
        link.write(b"x")
    link.close()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (serial.SerialException(errno.EACCES, "denied"), r"dialout.*udev rule.*SUBSYSTEM==\"tty\""),
        (serial.SerialException(errno.EBUSY, "busy"), "in use by another program"),
        (
            serial.SerialException(errno.ENOENT, "none"),
            r"no port /dev/x \(the serial ports on USB are /dev/a\)",
        ),
        (serial.SerialException(errno.EIO, "odd"), "cannot be opened as a serial port: .*odd"),
    ],
)
def test_ports_that_cannot_be_opened(error, sentence, monkeypatch, ports):
    ports("/dev/a")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(serial, "Serial", fail)
    with pytest.raises(DeviceError, match=sentence):
        SerialLink("/dev/x")


def test_real_ports_that_cannot_be_opened(ports, tmp_path):
    ports()
    with pytest.raises(DeviceError, match=r"there is no port /dev/none \(no serial port is on USB\)"):
        SerialLink("/dev/none")
    (tmp_path / "file").write_text("no port")
    with pytest.raises(DeviceError, match="cannot be opened as a serial port"):
        SerialLink(str(tmp_path / "file"))
    for baud in (9600, 0, -1, 4_000_000):
        with pytest.raises(UsageError, match="from 115,200 to 3,000,000"):
            SerialLink("/dev/none", baud)


def test_discovery(ports):
    ports()
    with pytest.raises(DeviceError, match="no serial port is on USB: plug the board in"):
        runtime.open("auto")
    silent, one, two = Board(silent=True), Board(), Board()
    ports(silent.name, one.name)
    assert usb_ports() == sorted((silent.name, one.name))
    with runtime.open("auto") as opened:
        assert opened._target.identity == protocol.identity(CONFIG)
    ports(one.name, two.name)
    with pytest.raises(UsageError, match=f"devices answer at {one.name} and {two.name}: name the one to use"):
        runtime.open("auto")
    ports(silent.name)
    with pytest.raises(
        DeviceError, match=f"no device answers at 1,000,000 baud \\({silent.name}: the device"
    ):
        runtime.open("auto")
