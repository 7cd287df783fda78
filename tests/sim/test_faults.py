"""The driver and the RTL link with a channel between them that damages what it carries."""

import dataclasses
import random
import re
import time
from collections import Counter

import pytest
from kolmogate import protocol
from kolmogate.config import configuration
from kolmogate.driver import Device
from kolmogate.errors import DeviceError
from kolmogate.protocol import Entry
from kolmogate_sim.device import SimulatedLink
from kolmogate_sim.faults import FaultyLink
from kolmogate_sim.memory_device import MemoryDevice

# Small, because the model of a memory is initialised word by word.
CONFIG = dataclasses.replace(configuration("up5k"), scratchpad_bytes=8 << 10)
SIZE = CONFIG.scratchpad_bytes
RATES = (1 / 2000, 1 / 500, 1 / 200)
ENTRY = Entry(descriptors=0, code=0, literals=0)
REASON = re.compile("did not answer [A-Z]+|busy with an inference|makes no progress")


class Counting(FaultyLink):
    """Counts the frames that are sent."""

    frames = 0

    def write(self, data):
        self.frames += 1
        super().write(data)


class Session:
    """Random transfers, each compared with a model of the memory."""

    def __init__(self, rate, seed):
        self.source = random.Random(f"{rate} {seed}")
        link = SimulatedLink(MemoryDevice(CONFIG), CONFIG.clock_hz)
        self.link = Counting(link, self.source, 0.0)
        # The longest answer begins 6,000 cycles after its request; the rest of a million would be waiting.
        self.link.timeout = 12_000 / CONFIG.clock_hz
        self.device = Device(self.link)
        self.device.write(0, bytes(SIZE))
        self.model = bytearray(SIZE)
        self.rate, self.transfers, self.failures = rate, 0, Counter()

    def transfer(self):
        """One transfer; it completes or fails by name, and is never wrong."""
        source = self.source
        kind = source.choice(("write", "write", "read", "read", "run"))
        size = source.choice((1, source.randrange(1, 40), source.randrange(1, 257)))
        address = source.randrange(SIZE - size)
        content = source.choice((source.randbytes(size), bytes(size), b"\xff" * size))
        limit = source.randrange(3000)
        self.transfers += 1
        self.link.rate = self.rate
        try:
            if kind == "write":
                self.device.write(address, content)
            elif kind == "read":
                assert self.device.read(address, size) == self.model[address : address + size]
            else:
                assert self.device.run(ENTRY, limit=limit) == limit
        except DeviceError as error:
            self.failures[REASON.search(str(error))[0]] += 1
            self.recover(address, content if kind == "write" else b"")
        else:
            if kind == "write":
                self.model[address : address + size] = content

    def recover(self, address, content):
        """Nothing but a reset is needed. A write that failed may have been carried out, page by page."""
        self.link.rate = 0.0
        self.device.reset()
        assert not self.device.status().busy
        found = self.device.read(address, len(content))
        old = self.model[address : address + len(content)]
        for place, byte in enumerate(found):
            assert byte in (old[place], content[place]), "a byte that nobody wrote"
        self.model[address : address + len(content)] = found

    def finish(self):
        self.link.rate = 0.0
        self.device.reset()
        assert self.device.read(0, SIZE) == self.model
        self.device.close()


def run(rate, frames, seed, capsys):
    started = time.perf_counter()
    session = Session(rate, seed)
    before = session.link.frames
    while session.link.frames - before < frames:
        session.transfer()
    sent, faults = session.link.frames - before, session.link.faults
    session.finish()
    with capsys.disabled():
        print(
            f"\n1 fault in {1 / rate:,.0f} bytes: {sent:,} frames for {session.transfers:,} transfers, "
            f"{session.failures.total()} of them failed {dict(session.failures)}, {faults.total():,} faults "
            f"{dict(sorted(faults.items()))}, no wrong byte, {time.perf_counter() - started:.1f} s"
        )
    assert set(faults) == set(FaultyLink.KINDS)
    assert session.failures.total() < 0.3 * session.transfers


@pytest.mark.parametrize("rate", RATES)
def test_ten_thousand_frames_through_a_faulty_link(rate, capsys):
    run(rate, 10_000, 1, capsys)


def test_a_clean_channel_is_a_clean_channel():
    session = Session(0.0, 1)
    before = session.link.frames
    session.device.write(0, bytes(SIZE))
    assert session.link.frames - before == SIZE // protocol.PAGE_BYTES
    session.finish()
