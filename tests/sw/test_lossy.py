"""Compression with loss: rounding, gradients, and rewritten networks that meet their budgets and files."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import from_bytes, to_bytes
from kolmogate.errors import InputError, UsageError
from kolmogate.lossy import compress
from kolmogate.lossy.calibration import capacity, synthetic
from kolmogate.lossy.compress import ATTEMPTS, _search
from kolmogate.lossy.gradients import gradients
from kolmogate.lossy.outputs import Outputs
from kolmogate.lossy.rounding import Rate, round_filters
from kolmogate.lossy.statistics import Moments
from kolmogate.network import Add, MaxPool2D, Window
from kolmogate.quantisation import add_requantisation
from kolmogate.tflite_export import save_tflite

UP5K = configuration("up5k")


@pytest.fixture
def network(chain):
    """A small classifier with each kind of operation that has weights, which a file can hold."""
    body = chain(8, 8, 2).conv(16).depthwise(padding=(1, 1, 1, 1)).conv(8, (1, 1)).pool((2, 2))
    made = body.reshape(72).dense(5).softmax().network()
    operations = [
        replace(one, clamp=(-128, 127)) if hasattr(one, "clamp") else one for one in made.operations
    ]
    tensors = dict(made.tensors)
    # Logits that tell the inputs apart.
    logits = operations[-1].inputs[0]
    tensors[logits] = replace(tensors[logits], scale=0.5)
    return replace(made, tensors=tensors, operations=tuple(operations))


def correlated(rng, n, count=400):
    rows = rng.standard_normal((count, n)) @ rng.standard_normal((n, n)) + 1
    rows[:, -1] = 1
    return rows.T @ rows / count + 1e-6 * np.eye(n)


def needed(second, targets):
    return Moments(second[None], targets, np.ones(len(targets)))


def test_rounding_is_to_the_nearest_where_inputs_are_not_correlated():
    targets = np.random.default_rng(1).uniform(-9, 9, (10, 6))
    rounded = round_filters(needed(np.eye(6), targets), 0.5, 0.0, Rate.start(8))
    np.testing.assert_array_equal(rounded.weights, np.round(targets[:, :-1] / 0.5))
    np.testing.assert_array_equal(rounded.bias, np.round(targets[:, -1] / 0.5))


def test_error_is_the_quadratic_form_and_feedback_lowers_it():
    rng = np.random.default_rng(2)
    second, targets = correlated(rng, 12), rng.uniform(-5, 5, (20, 12))

    def error(q):
        return np.einsum("ci,ij,cj", targets - q, second, targets - q)

    rounded = round_filters(needed(second, targets), 1.0, 0.0, Rate.start(8))
    made = np.column_stack([rounded.weights, rounded.bias])
    np.testing.assert_allclose(rounded.error, error(made))
    assert rounded.error < 0.7 * error(np.round(targets))


def test_bits_fall_as_their_price_rises():
    rng = np.random.default_rng(3)
    second, targets = correlated(rng, 12), 3 * rng.standard_normal((40, 12))
    made = [
        round_filters(needed(second, targets), 1.0, price, Rate.start(8)) for price in (0.0, 0.3, 3.0, 1e9)
    ]
    assert all(a.bits > b.bits for a, b in pairwise(made))
    assert all(a.error < b.error for a, b in pairwise(made))
    assert not made[-1].weights.any()


def test_gradients_are_those_of_finite_differences(chain):
    """Of biases, far enough from clamps that outputs follow; sums of many outputs even out the roundings."""
    body = chain(9, 9, 3).conv(8, padding=(1, 1, 1, 1)).depthwise(stride=(2, 2), padding=(1, 1, 1, 1))
    pool = MaxPool2D("", (), "", window=Window.valid((2, 2), (1, 1)), clamp=(-128, 127))
    body.pool((2, 2), (1, 1)).append(pool, (3, 3, 8))
    first = body.current
    body.conv(8, (1, 1))
    tensors = [body.tensors[name] for name in (first, body.current)]
    body.append(
        Add("", (), "", requantisation=add_requantisation(*tensors, tensors[0], 20), clamp=(-128, 127)),
        (3, 3, 8),
        scale=tensors[0].scale,
    )
    add = body.operations[-1]
    body.operations[-1] = type(add)(**{**vars(add), "inputs": (first, add.inputs[0])})
    network = body.dense(6).network()
    rng = np.random.default_rng(4)
    x = rng.integers(-40, 40, (400, 9, 9, 3)).astype(np.int8)
    values = golden.run_tensors(network, x)
    probe = rng.standard_normal((len(x), 6))
    found = gradients(network, values, network.output, probe)
    for index, operation in enumerate(network.operations):
        if not hasattr(operation, "bias"):
            continue
        scale = np.ldexp(
            operation.requantisation.multiplier.astype(float), operation.requantisation.shift - 31
        )
        step = np.round(6 / scale).astype(np.int32)
        step[1:] = 0
        total = 0.0
        for sign in (-1, 1):
            moved = type(operation)(**{**vars(operation), "bias": operation.bias + sign * step})
            operations = (*network.operations[:index], moved, *network.operations[index + 1 :])
            other = type(network)(network.tensors, operations, network.input, network.output)
            y = golden.run(other, x).astype(float)
            total += sign * (probe * y).sum()
        expected = total / (2 * step[0] * scale[0])
        assert found[operation.output][..., 0].sum() == pytest.approx(expected, rel=0.25, abs=3)


def test_loss_of_softmax_is_the_divergence_and_of_others_the_relative_error(network, chain, inputs):
    for net in (network, chain(4, 4, 3).conv(4).network()):
        values = golden.run_tensors(net, inputs(net, 8))
        outputs = Outputs.of(net, values)
        assert outputs.loss(values) == 0
        other = {**values, outputs.tensor.name: values[outputs.tensor.name][::-1]}
        assert outputs.loss(other) > 0
        # For a small change the loss is half the mean squared product with the probes.
        change = np.zeros(outputs.reference.shape)
        change[:, 0] = 0.01
        moved = Outputs(outputs.tensor, outputs.beta, outputs.reference + change)
        rng = np.random.default_rng(5)
        step = change / (outputs.tensor.scale * (outputs.beta or 1))
        products = [(outputs.probes(rng) * step).sum(1) for _ in range(3000)]
        assert moved.loss(values) == pytest.approx(np.square(products).mean() / 2, rel=0.2)


def test_compression_meets_its_loss_and_its_file_gives_its_outputs(network, inputs, referee, tmp_path):
    x = inputs(network, 40)
    compressed = compress(network, UP5K, max_loss=0.05, calibration=x)
    image, made = compressed.image, golden.run(compressed.image.network(), x)
    assert not image.report()["exact"]
    assert image.lossy.loss <= 0.05
    assert (image.lossy.inputs, image.lossy.synthetic) == (40, False)
    assert sum(layer.bits for layer in image.layers) < 6 * sum(layer.weights for layer in image.layers)
    np.testing.assert_array_equal(made, golden.run(compressed.network, x))
    save_tflite(compressed.network, tmp_path / "small.tflite")
    np.testing.assert_array_equal(referee(tmp_path / "small.tflite", x), made)
    assert from_bytes(to_bytes(image)).lossy == image.lossy


def test_machine_gives_the_outputs_of_the_compressed_network(network, inputs, infer):
    compressed = compress(network, UP5K, max_loss=0.1, objective="smallest")
    assert compressed.image.lossy.synthetic
    x = inputs(network, 4)
    np.testing.assert_array_equal(infer(compressed.image, x), golden.run(compressed.network, x))


def test_bytes_are_met_with_the_least_loss(network, inputs):
    x = inputs(network, 40)
    exact = compile(network, UP5K, objective="smallest").device_bytes
    budgets = exact * 3 // 4, exact * 3 // 5
    large, small = (
        compress(network, UP5K, max_loss=9.0, calibration=x, max_bytes=size).image for size in budgets
    )
    assert large.device_bytes <= budgets[0]
    assert small.device_bytes <= budgets[1]
    assert 0 < large.lossy.loss < small.lossy.loss


def test_budgets_that_cannot_be_met_are_refused(network, inputs):
    x = inputs(network, 10)
    exact = compile(network, UP5K, objective="smallest").device_bytes
    with pytest.raises(InputError, match="more than 100: allow more bytes"):
        compress(network, UP5K, max_loss=9.0, calibration=x, max_bytes=100)
    with pytest.raises(InputError, match=r"bytes the least loss found is .*: allow more bytes or more loss"):
        compress(network, UP5K, max_loss=1e-6, calibration=x, max_bytes=exact // 2)
    with pytest.raises(InputError, match=r"the least loss found is .*: allow more loss"):
        compress(network, UP5K, max_loss=1e-9, calibration=inputs(network, 200))
    with pytest.raises(UsageError, match="must be a positive number, not nan"):
        compress(network, UP5K, max_loss=float("nan"))


def test_networks_without_weights_are_refused(chain):
    with pytest.raises(InputError, match="has no weights to compress"):
        compress(chain(4, 4, 2).pool((2, 2)).network(), UP5K, max_loss=0.1)


def test_synthetic_inputs_are_seeded_and_spread_over_the_classes(network):
    x, again = (synthetic(network, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(x, again)
    assert x.shape == (capacity(network), *network.tensors[network.input].shape)
    assert x.std() > 15
    assert len(np.unique(golden.run(network, x).argmax(axis=1))) > 1


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize("start", [1e-6, 1e-3, 1.0])
def test_search_comes_close_to_the_budget(rising, start):
    """Of something that goes with the price as bytes or as losses do, in jumps."""

    def attempt(price):
        return None, price, float(np.exp(np.round((1.5 if rising else -0.2) * np.log(price / 1e-3), 2)))

    _, price, used = _search(attempt, start, rising)
    assert 0.95 < used <= 1
    assert used == attempt(price)[2]


def test_search_ends_if_the_budget_cannot_be_met():
    tried = []

    def attempt(price):
        tried.append(price)
        return None, 0.0, 2.0 + price

    assert _search(attempt, 1.0, True)[2] == 2.0 + min(tried)
    assert len(tried) == ATTEMPTS
