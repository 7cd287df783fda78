"""Weights that a hash makes: compilation finds it again and stores a few bits of each."""

import dataclasses

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.cycles import cycles
from kolmogate.programs.computed import computed
from kolmogate.random_network import with_computed_weights

UP5K = configuration("up5k")


@pytest.fixture
def network(chain):
    return (
        chain(9, 9, 8).conv(16, padding=(1, 1, 1, 1)).conv(24, size=(1, 1), stride=(2, 2)).dense(10).network()
    )


@pytest.mark.parametrize("objective", ["fastest", "balanced", "smallest"])
@pytest.mark.parametrize("new_bits", range(6))
def test_computed_weights_are_found_again(new_bits, objective, network, inputs, infer):
    network = with_computed_weights(network, UP5K.columns, new_bits)
    image = compile(network, UP5K, objective=objective)
    for layer in image.layers:
        assert layer.instructions["GENERATE"]
        assert not layer.instructions["LITERAL"] + layer.instructions["CODED"]
    # Windows begin once a layer, or for each column group if its records are literals. Columns without a
    # channel have weights too: 6 of the last layer's 16.
    groups = {"conv_2d_0": 2, "conv_2d_1": 3, "fully_connected_2": 2}
    for layer in image.layers:
        columns = groups[layer.name] * UP5K.columns
        taps = layer.weights // {"fully_connected_2": 10}.get(layer.name, columns)
        assert columns * taps * new_bits <= layer.bits - 8 * 12 <= columns * (taps * new_bits + 12) + 16 * 9
    x = inputs(network, 3)
    assert (infer(image, x) == golden.run(network, x)).all()
    assert (golden.run(image.network(), x) == golden.run(network, x)).all()


def test_they_cost_no_more_time_than_literals(network):
    made = compile(with_computed_weights(network, UP5K.columns, 3), UP5K, objective="fastest")
    plain = dataclasses.replace(UP5K, generator=False)
    stored = compile(with_computed_weights(network, UP5K.columns, 3), plain, objective="fastest")
    times = [sum(layer.total for layer in cycles(image)) for image in (made, stored)]
    assert times[0] <= times[1]
    assert made.device_bytes < 0.6 * stored.device_bytes


def test_filters_deeper_than_the_column_buffer(network, inputs, infer):
    """They are made again for each tile."""
    config = dataclasses.replace(UP5K, column_buffer_depth=32)
    network = with_computed_weights(network, UP5K.columns, 2)
    image = compile(network, config, objective="fastest")
    assert any(layer.replays > 1 and layer.instructions["GENERATE"] for layer in image.layers)
    x = inputs(network, 2)
    assert (infer(image, x) == golden.run(network, x)).all()


def test_other_weights_are_none_of_its():
    rng = np.random.default_rng(3)
    weights = np.clip(rng.normal(0, 40, (2, 30, 8)), -118, 119).astype(np.int8)
    assert computed(weights, 16) is None
    # One weight a lane can be hit, but takes more than a literal.
    assert computed(weights[:, :1], 16) is None
