"""`save_tflite`: files the reference accepts, and networks that no file can express."""

import dataclasses

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.errors import InputError
from kolmogate.network import (
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    Mean,
    Network,
    Relu,
    Requantisation,
    Tensor,
    Window,
)
from kolmogate.quantisation import (
    add_requantisation,
    convolution_requantisation,
    quantise_multiplier,
    rescaling,
)
from kolmogate.tflite_export import save_tflite
from kolmogate.tflite_import import load_tflite


def one_operation(operation, *tensors):
    named = {tensor.name: tensor for tensor in tensors}
    return Network(named, (operation,), tensors[0].name, operation.output)


POINTWISE = Window.valid((1, 1), (1, 1))


def convolution(channels=2, window=POINTWISE, **changes):
    source = Tensor("x", (4, 4, 1), 0.1, 0)
    output = Tensor("y", (*window.output_size(4, 4), channels), 0.2, 0)
    operation = Conv2D(
        "y",
        ("x",),
        "y",
        np.arange(channels * window.size[0] * window.size[1], dtype=np.int8).reshape(
            channels, *window.size, 1
        ),
        np.zeros(channels, np.int32),
        window,
        convolution_requantisation(source, [0.3], output, channels),
        (-128, 127),
    )
    return one_operation(dataclasses.replace(operation, **changes), source, output)


def test_mlperf_tiny_network_keeps_its_answers(tmp_path, models_folder, referee):
    original = models_folder / "kws_ref_model.tflite"
    network = load_tflite(original)
    save_tflite(network, tmp_path / "again.tflite")
    x = np.random.default_rng(1).integers(-128, 128, (5, *network.tensors[network.input].shape), np.int8)
    np.testing.assert_array_equal(referee(tmp_path / "again.tflite", x), referee(original, x))


def test_scales_are_recovered_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(2)
    source, output = Tensor("x", (1,), 0.0371, 4), Tensor("y", (300,), 0.0193, -7)
    scales = np.exp(rng.uniform(-14, 2, 300)).astype(np.float32)
    requantisation = convolution_requantisation(source, scales, output, 300)
    dense = Dense(
        "y",
        ("x",),
        "y",
        rng.integers(-127, 128, (300, 1), np.int8),
        np.zeros(300, np.int32),
        requantisation,
        (-128, 127),
    )
    save_tflite(one_operation(dense, source, output), tmp_path / "scales.tflite")
    again = load_tflite(tmp_path / "scales.tflite").operations[0].requantisation
    assert again.multiplier.tolist() == requantisation.multiplier.tolist()
    assert again.shift.tolist() == requantisation.shift.tolist()


def test_channels_that_requantise_to_zero(tmp_path, referee):
    zero, one = quantise_multiplier(0.0), quantise_multiplier(1.5)
    pairs = np.array([zero, one], np.int32)
    network = convolution(requantisation=Requantisation(pairs[:, 0], pairs[:, 1]))
    save_tflite(network, tmp_path / "zero.tflite")
    x = np.arange(-8, 8).astype(np.int8).reshape(1, 4, 4, 1)
    result = golden.run(network, x)
    assert not result[..., 0].any()
    assert result[..., 1].any()
    np.testing.assert_array_equal(result, referee(tmp_path / "zero.tflite", x))


def test_same_windows_put_the_odd_position_behind():
    assert Window.same((2, 3), (1, 1), 5, 5).padding == (0, 1, 1, 1)
    assert Window.same((10, 4), (2, 2), 49, 10).padding == (4, 5, 1, 1)
    assert Window.same((1, 1), (3, 3), 7, 7).padding == (0, 0, 0, 0)
    assert Window.same((3, 3), (2, 2), 6, 7).output_size(6, 7) == (3, 4)


IMAGE = Tensor("x", (4, 4, 1), 0.1, 0)
ODD = Requantisation(np.array([(1 << 30) + 12345], np.int32), np.array([0], np.int32))
# What is wrong with a network, and what it is told.
INEXPRESSIBLE = {
    "padding": (
        convolution(window=Window((2, 2), (1, 1), (1, 0, 0, 0))),
        r"CONV_2D 'y' cannot be written: padding \(1, 0, 0, 0\) is neither SAME nor VALID: put a PAD",
    ),
    "clamp": (convolution(clamp=(-5, 77)), r"no fused activation has the range \(-5, 77\)"),
    "multiplier": (
        convolution(
            channels=1,
            requantisation=ODD,
        ),
        "no float32 weight scale gives multiplier 1073754169 and shift 0 of channel 0",
    ),
    "pool clamp": (
        one_operation(
            AveragePool2D("y", ("x",), "y", Window.valid((4, 4), (1, 1)), (3, 4)),
            IMAGE,
            Tensor("y", (1, 1, 1), 0.1, 0),
        ),
        r"AVERAGE_POOL_2D 'y' cannot be written: no fused activation has the range \(3, 4\)",
    ),
    "mean": (
        one_operation(Mean("y", ("x",), "y", (0, 1), ODD), IMAGE, Tensor("y", (1,), 0.2, 0)),
        "MEAN 'y' cannot be written: its multipliers are not those of its tensors' scales",
    ),
    "relu clamp": (
        one_operation(
            Relu("y", ("x",), "y", rescaling(IMAGE, IMAGE), (1, 2)), IMAGE, Tensor("y", (4, 4, 1), 0.1, 0)
        ),
        r"RELU 'y' cannot be written: no activation function has the range \(1, 2\)",
    ),
    "rule": (
        one_operation(
            Add("y", ("x", "x"), "y", add_requantisation(IMAGE, IMAGE, IMAGE, 20), (-128, 127)),
            IMAGE,
            Tensor("y", (4, 4, 2), 0.1, 0),
        ),
        r"ADD 'y': output 'y' must have shape \(4, 4, 1\), not \(4, 4, 2\)",
    ),
}


@pytest.mark.parametrize("case", INEXPRESSIBLE)
def test_networks_that_no_file_expresses_are_refused(tmp_path, case):
    network, reason = INEXPRESSIBLE[case]
    with pytest.raises(InputError, match=reason):
        save_tflite(network, tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"old")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(InputError, match=r"cannot write .*x\.tflite \(No space left on device\)"):
            save_tflite(convolution(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    save_tflite(convolution(), path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="choose another path"):
        save_tflite(convolution(), tmp_path / "none" / "x.tflite")
    with pytest.raises(InputError, match="choose another path"):
        save_tflite(convolution(), tmp_path)
