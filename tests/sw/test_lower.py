"""Lowering and folding: other networks with the same outputs."""

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.fold import fold, unfold
from kolmogate.lower import lower
from kolmogate.network import Add, Conv2D, DepthwiseConv2D, Reshape
from kolmogate.random_network import random_network


def test_random_networks_keep_every_output_bit(inputs):
    expanded = moved = 0
    for seed in range(120):
        network = random_network(seed, length=6)
        lowered = lower(network)
        x = inputs(network, 4)
        assert (golden.run(lowered, x) == golden.run(network, x)).all(), f"seed {seed}"
        kinds = [[type(one) for one in each.operations] for each in (network, lowered)]
        expanded += kinds[0].count(DepthwiseConv2D) > kinds[1].count(DepthwiseConv2D)
        moved += kinds[0] != kinds[1] and Reshape in kinds[0]
    assert expanded > 10
    assert moved > 10


def test_reshapes_move_behind_additions(chain):
    builder = chain(3, 4, 2).conv(6, size=(1, 1)).reshape(12, 6)
    builder.append(
        Add("", (), "", **{key: getattr(random_add(), key) for key in ("requantisation", "clamp")}), (12, 6)
    )
    add = builder.operations[-1]
    builder.operations[-1] = Add(
        add.name, (add.inputs[0],) * 2, add.output, add.requantisation, add.clamp, add.left_shift
    )
    kinds = [operation.kind for operation in lower(builder.network()).operations]
    assert kinds == ["CONV_2D", "ADD", "RESHAPE"]


def random_add() -> Add:
    """Some addition of a random network."""
    for seed in range(100):
        for operation in random_network(seed, (Add, Conv2D), 4).operations:
            if isinstance(operation, Add):
                return operation
    raise AssertionError("no random network has an addition")


@pytest.mark.parametrize(("factor", "stride"), [(2, 1), (2, 2), (4, 1), (4, 3)])
def test_folded_convolution_makes_neighbouring_outputs(chain, inputs, factor, stride):
    width = (factor * 3 - 1) * stride + 3
    network = chain(5, width, 3).conv(8, size=(2, 3), stride=(1, stride)).network()
    (conv,) = network.operations
    assert isinstance(conv, Conv2D)
    folded = fold(conv, factor)
    x = inputs(network, 3)
    expected = golden.run(network, x)
    source, output = (network.tensors[name] for name in (network.input, network.output))
    wide = type(output)(output.name, (4, 3, 8 * factor), output.scale, output.zero_point)
    got = golden.evaluate(folded, [x], [source], wide)
    np.testing.assert_array_equal(got.reshape(expected.shape), expected)
    np.testing.assert_array_equal(unfold(folded.weights, conv), conv.weights)
