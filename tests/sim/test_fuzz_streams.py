"""Streamed images under fire: damaged programs, pages where they do not belong, a device that goes silent."""

import dataclasses
import random
import time
from collections import Counter

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.driver import Device
from kolmogate.errors import DeviceError, InputError
from kolmogate.isa import ErrorCode, Opcode, store_descriptor
from kolmogate.link import Link
from kolmogate.machine import Machine
from kolmogate.programs.p0 import Program
from kolmogate.protocol import ACCESS, PAGE_BYTES, Command, Entry, Status
from kolmogate.random_network import random_network
from kolmogate.rings import RING_BYTES, ring_addresses
from kolmogate.runtime import Opened, simulated_link
from kolmogate_sim.mutations import mutate

CONFIG = dataclasses.replace(configuration("up5k"), name="small", scratchpad_bytes=8 << 10)
LIMIT = 60_000
PATIENCE = 20
"""With so many times the limit a run comes to what the model says, waiting for pages included."""


@pytest.fixture(scope="module")
def seeds():
    """Small networks, their images, streamed through rings, and an input."""
    found = []
    for seed in range(1, 60):
        try:
            network = random_network(seed, length=3)
            image = compile(network, CONFIG, objective=("fastest", "smallest")[seed % 2], streamed=True)
        except InputError:
            continue
        if 300 < image.device_bytes < 2500:
            x = (
                np.random.default_rng(seed)
                .integers(-128, 128, (1, *image.input.tensor.shape))
                .astype(np.int8)
            )
            found.append((network, image, x, golden.run(network, x)))
    assert len(found) >= 5
    return found[:6]


@pytest.fixture(scope="module")
def link():
    with simulated_link(CONFIG) as link:
        yield link


def run_exactly(device, case):
    _, image, x, y = case
    assert (Opened(device).load(image)(x) == y).all()


def end_on(target, mutant, x, limit):
    """The code in which a mutant ends that is streamed by a sound host."""
    image = mutant.image
    # A first descriptor could keep something of an earlier one.
    target.write(0, store_descriptor({"opcode": Opcode.ARRAY}, CONFIG.columns))
    with pytest.raises(DeviceError):
        target.run(Entry(0, 0, 0), limit=40)
    target.write(0, bytes(CONFIG.scratchpad_bytes))
    target.write(image.sections["descriptors"].address, mutant.contents["descriptors"])
    target.write(image.input.address, image.pack_input(x[0]))
    program = Program(*(mutant.contents[name] for name in ("code", "coded", "literals")))
    entry = dataclasses.replace(image.entry, descriptors=mutant.entry.descriptors)
    try:
        target.run(entry, bound=image.written_end, limit=limit, program=program)
    except DeviceError as error:
        if error.code == ErrorCode.NONE:
            raise
        return ErrorCode(error.code)
    return ErrorCode.NONE


@pytest.mark.parametrize(
    "count", [pytest.param(40, id="some"), pytest.param(400, marks=pytest.mark.slow, id="all")]
)
def test_streamed_mutants_on_the_rtl(count, seeds, link, capsys):
    started, source, outcomes, disagreements = time.perf_counter(), random.Random(4), Counter(), []
    machine, device = Machine(CONFIG), Device(link)
    for number in range(count):
        case = source.choice(seeds)
        mutant = mutate(case[1], source)
        expected, code = (end_on(target, mutant, case[2], LIMIT) for target in (machine, device))
        if code == ErrorCode.TIMEOUT != expected:
            outcomes["with more time"] += 1
            code = end_on(device, mutant, case[2], PATIENCE * LIMIT)
        outcomes[code.name] += 1
        if code != expected:
            disagreements.append((number, expected.name, code.name))
        if number % 10 == 0:
            run_exactly(device, case)
    with capsys.disabled():
        print(f"\n{count} streamed mutants: {dict(outcomes)}, {time.perf_counter() - started:.1f} s")
    assert not disagreements


@pytest.mark.parametrize(
    "count", [pytest.param(12, id="some"), pytest.param(150, marks=pytest.mark.slow, id="all")]
)
def test_pages_where_they_do_not_belong(count, seeds, link, capsys):
    """A host that feeds any page at any time, whatever the readers say: each request is answered as the
    protocol says, the inference ends by itself, and the next one is exact."""
    source, ends, answers = random.Random(5), Counter(), Counter()
    device, rings = Device(link), ring_addresses(CONFIG)
    for _ in range(count):
        case = source.choice(seeds)
        image = case[1]
        run_exactly(device, case)
        device.start(image.entry, limit=LIMIT, streamed=True)
        for _ in range(source.randrange(1, 16)):
            page = (
                source.choice(list(rings.values())) + source.randrange(RING_BYTES // PAGE_BYTES) * PAGE_BYTES
            )
            address = source.choice((page, page, page + source.randrange(PAGE_BYTES), source.getrandbits(14)))
            size = source.choice((PAGE_BYTES, PAGE_BYTES, source.randrange(1, PAGE_BYTES)))
            access = ACCESS.pack(last=size - 1, address=address).to_bytes(ACCESS.bits // 8, "little")
            inside = address < CONFIG.scratchpad_bytes and address % PAGE_BYTES + size <= PAGE_BYTES
            status = device.attempt(
                Command.FEED, access + source.choice((bytes(size), source.randbytes(size)))
            )
            assert status == (Status.OK if inside else Status.BAD_ADDRESS)
            answers[Status(status).name] += 1
        try:
            device.wait(1)
            ends[ErrorCode.NONE.name] += 1
        except DeviceError as error:
            ends[ErrorCode(error.code).name] += 1
        assert device.status().cycles <= LIMIT + 1
        run_exactly(device, case)
    with capsys.disabled():
        print(f"\n{count} inferences fed at random: {dict(ends)}; pages {dict(answers)}")
    assert ends[ErrorCode.TIMEOUT.name]


class Silent(Link):
    """A link whose device is gone from the request on that comes after so many others, for a time."""

    def __init__(self, link):
        self._link, self.timeout, self.left = link, link.timeout, -1

    def write(self, data):
        if self.left > 0:
            self.left -= 1
        if self.left != 0:
            self._link.write(data)

    def read(self, timeout):
        return b"" if self.left == 0 else self._link.read(timeout)

    def now(self):
        return self._link.now()

    def close(self):
        pass


def test_a_device_that_vanishes_in_mid_stream(seeds, link):
    """The host gives up by name; when the device is back, the next inference is exact."""
    source = random.Random(6)
    silent = Silent(link)
    device = Device(silent)
    for _ in range(10):
        case = source.choice(seeds)
        image = case[1]
        run_exactly(device, case)
        silent.left = source.randrange(1, 6)
        with pytest.raises(DeviceError, match=r"did not answer (RUN|STATUS|FEED) in 5 tries"):
            device.run(image.entry, limit=LIMIT, program=image.program())
        silent.left = -1
        run_exactly(device, case)
