"""The golden model against LiteRT's reference kernels, bit for bit."""

import os
from pathlib import Path

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.errors import InputError
from kolmogate.network import Dense, Network, Softmax, Tensor, accumulator_bounds
from kolmogate.quantisation import DenseScale, quantise_multiplier
from kolmogate.random_network import KINDS, random_network
from kolmogate.tflite_export import save_tflite
from kolmogate.tflite_import import load_tflite

MODELS = [
    "ad01_int8.tflite",
    "kws_ref_model.tflite",
    "pretrainedResnet_quant.tflite",
    "str_ww_ref_model.tflite",
    "vww_96_int8.tflite",
]


def random_inputs(network, count, seed):
    shape = network.tensors[network.input].shape
    return np.random.default_rng(seed).integers(-128, 128, (count, *shape), np.int8)


@pytest.mark.parametrize("model", MODELS)
def test_mlperf_tiny_networks_equal_the_referee(models_folder, referee, model):
    path = models_folder / model
    network = load_tflite(path)
    x = random_inputs(network, 20, seed=1)
    np.testing.assert_array_equal(golden.run(network, x), referee(path, x))


def test_keyword_network_on_200_inputs(models_folder, referee):
    """Real inputs and their recorded outputs where KOLMOGATE_DATA names their folder, else random ones."""
    path = models_folder / "kws_ref_model.tflite"
    network = load_tflite(path)
    folder = os.environ.get("KOLMOGATE_DATA")
    if folder:
        with np.load(Path(folder) / "kws_calibration_200.npz") as data:
            x, expected = data["x"], data["reference_output"]
    else:
        x = random_inputs(network, 200, seed=2)
        expected = referee(path, x)
    assert expected.size == 2400
    np.testing.assert_array_equal(golden.run(network, x), expected)


def test_random_networks_equal_the_referee_in_every_tensor(tmp_path, referee_tensors):
    path = tmp_path / "random.tflite"
    varied = {kind.kind: 0 for kind in KINDS}
    for seed in range(220):
        network = random_network(seed)
        save_tflite(network, path)
        x = random_inputs(network, 6, seed)
        values = golden.run_tensors(network, x)
        expected = referee_tensors(path, x, [operation.output for operation in network.operations])
        for operation in network.operations:
            message = f"seed {seed}, {operation.kind} {operation.name}"
            np.testing.assert_array_equal(values[operation.output], expected[operation.output], message)
            varied[operation.kind] += len(np.unique(values[operation.output])) > 8
    # Constant outputs would prove little: every kind must have shown varied ones.
    assert min(varied.values()) >= 5, varied


def dense_of_one_input(ratio, zero_points=(0, 0), weight=1):
    """A dense layer with one input, so that 256 inputs are all there are."""
    source, output = Tensor("x", (1,), 1.0, zero_points[0]), Tensor("y", (1,), 1.0, zero_points[1])
    weights, bias = np.array([[weight]], np.int8), np.zeros(1, np.int32)
    nominal = Dense("y", ("x",), "y", weights, bias, None, (-128, 127))
    bounds = accumulator_bounds(nominal, zero_points[0])
    scale = DenseScale.of(source, [ratio], output, bounds, (-128, 127)).requantisation()
    dense = Dense("y", ("x",), "y", weights, bias, scale, (-128, 127))
    return Network({"x": source, "y": output}, (dense,), "x", "y")


@pytest.mark.parametrize("ratio", [2.0, 1.0, 0.5, 0.25, 2.0**-5, 0.3, 0.1, 1.5, 2.0**-12])
def test_dense_rounds_halves_away_from_zero_like_the_referee(tmp_path, referee, ratio):
    network = dense_of_one_input(ratio, (3, -5), weight=-7)
    save_tflite(network, tmp_path / "dense.tflite")
    x = np.arange(-128, 128).astype(np.int8)[:, None]
    expected = referee(tmp_path / "dense.tflite", x)
    np.testing.assert_array_equal(golden.run(network, x), expected)


def test_dense_scale_moves_the_multiplier_where_rounding_half_up_is_not_enough():
    network = dense_of_one_input(0.5)
    multiplier = network.operations[0].requantisation.multiplier[0]
    assert quantise_multiplier(0.5) == (1 << 30, 0)
    assert multiplier > 1 << 30
    # -1 / 2 rounds away from zero.
    assert golden.run(network, np.array([[-1]], np.int8))[0, 0] == -1
    # Without negative accumulators there is no half to move.
    positive = DenseScale(np.array([0.5]), (np.array([0]), np.array([255])), (-128, 127))
    assert positive.requantisation().multiplier[0] == 1 << 30


