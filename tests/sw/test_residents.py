"""Several networks in a device's memory at once: beside each other where they fit, else in turn."""

import dataclasses
from itertools import combinations

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.config import configuration
from kolmogate.machine import Machine
from kolmogate.runtime import Opened, _span


class Counting(Machine):
    """Counts what is written to it, inputs included."""

    written = 0

    def write(self, address, content):
        self.written += len(content)
        super().write(address, content)


@pytest.fixture
def networks(chain):
    return [chain(6, 6, 3).conv(20, padding=(1, 1, 1, 1)).dense(count).network() for count in (3, 5, 9)]


def opened(config, networks, inputs, **options):
    machine = Counting(config)
    device = Opened(machine)
    images = [kolmogate.compile(network, config, **options) for network in networks]
    loaded = [device.load(image) for image in images]
    return machine, device, loaded, [inputs(network, 2) for network in networks]


def run_all(machine, loaded, networks, xs):
    """Each network once, exactly; the bytes that were written beside the inputs."""
    before = machine.written
    for one, network, x in zip(loaded, networks, xs, strict=True):
        assert (one(x) == golden.run(network, x)).all()
    inputs = sum(2 * one.image.input.layout.size for one in loaded)
    return machine.written - before - inputs


def test_what_fits_is_resident_at_once(networks, inputs):
    machine, _, loaded, xs = opened(configuration("up5k"), networks, inputs)
    spans = [tuple(place - one.moved for place in _span(one.image)) for one in loaded]
    for (low, high), (other_low, other_high) in combinations(spans, 2):
        assert high <= other_low or other_high <= low
    lowest = min(low for low, _ in spans)
    assert all(one.image.written_end <= lowest for one in loaded)
    assert [run_all(machine, loaded, networks, xs) for _ in range(2)] == [0, 0]


def test_what_does_not_fit_takes_turns(networks, inputs):
    config = configuration("up5k")
    image = kolmogate.compile(networks[2], config, objective="fastest")
    size = -(-(image.written_end + 3 * image.device_bytes // 2) // 256) * 256
    small = dataclasses.replace(config, name="small", scratchpad_bytes=size)
    machine, _, loaded, xs = opened(small, networks, inputs, objective="fastest")
    for _ in range(2):
        assert run_all(machine, loaded, networks, xs) > 0
    # Called again and again, one stays.
    assert run_all(machine, loaded[:1] * 3, networks[:1] * 3, xs[:1] * 3) > 0
    assert run_all(machine, loaded[:1] * 3, networks[:1] * 3, xs[:1] * 3) == 0


def test_an_error_leaves_nothing_to_rely_on(networks, inputs):
    machine, _, loaded, xs = opened(configuration("up5k"), networks, inputs)
    with pytest.raises(kolmogate.errors.InputError):
        loaded[0](np.zeros((1, 1), np.int8))
    assert run_all(machine, loaded, networks, xs) == 0
    machine.memory[loaded[0].image.sections["descriptors"].address] = 7
    with pytest.raises(kolmogate.errors.DeviceError):
        loaded[0](xs[0])
    assert run_all(machine, loaded, networks, xs) > 0
