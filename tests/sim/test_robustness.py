"""The whole device on the RTL under hosts that break off, and under inferences that do not end."""

import dataclasses
import random

import numpy as np
import pytest
from kolmogate import golden, protocol
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.cycles import cycles
from kolmogate.driver import Device
from kolmogate.errors import DeviceError, InputError
from kolmogate.isa import DESCRIPTOR, P0, SHIFTS, ErrorCode, Opcode, store_constants
from kolmogate.network import Conv2D, DepthwiseConv2D
from kolmogate.programs.p0 import Instruction, records, zero
from kolmogate.protocol import Command, Entry
from kolmogate.random_network import random_network
from kolmogate.runtime import Opened, simulated_link

CONFIG = dataclasses.replace(configuration("up5k"), name="small", scratchpad_bytes=8 << 10)
FOREVER = (1 << 32) - 1


@pytest.fixture(scope="module")
def link():
    with simulated_link(CONFIG) as link:
        yield link


@pytest.fixture(scope="module")
def case():
    """A network, its image, an input and its output."""
    for seed in range(100):
        network = random_network(seed, (Conv2D, DepthwiseConv2D), 3)
        try:
            image = compile(network, CONFIG)
        except InputError:
            continue
        if 2500 < sum(layer.total for layer in cycles(image)) < 6000:
            break
    x = np.random.default_rng(1).integers(-128, 128, network.tensors["input"].shape).astype(np.int8)
    return network, image, x, golden.run(network, x[np.newaxis])[0]


def run_exactly(device, case):
    _, image, x, y = case
    assert (Opened(device).load(image)(x[np.newaxis])[0] == y).all()


def start(device, image, limit=FOREVER):
    device.start(image.entry, limit=limit)


def test_reset_at_any_cycle(link, case):
    source, device = random.Random(1), Device(link)
    run_exactly(device, case)
    for _ in range(40):
        start(device, case[1])
        link.read(source.randrange(4000) / CONFIG.clock_hz)
        device.reset()
        assert not device.status().busy
        run_exactly(device, case)


def test_a_host_that_vanishes_in_mid_frame(link, case):
    source, device = random.Random(2), Device(link)
    run_exactly(device, case)
    for _ in range(40):
        start(device, case[1])
        access = protocol.ACCESS.pack(last=255, address=0).to_bytes(4, "little")
        frame = protocol.pack_frame(bytes((source.randrange(256), Command.WRITE)) + access + bytes(256))
        link.write(frame[: source.randrange(len(frame))])
        link.read(source.randrange(100) * 1e-6)
        device = Device(link)
        run_exactly(device, case)


def test_the_cycle_limit_ends_any_inference(link, case):
    device = Device(link)
    run_exactly(device, case)
    for limit in (0, 1, 2, 10, 100, 500, 2000):
        start(device, case[1], limit)
        with pytest.raises(DeviceError, match="TIMEOUT: raise the cycle limit") as caught:
            device.wait(1)
        assert caught.value.code == ErrorCode.TIMEOUT
        assert device.status().cycles <= limit + 1
        run_exactly(device, case)


def test_memory_answers_while_an_inference_keeps_it_busy(link, case):
    """A depthwise window without end takes a word for each row in every cycle that the memory has."""
    device = Device(link)
    size = DESCRIPTOR.size(CONFIG.columns)
    endless = DESCRIPTOR.pack(
        opcode=Opcode.ARRAY,
        word_mode=1,
        unit_weights=1,
        x_count=4095,
        y_count=4095,
        outer_count=1023,
        inner_count=1023,
        run=CONFIG.columns,
        channels=CONFIG.columns,
    )
    rows = records(8), zero(1), Instruction(P0.END)
    program = b"".join(one.encode().to_bytes(2, "little") for one in rows)
    device.write(0x1000, store_constants(0, 1 << 30, SHIFTS[0]).to_bytes(8, "little") * CONFIG.columns)
    device.write(0x1800, program)
    device.write(0x800, endless.to_bytes(size, "little"))
    device.start(Entry(descriptors=0x800, code=0x1800, literals=0x1000), limit=FOREVER)
    content = random.Random(3).randbytes(700)
    before = link.cycles
    device.write(0x1100, content)
    assert device.read(0x1100, len(content)) == content
    # Little more than on an idle device, which takes 10 cycles a byte written and 22 a byte read.
    assert link.cycles - before < 40 * len(content)
    assert device.status().busy
    device.reset()
    run_exactly(device, case)