def test_dense_scale_without_an_equal_multiplier_is_refused():
    bounds = np.array([-(1 << 31)]), np.array([(1 << 31) - 1])
    with pytest.raises(InputError, match=r"no 31-bit multiplier equals the scale 3\.0\d+e-08 of channel 0"):
        DenseScale(np.array([1.01 * 2.0**-25]), bounds, (-128, 127)).requantisation()


@pytest.mark.parametrize("size", [1, 2, 12, 511])
def test_softmax_equals_the_referee(tmp_path, referee, size):
    rng = np.random.default_rng(size)
    x = rng.integers(-128, 128, (50, size), np.int8)
    x[:10] = x[:10, :1]  # equal values
    x[10:20] = np.clip(rng.normal(100, 5, (10, size)), -128, 127)
    for scale in (1e-6, 0.004, 0.03, 0.2, 1.0, 17.0, 1e6):
        source, output = Tensor("x", (size,), scale, 5), Tensor("y", (size,), 1 / 256, -128)
        network = Network({"x": source, "y": output}, (Softmax("y", ("x",), "y", 1.0),), "x", "y")
        save_tflite(network, tmp_path / "softmax.tflite")
        expected = referee(tmp_path / "softmax.tflite", x)
        np.testing.assert_array_equal(golden.run(network, x), expected, f"scale {scale}")
        np.testing.assert_array_equal(golden.softmax(x, source.scale, 1.0), expected)


def c_requantise(accumulator, multiplier, shift, single_rounding):
    """The definitions, in Python integers and C's division that truncates."""
    if single_rounding:
        return (accumulator * multiplier + (1 << (30 - shift))) >> (31 - shift)
    product = accumulator * (1 << max(shift, 0)) * multiplier
    nudged = product + (1 << 30 if product >= 0 else 1 - (1 << 30))
    high = abs(nudged) // (1 << 31) * (1 if nudged >= 0 else -1)
    right = max(-shift, 0)
    remainder = high & ((1 << right) - 1)
    threshold = (((1 << right) - 1) >> 1) + (high < 0)
    return (high >> right) + (remainder > threshold)


@pytest.mark.parametrize("single_rounding", [False, True])
def test_requantise_on_the_corners_of_int32(single_rounding):
    rng = np.random.default_rng(4)
    corners = [0, 1, 2, 3, (1 << 30) - 1, 1 << 30, (1 << 31) - 1]
    accumulators = np.array(
        [*corners, *(-value for value in corners), -(1 << 31), *rng.integers(-(1 << 31), 1 << 31, 60)]
    )
    multipliers = [0, 1 << 30, (1 << 30) + 1, (1 << 31) - 1, int(rng.integers(1 << 30, 1 << 31))]
    for shift in range(-31, 31):
        within = accumulators[np.abs(accumulators) < 1 << (31 - max(shift, 0))]
        for multiplier in multipliers:
            expected = [c_requantise(int(value), multiplier, shift, single_rounding) for value in within]
            result = golden.requantise(within, multiplier, shift, single_rounding)
            assert result.tolist() == expected, (shift, multiplier)


def test_requantise_has_a_multiplier_and_shift_per_channel():
    accumulator = np.array([[1000, 1000, -1000]])
    result = golden.requantise(accumulator, [1 << 30, 1 << 30, 1 << 30], [0, 1, -3], False)
    assert result.tolist() == [[500, 1000, -63]]


def test_batches_are_cut_without_a_trace():
    network = random_network(7)
    x = random_inputs(network, 70, seed=3)
    one_by_one = np.concatenate([golden.run(network, value[None]) for value in x])
    np.testing.assert_array_equal(golden.run(network, x), one_by_one)
    assert golden.run(network, x[:0]).shape == (0, *one_by_one.shape[1:])


@pytest.mark.parametrize(
    ("x", "given"),
    [
        (np.zeros((2, 1), np.float32), r"float32 of shape \(2, 1\)"),
        (np.zeros((2, 3), np.int8), r"int8 of shape \(2, 3\)"),
        (np.zeros(1, np.int8), r"int8 of shape \(1,\)"),
        (np.zeros((), np.int8), r"int8 of shape \(\)"),
        ([[1]], "list"),
    ],
)
def test_wrong_inputs_are_refused(x, given):
    with pytest.raises(InputError, match=rf"the input must be int8 of shape \(batch, 1\), not {given}"):
        golden.run(dense_of_one_input(0.5), x)
