"""Whole networks on the RTL behind the driver: bytes equal golden, cycles as the model says."""

import dataclasses
import os
import time
from pathlib import Path

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.bench import ANCHORS, bench
from kolmogate.network import Conv2D
from kolmogate.random_network import random_network

LIMITS = {
    "kws_ref_model": (250_000, 120_000, 32_000),
    "pretrainedResnet_quant": (900_000, 450_000, 140_000),
    "vww_96_int8": (480_000, 220_000, 80_000),
    "ad01_int8": (45_000, 36_000, 12_000),
    "str_ww_ref_model": (75_000, 36_000, 11_000),
}
"""Cycles that an inference may take on each of `TARGETS`, at the compiler's default objective."""
TARGETS = ("up5k-small", "ecp5-25f", "ecp5-85f")


@pytest.fixture(scope="module")
def keywords() -> np.ndarray:
    """Real inputs of the keyword network, from the folder that KOLMOGATE_DATA names."""
    folder = os.environ.get("KOLMOGATE_DATA")
    if not folder:
        pytest.skip("KOLMOGATE_DATA is not set: it names the folder of kws_calibration_200.npz")
    return np.load(Path(folder) / "kws_calibration_200.npz")["x"]


@pytest.mark.parametrize("target", ["up5k", pytest.param("ecp5-45f", marks=pytest.mark.slow)])
def test_keyword_network(target, models_folder, keywords, capsys):
    network = kolmogate.load_tflite(models_folder / "kws_ref_model.tflite")
    image = kolmogate.compile(network, kolmogate.configuration(target))
    x = keywords[:3]
    with kolmogate.open("rtl", image.config) as device:
        loaded = device.load(image)
        predicted = loaded.layers
        start = time.process_time()
        y = loaded(x)
        seconds = time.process_time() - start
    assert (y == golden.run(network, x)).all()
    with capsys.disabled():
        rate = sum(loaded.cycles) / seconds
        print(f"\nKWS on {target}: {loaded.cycles[0]:,} cycles an inference, {rate:,.0f} cycles a second")
    assert rate > 100_000
    total = sum(layer.total for layer in predicted)
    assert all(abs(measured / total - 1) < 0.02 for measured in loaded.cycles)
    if target == "up5k":
        assert max(loaded.cycles) <= LIMITS["kws_ref_model"][0]


@pytest.mark.parametrize("objective", ["fastest", "smallest"])
def test_keyword_network_takes_the_cycles_of_the_model(objective, models_folder):
    """Each layer, and each part of its split: of literals, and of rows that are coded."""
    network = kolmogate.load_tflite(models_folder / "kws_ref_model.tflite")
    image = kolmogate.compile(network, kolmogate.configuration("up5k"), objective=objective)
    with kolmogate.open("rtl", image.config) as device:
        loaded = device.load(image)
        predicted = loaded.layers
        loaded(np.zeros((1, *image.input.tensor.shape), np.int8))
    assert loaded.layers == predicted
    assert loaded.cycles == [sum(layer.total for layer in predicted)]


def test_filters_deeper_than_the_column_buffer_take_the_cycles_of_the_model():
    """They are made again for each tile: with SEEK, which the model knows."""
    config = dataclasses.replace(kolmogate.configuration("up5k"), column_buffer_depth=32)
    networks = [random_network(seed, kinds=[Conv2D], length=3) for seed in range(6)]
    images = [kolmogate.compile(network, config, objective="fastest") for network in networks]
    assert sum("SEEK" in layer.instructions for image in images for layer in image.layers) >= 4
    with kolmogate.open("rtl", config) as device:
        for network, image in zip(networks, images, strict=True):
            loaded = device.load(image)
            predicted = loaded.layers
            x = np.random.default_rng(1).integers(-128, 128, (1, *image.input.tensor.shape), np.int8)
            assert (loaded(x) == golden.run(network, x)).all()
            for measured, layer in zip(loaded.layers, predicted, strict=True):
                assert abs(measured.total - layer.total) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ANCHORS)
def test_every_network_takes_the_cycles_of_the_model(name, target, models_folder):
    """And no more than its limit, and its bytes are golden; with more scratchpad where it would not fit.

    No tap waits for weights in the layers where the compiler says that decoding is hidden.
    """
    paths = [models_folder / f"{name}.tflite"]
    [measured], [predicted] = (bench(paths, [target], on) for on in ("rtl", "machine"))
    assert measured["exact"]
    assert measured["cycles"] <= LIMITS[name][TARGETS.index(target)]
    assert abs(measured["cycles"] / predicted["cycles"] - 1) < 0.02
    assert not any(layer["decode"] for layer in measured["layers"] if layer["decode_hidden"])
