"""Random small networks: RTL = machine = golden, which `tests/sw/test_golden.py` holds to the referee.

And the RTL takes the cycles that the model says, layer by layer, give or take 2%.
"""

from math import ceil

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.errors import InputError
from kolmogate.network import Conv2D, Dense
from kolmogate.random_network import random_network, with_computed_weights

INPUTS = 3
REFUSED = 0.08
"""How many of the networks the compiler may refuse; it names the operation that it cannot run exactly."""


def compare(target: str, count: int) -> None:
    """Compares ``count`` networks that the compiler takes."""
    config = kolmogate.configuration(target)
    refused, compared = [], 0
    with kolmogate.open("rtl", config) as rtl, kolmogate.open("machine", config) as machine:
        for seed in range(ceil(count / (1 - REFUSED))):
            if compared == count:
                break
            network = random_network(seed)
            try:
                image = kolmogate.compile(network, config)
            except InputError as error:
                refused.append(f"{seed}: {error}")
                continue
            compared += 1
            shape = (INPUTS, *network.tensors[network.input].shape)
            x = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
            expected = golden.run(network, x)
            for name, device in (("machine", machine), ("RTL", rtl)):
                loaded = device.load(image)
                predicted = loaded.layers
                wrong = (loaded(x) != expected).sum()
                assert not wrong, (
                    f"{wrong} of {expected.size} bytes of network {seed} are wrong on the {name}"
                )
                total = sum(layer.total for layer in predicted)
                assert all(abs(measured / total - 1) < 0.02 for measured in loaded.cycles), f"network {seed}"
                for layer, model in zip(loaded.layers, predicted, strict=True):
                    # The model misses a cycle now and then.
                    allowed = max(2, 0.02 * model.total)
                    assert abs(layer.total - model.total) <= allowed, f"network {seed} on the {name}"
                    assert not (model.hidden and layer.decode), f"network {seed} on the {name}"
    print(f"{target}: {compared} networks compared, {len(refused)} refused", *refused, sep="\n")
    assert compared == count, "\n".join(refused)


@pytest.mark.parametrize(
    "target", ["up5k-small", "ecp5-25f", pytest.param("ecp5-45f", marks=pytest.mark.slow)]
)
def test_random_networks(target: str) -> None:
    compare(target, 40)


def test_networks_with_computed_weights() -> None:
    """RTL = machine = golden, and the cycles are the model's."""
    config = kolmogate.configuration("up5k")
    generated = 0
    with kolmogate.open("rtl", config) as rtl, kolmogate.open("machine", config) as machine:
        for seed in range(12):
            network = with_computed_weights(random_network(seed, (Conv2D, Dense), 3), 8, seed % 6, seed)
            try:
                image = kolmogate.compile(network, config)
            except InputError:
                continue
            generated += sum(layer.instructions["GENERATE"] for layer in image.layers)
            shape = (INPUTS, *network.tensors[network.input].shape)
            x = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
            for device in (machine, rtl):
                loaded = device.load(image)
                predicted = sum(layer.total for layer in loaded.layers)
                assert (loaded(x) == golden.run(network, x)).all(), f"network {seed}"
                assert all(abs(measured - predicted) <= 2 for measured in loaded.cycles), f"network {seed}"
    assert generated >= 10


@pytest.mark.slow
@pytest.mark.parametrize("target", ["up5k", "up5k-small", "ecp5-25f", "ecp5-85f"])
def test_200_random_networks(target: str) -> None:
    compare(target, 200)
