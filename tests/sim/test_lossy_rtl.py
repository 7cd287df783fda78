"""Networks compressed with loss on the RTL: its bytes are the golden model's and the exported file's."""

import os
from pathlib import Path

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.errors import InputError
from kolmogate.lossy import compress
from kolmogate.network import AveragePool2D, Conv2D, Dense, DepthwiseConv2D, Softmax
from kolmogate.random_network import random_network
from kolmogate.tflite_export import save_tflite


def check(network, calibration, x, referee, path, **budgets):
    """Compress on up5k; all four sides must agree on ``x``. Returns the image."""
    compressed = compress(network, kolmogate.configuration("up5k"), calibration=calibration, **budgets)
    save_tflite(compressed.network, path)
    expected = referee(path, x)
    np.testing.assert_array_equal(golden.run(compressed.network, x), expected)
    np.testing.assert_array_equal(golden.run(compressed.image.network(), x), expected)
    with kolmogate.open("rtl", compressed.image.config) as device:
        np.testing.assert_array_equal(device.load(compressed.image)(x), expected)
    return compressed.image


def test_small_network(referee, tmp_path):
    """The first random network that fits a file and ends in SOFTMAX with outputs that differ."""
    kinds = (Conv2D, DepthwiseConv2D, Dense, AveragePool2D, Softmax)
    for seed in range(40, 200):
        network = random_network(seed, kinds, 5)
        x = np.random.default_rng(seed).integers(-128, 128, (12, *network.tensors["input"].shape))
        x = x.astype(np.int8)
        if not isinstance(network.operations[-1], Softmax) or len(np.unique(golden.run(network, x))) < 5:
            continue
        try:
            kolmogate.compile(network, kolmogate.configuration("up5k"))
            save_tflite(network, tmp_path / "original.tflite")
        except InputError:
            continue
        break
    image = check(network, x, x[:3], referee, tmp_path / "small.tflite", max_loss=0.1)
    assert image.lossy.loss <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("size", [9_000, 10_500])
def test_keyword_network_within_bytes(size, models_folder, referee, tmp_path):
    folder = os.environ.get("KOLMOGATE_DATA")
    if not folder:
        pytest.skip("KOLMOGATE_DATA is not set: it names the folder of kws_calibration_200.npz")
    x = np.load(Path(folder) / "kws_calibration_200.npz")["x"]
    network = kolmogate.load_tflite(models_folder / "kws_ref_model.tflite")
    image = check(network, x, x[:3], referee, tmp_path / "kws.tflite", max_loss=0.06, max_bytes=size)
    assert image.device_bytes <= size


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), [("pretrainedResnet_quant", 0.1), ("vww_96_int8", 0.1)])
def test_networks_without_data(name, loss, models_folder, referee, tmp_path):
    network = kolmogate.load_tflite(models_folder / f"{name}.tflite")
    shape = network.tensors[network.input].shape
    x = np.random.default_rng(1).integers(-128, 128, (2, *shape)).astype(np.int8)
    image = check(network, None, x, referee, tmp_path / "made.tflite", max_loss=loss, objective="smallest")
    assert image.lossy.loss <= loss
