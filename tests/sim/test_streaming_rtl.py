"""Streamed networks on the RTL: exact, whatever becomes of the link, and as fast as the link."""

import dataclasses
import random

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.bench import ANCHORS
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.cycles import cycles
from kolmogate.driver import Device
from kolmogate.errors import DeviceError
from kolmogate.isa import ErrorCode
from kolmogate.machine import Machine
from kolmogate.random_network import random_network
from kolmogate.rings import RING_BYTES, RINGS
from kolmogate.runtime import Opened, simulated_link
from kolmogate_sim.faults import FaultyLink

CONFIG = dataclasses.replace(configuration("up5k"), name="small", scratchpad_bytes=8 << 10)
FOREVER = (1 << 32) - 1
# The three rings are within 4 KB.
assert len(RINGS) * RING_BYTES <= 4 << 10


def random_inputs(image, count):
    return np.random.default_rng(0).integers(-128, 128, (count, *image.input.tensor.shape)).astype(np.int8)


@pytest.mark.parametrize("objective", ["fastest", "smallest"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "kws_ref_model" else pytest.mark.slow) for name in ANCHORS],
)
def test_networks_are_exact_through_rings(name, objective, models_folder, capsys):
    network = kolmogate.load_tflite(models_folder / f"{name}.tflite")
    image = compile(network, configuration("up5k"), objective=objective, streamed=True)
    x = random_inputs(image, 1)
    with kolmogate.open("rtl", image.config) as device:
        loaded = device.load(image)
        y = loaded(x)
    assert (y == golden.run(network, x)).all()
    predicted = sum(layer.total for layer in cycles(image))
    with capsys.disabled():
        print(
            f"\n{name}, {objective}: {image.device_bytes:,} bytes streamed,"
            f" {loaded.cycles[0]:,} cycles, {predicted:,} of them without waiting"
        )
    assert predicted <= loaded.cycles[0]


@pytest.mark.slow
def test_what_exceeds_the_scratchpad_is_streamed(models_folder):
    """AD's programs are larger than the 128 KB of an UP5K, however they are coded."""
    network = kolmogate.load_tflite(models_folder / "ad01_int8.tflite")
    image = compile(network, configuration("up5k"))
    assert image.streamed
    assert image.device_bytes > image.config.scratchpad_bytes
    x = random_inputs(image, 1)
    with kolmogate.open("rtl", image.config) as device:
        y = device.load(image)(x)
    assert (y == golden.run(network, x)).all()


@pytest.fixture(scope="module")
def link():
    with simulated_link(CONFIG) as link:
        yield link


@pytest.fixture(scope="module")
def case():
    """A network whose streamed image goes round its rings, an input and its output."""
    for seed in range(200):
        network = random_network(seed, length=3)
        try:
            image = compile(network, CONFIG, objective="fastest", streamed=True)
        except kolmogate.errors.InputError:
            continue
        if len(image.sections["literals"].data) > 2 * RING_BYTES:
            break
    x = random_inputs(image, 1)
    return image, x, golden.run(network, x)


def run_exactly(device, case):
    image, x, y = case
    assert (Opened(device).load(image)(x) == y).all()


class Vanishing(Exception):
    """The host is gone."""


class Host(FaultyLink):
    """A link whose host does something after so many more requests."""

    def __init__(self, link, source, rate=0.0):
        super().__init__(link, source, rate)
        self.timeout = link.timeout
        self.left, self.then = -1, None

    def write(self, data):
        if self.left == 0:
            self.left = -1
            raise self.then
        self.left -= 1
        super().write(data)


def test_a_host_that_vanishes_in_mid_stream(link, case):
    """The cycle limit ends the inference, and the next host finds a device that works."""
    source = random.Random(1)
    image = case[0]
    for _ in range(12):
        host = Host(link, source)
        device = Device(host)
        run_exactly(device, case)
        host.left, host.then = source.randrange(1, 12), Vanishing()
        # A host that vanishes does not even reset.
        device.reset = lambda: None
        with pytest.raises(Vanishing):
            device.run(image.entry, limit=60_000, program=image.program())
        link.read(100_000 / CONFIG.clock_hz)
        # Read without opening it anew.
        del device.reset
        progress = device.status()
        assert (progress.busy, progress.error) == (False, ErrorCode.TIMEOUT)
        run_exactly(device, case)


def test_an_interrupt_in_mid_stream(link, case):
    """Ctrl-C at any request leaves the device usable."""
    source = random.Random(2)
    host = Host(link, source)
    device = Device(host)
    image = case[0]
    for count in range(1, 12):
        run_exactly(device, case)
        host.left, host.then = count, KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            device.run(image.entry, limit=FOREVER, program=image.program())
        assert not device.status().busy


@pytest.mark.parametrize("rate", [1 / 2000, 1 / 500, 1 / 200])
def test_streams_through_a_faulty_link(rate, link, case, capsys):
    """Exact, or given up by name, as most are at 1 in 200, which spoils three pages of four."""
    source = random.Random(f"stream {rate}")
    host = Host(link, source)
    host.timeout = 12_000 / CONFIG.clock_hz
    done, failed = 0, 0
    device = Device(host)
    for _ in range(10):
        host.rate = rate
        try:
            run_exactly(device, case)
            done += 1
        except DeviceError:
            failed += 1
        host.rate = 0.0
        run_exactly(device, case)
    with capsys.disabled():
        print(f"\n1 fault in {1 / rate:,.0f} bytes: {done} streamed inferences exact, {failed} given up")
    assert done > failed or rate == 1 / 200
    assert host.faults.total() > 10


def test_a_stream_cut_short_ends_in_a_timeout(link, case):
    """On the RTL as on the machine model."""
    image, x, _ = case
    program = image.program()
    cut = dataclasses.replace(program, literals=program.literals[: -2 * RING_BYTES])
    for device in (Device(link), Machine(CONFIG)):
        device.write(image.sections["descriptors"].address, image.sections["descriptors"].data)
        device.write(image.input.address, image.pack_input(x[0]))
        with pytest.raises(DeviceError) as caught:
            device.run(image.entry, limit=200_000, program=cut)
        assert caught.value.code == ErrorCode.TIMEOUT
    run_exactly(Device(link), case)
