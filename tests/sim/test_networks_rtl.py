"""Whole networks on the RTL behind the driver: bytes equal golden, cycles as the model says."""

import os
import time
from pathlib import Path

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.cycles import cycles

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
        start = time.perf_counter()
        y = loaded(x)
        seconds = time.perf_counter() - start
    assert (y == golden.run(network, x)).all()
    predicted = sum(layer.total for layer in cycles(image))
    with capsys.disabled():
        rate = sum(loaded.cycles) / seconds
        print(f"\nKWS on {target}: {loaded.cycles[0]:,} cycles an inference, {rate:,.0f} cycles a second")
    assert rate > 100_000
    if target == "up5k":
        assert all(abs(measured / predicted - 1) < 0.02 for measured in loaded.cycles)
        assert max(loaded.cycles) <= KWS_CYCLES
