"""Whole networks on the RTL behind the driver: bytes equal golden, cycles as the model says."""

import os
import time
from pathlib import Path

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.bench import ANCHORS, bench

KWS_CYCLES = 250_000
"""What an inference of the keyword network may take on `up5k`."""


@pytest.fixture(scope="module")
def keywords() -> np.ndarray:
    """Real inputs of the keyword network, from the folder that KOLMOGATE_DATA names."""
    folder = os.environ.get("KOLMOGATE_DATA")
    if not folder:
        pytest.skip("KOLMOGATE_DATA is not set: it names the folder of kws_calibration_200.npz")
    return np.load(Path(folder) / "kws_calibration_200.npz")["x"]


@pytest.mark.parametrize("target", ["up5k", "ecp5-45f"])
def test_keyword_network(target, models_folder, keywords, capsys):
    network = kolmogate.load_tflite(models_folder / "kws_ref_model.tflite")
    image = kolmogate.compile(network, kolmogate.configuration(target))
    x = keywords[:3]
    with kolmogate.open("rtl", image.config) as device:
        loaded = device.load(image)
        predicted = loaded.layers
        start = time.perf_counter()
        y = loaded(x)
        seconds = time.perf_counter() - start
    assert (y == golden.run(network, x)).all()
    with capsys.disabled():
        rate = sum(loaded.cycles) / seconds
        print(f"\nKWS on {target}: {loaded.cycles[0]:,} cycles an inference, {rate:,.0f} cycles a second")
    assert rate > 100_000
    total = sum(layer.total for layer in predicted)
    assert all(abs(measured / total - 1) < 0.02 for measured in loaded.cycles)
    if target == "up5k":
        assert max(loaded.cycles) <= KWS_CYCLES


def test_keyword_network_takes_the_cycles_of_the_model(models_folder):
    """Each layer, and each part of its split, where no row is coded."""
    network = kolmogate.load_tflite(models_folder / "kws_ref_model.tflite")
    image = kolmogate.compile(network, kolmogate.configuration("up5k"), objective="fastest")
    with kolmogate.open("rtl", image.config) as device:
        loaded = device.load(image)
        predicted = loaded.layers
        loaded(np.zeros((1, *image.input.tensor.shape), np.int8))
    assert loaded.layers == predicted
    assert loaded.cycles == [sum(layer.total for layer in predicted)]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["up5k", "ecp5-25f", "ecp5-85f"])
@pytest.mark.parametrize("name", ANCHORS)
def test_every_network_takes_the_cycles_of_the_model(name, target, models_folder):
    """And its bytes are golden; with more scratchpad where it would not fit."""
    paths = [models_folder / f"{name}.tflite"]
    [measured], [predicted] = (bench(paths, [target], on) for on in ("rtl", "machine"))
    assert measured["exact"]
    assert abs(measured["cycles"] / predicted["cycles"] - 1) < 0.02
