"""Simplified networks are smaller and give the same bytes for every input."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import from_bytes, to_bytes
from kolmogate.errors import InputError
from kolmogate.network import (
    Add,
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPool2D,
    Mean,
    Network,
    Pad,
    Relu,
    Requantisation,
    Reshape,
    Softmax,
    Tensor,
    Window,
)
from kolmogate.random_network import KINDS, random_network
from kolmogate.report import format_dropped
from kolmogate.simplify import Dropped, simplify
from kolmogate.simplify.intervals import ranges
from kolmogate.tflite_import import load_tflite

WEIGHTED = (Conv2D, DepthwiseConv2D, Dense)
PADDING = (1, 1, 1, 1)
EVERYTHING = (-128, 127)


def difficult_inputs(network, count, seed):
    """Uniform inputs, inputs of the two extremes alone, and constant ones."""
    rng = np.random.default_rng(seed)
    shape = (count, *network.tensors[network.input].shape)
    ends = np.where(rng.random(shape) < rng.random((count, *[1] * (len(shape) - 1))), -128, 127)
    flat = np.broadcast_to(rng.integers(-128, 128, (count, *[1] * (len(shape) - 1))), shape)
    return np.concatenate([rng.integers(-128, 128, shape), ends, flat]).astype(np.int8)


def pruned(network, seed):
    """The network with some filters and some input channels zeroed, some channels driven to an end."""
    rng = np.random.default_rng(seed)
    for index, operation in enumerate(network.operations):
        if not isinstance(operation, WEIGHTED):
            continue
        last = isinstance(operation, DepthwiseConv2D)
        filters = np.moveaxis(operation.weights, -1 if last else 0, 0).copy()
        bias = operation.bias.copy()
        if not last and rng.random() < 0.6:
            depth = network.tensors[operation.inputs[0]].shape[-1]
            columns = filters.reshape(len(filters), -1, depth)
            columns[..., rng.random(depth) < 0.3] = 0
        silent = rng.random(len(filters)) < rng.choice([0, 0.3, 0.5, 1], p=[0.3, 0.3, 0.3, 0.1])
        filters[silent] = 0
        bias[silent & (rng.random(len(filters)) < 0.5)] = 0
        driven = rng.random(len(filters)) < 0.15
        bias[driven] = rng.choice([-(1 << 22), 1 << 22], int(driven.sum()))
        weights = np.ascontiguousarray(np.moveaxis(filters, 0, -1 if last else 0))
        operations = list(network.operations)
        operations[index] = replace(operation, weights=weights, bias=bias)
        candidate = replace(network, operations=tuple(operations))
        try:
            candidate.check()
            network = candidate
        except InputError:
            pass  # the accumulators of a driven channel can overflow: it stays as it was
    return network


def cost(network):
    """Weights and multiply-accumulates, counted output by output."""
    weights = macs = 0
    for operation in network.operations:
        if isinstance(operation, WEIGHTED):
            *positions, _ = network.tensors[operation.output].shape
            weights += operation.weights.size
            macs += operation.weights.size * int(np.prod(positions))
    return weights, macs


def test_random_networks_keep_every_output_bit():
    varied, constant, unread, frozen = 0, Counter(), Counter(), Counter()
    for seed in range(250):
        network = pruned(random_network(seed, KINDS, 3 + seed % 6), seed)
        result = simplify(network)
        small = result.network
        assert small.tensors[small.input] == network.tensors[network.input]
        assert small.tensors[small.output] == network.tensors[network.output]
        x = difficult_inputs(network, 8, seed)
        y = golden.run(network, x)
        np.testing.assert_array_equal(golden.run(small, x), y, f"seed {seed}")
        for lost in result.dropped:
            constant[lost.op] += lost.constant
            unread[lost.op] += lost.unread
            frozen[lost.op] += lost.frozen
        before, after = cost(network), cost(small)
        assert before[0] - after[0] == sum(lost.weights for lost in result.dropped)
        assert before[1] - after[1] == sum(lost.macs for lost in result.dropped)
        varied += len(np.unique(y)) > 8
    # Networks that say nothing, or that nothing is taken from, would prove little.
    assert varied > 60
    assert len(constant - Counter({"SOFTMAX": constant["SOFTMAX"]})) == len(KINDS) - 1, constant
    assert min((unread + constant)[kind.kind] for kind in KINDS if kind.kind != "SOFTMAX") > 20
    assert min(frozen[kind.kind] for kind in WEIGHTED) > 20


def test_simplifying_twice_finds_nothing_more():
    for seed in range(100):
        once = simplify(pruned(random_network(seed, KINDS, 6), seed))
        again = simplify(once.network)
        assert all((lost.constant, lost.unread, lost.weights) == (0, 0, 0) for lost in again.dropped), seed
        assert again.network.tensors == once.network.tensors


def test_every_tensor_stays_within_its_range():
    reached = total = 0
    for seed in range(150):
        network = pruned(random_network(seed, KINDS, 4), seed)
        bounds = ranges(network)
        for name, values in golden.run_tensors(network, difficult_inputs(network, 20, seed)).items():
            low, high = bounds[name]
            assert ((values >= low) & (values <= high)).all(), f"seed {seed}, {name}"
            reached += int((values.min(axis=0) == low).sum() + (values.max(axis=0) == high).sum())
            total += 2 * low.size
    assert reached > total // 3


@pytest.mark.parametrize("kind", WEIGHTED)
def test_ends_of_the_first_range_are_reached(kind):
    """At any output of one layer, by the input that each weight's sign asks for."""
    for seed in range(30):
        network = random_network(seed, [kind], 1)
        operation, bounds = network.operations[0], ranges(network)[network.output]
        shape = network.tensors[network.input].shape
        # The output's response to each input value has the sign of the weight between them.
        zero_point = network.tensors[network.input].zero_point
        probes = np.full((int(np.prod(shape)), *shape), zero_point, np.int8)
        probes.reshape(len(probes), -1)[np.diag_indices(len(probes))] += 1 if zero_point < 127 else -1
        source, output = network.tensors[network.input], network.tensors[network.output]
        response = golden.accumulate(operation, probes, source, output).reshape(len(probes), -1)
        response = response - golden.accumulate(
            operation, np.full((1, *shape), zero_point, np.int8), source, output
        ).reshape(-1)
        response *= 1 if zero_point < 127 else -1
        for place in np.random.default_rng(seed).integers(0, response.shape[1], 4):
            best = np.where(response[:, place] > 0, 127, -128).astype(np.int8).reshape(1, *shape)
            worst = np.where(response[:, place] > 0, -128, 127).astype(np.int8).reshape(1, *shape)
            assert golden.run(network, best).reshape(-1)[place] == bounds[1].reshape(-1)[place]
            assert golden.run(network, worst).reshape(-1)[place] == bounds[0].reshape(-1)[place]


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        ("ad01_int8", (264_192, 264_192), (264_192, 264_192)),
        ("kws_ref_model", (22_016, 2_656_768), (22_016, 2_656_768)),
        ("pretrainedResnet_quant", (77_360, 12_501_632), (77_360, 12_501_632)),
        ("str_ww_ref_model", (46_040, 826_368), (46_040, 826_368)),
        # Filters of zeros alone leave 29,286 weights; clamps that are never left take 220 more.
        ("vww_96_int8", (208_112, 7_489_664), (29_066, 3_727_313)),
    ],
)
def test_mlperf_tiny_networks(models_folder, model, before, after):
    network = load_tflite(models_folder / f"{model}.tflite")
    small = simplify(network).network
    assert (cost(network), cost(small)) == (before, after)
    x = difficult_inputs(network, 7, seed=1)
    values = golden.run(network, x)
    assert len(np.unique(values)) > 2
    np.testing.assert_array_equal(golden.run(small, x), values)


# Small networks, one rule each. x is (5, 6, 3); scales of 1/2 to 1 keep all values in range.


def scale(channels, multiplier=1 << 30, shift=1):
    return Requantisation(np.full(channels, multiplier, np.int32), np.full(channels, shift, np.int32))


class Build:
    """A network written down operation by operation; every tensor has scale 0.1 and the zero point given."""

    def __init__(self, *shape, zero_point=-128):
        self.tensors = {"x": Tensor("x", shape, 0.1, zero_point)}
        self.operations = []
        self.rng = np.random.default_rng(7)

    def add(self, operation, shape, zero_point=None):
        zero_point = self.tensors[operation.inputs[0]].zero_point if zero_point is None else zero_point
        self.tensors[operation.output] = Tensor(operation.output, shape, 0.1, zero_point)
        self.operations.append(operation)
        return self

    def conv(self, name, source, channels, size=1, padding=(0, 0, 0, 0), zero_point=-20, constant=None):
        """Weights -3 to 3 without 0; ``constant`` maps channels to the value that they hold."""
        height, width, depth = self.tensors[source].shape
        window = Window((size, size), (1, 1), padding)
        weights = self.rng.choice([-3, -2, -1, 1, 2, 3], (channels, size, size, depth)).astype(np.int8)
        bias = self.rng.integers(-50, 50, channels).astype(np.int32)
        for channel, value in (constant or {}).items():
            weights[channel], bias[channel] = 0, value - zero_point
        multiplier = np.full(channels, 1 << 30, np.int32)
        shift = np.array([1 if channel in (constant or {}) else -2 for channel in range(channels)], np.int32)
        conv = Conv2D(
            name, (source,), name, weights, bias, window, Requantisation(multiplier, shift), EVERYTHING
        )
        return self.add(conv, (*window.output_size(height, width), channels), zero_point)

    def depthwise(self, name, source, multiplier=1, size=1, padding=(0, 0, 0, 0), silent=()):
        height, width, depth = self.tensors[source].shape
        window, channels = Window((size, size), (1, 1), padding), depth * multiplier
        weights = self.rng.choice([-3, -2, -1, 1, 2, 3], (size, size, channels)).astype(np.int8)
        weights[..., list(silent)] = 0
        bias = self.rng.integers(-50, 50, channels).astype(np.int32)
        operation = DepthwiseConv2D(
            name, (source,), name, weights, bias, window, scale(channels, shift=0), EVERYTHING
        )
        return self.add(operation, (*window.output_size(height, width), channels))

    def dense(self, name, source, channels, unread=()):
        """``unread`` lists input columns of weight 0."""
        depth = int(np.prod(self.tensors[source].shape))
        weights = self.rng.choice([-3, -2, -1, 1, 2, 3], (channels, depth)).astype(np.int8)
        weights[:, list(unread)] = 0
        bias = self.rng.integers(-50, 50, channels).astype(np.int32)
        dense = Dense(name, (source,), name, weights, bias, scale(channels, shift=-4), EVERYTHING)
        return self.add(dense, (channels,), 0)

    def total(self, name, a, b):
        operation = Add(
            name, (a, b), name, Requantisation(*np.array([[1 << 30] * 3, [0, 0, -18]], np.int32)), EVERYTHING
        )
        return self.add(operation, self.tensors[a].shape)

    def network(self):
        network = Network(self.tensors, tuple(self.operations), "x", self.operations[-1].output)
        network.check()
        return network


ADD_TO_ITSELF = replace(Build(1, 1, 1).total("b", "x", "x").operations[0], inputs=("a", "a"))


def simplified(build):
    """The simplified network, and what it lost by operation; its outputs are checked."""
    network = build.network()
    result = simplify(network)
    x = difficult_inputs(network, 20, seed=3)
    y = golden.run(network, x)
    np.testing.assert_array_equal(golden.run(result.network, x), y)
    return result.network, {lost.name: lost for lost in result.dropped}


def channels(network):
    return {name: tensor.shape[-1] for name, tensor in network.tensors.items()}


def test_constant_moves_into_the_bias():
    build = Build(5, 6, 3).conv("a", "x", 4, constant={1: -40, 2: 100}).conv("b", "a", 5)
    reader = build.operations[1]
    small, lost = simplified(build)
    assert channels(small) == {"x": 3, "a": 2, "b": 5}
    expected = reader.bias + reader.weights[:, 0, 0, [1, 2]].astype(int) @ [-20, 120]
    np.testing.assert_array_equal(small.operations[1].bias, expected)
    np.testing.assert_array_equal(small.operations[1].weights, reader.weights[..., [0, 3]])
    assert lost == {
        "a": Dropped("a", "CONV_2D", 4, constant=2, unread=0, frozen=0, weights=6, macs=180),
        "b": Dropped("b", "CONV_2D", 5, constant=0, unread=0, frozen=0, weights=10, macs=300),
    }


def test_constant_next_to_padding_is_folded_only_if_it_is_the_zero_point():
    build = Build(5, 6, 3).conv("a", "x", 4, zero_point=-9, constant={1: -40, 2: -9})
    small, _ = simplified(build.conv("b", "a", 5, size=3, padding=PADDING))
    assert channels(small) == {"x": 3, "a": 3, "b": 5}
    np.testing.assert_array_equal(small.operations[0].weights.any(axis=(1, 2, 3)), [True, False, True])


@pytest.mark.parametrize(("padding", "left"), [((0, 0, 0, 0), 2), (PADDING, 3)])
def test_constant_through_a_depthwise_convolution(padding, left):
    """It stays constant without padding, or if it is the zero point."""
    build = Build(5, 6, 3).conv("a", "x", 4, zero_point=-9, constant={1: -40, 2: -9})
    small, _ = simplified(build.depthwise("b", "a", size=3, padding=padding).conv("c", "b", 2))
    assert channels(small) == {"x": 3, "a": left, "b": left, "c": 2}


def test_constant_through_a_padding_operation():
    build = Build(5, 6, 3).conv("a", "x", 4, zero_point=-9, constant={1: -40, 2: -9})
    build.add(Pad("b", ("a",), "b", PADDING), (7, 8, 4))
    small, _ = simplified(build.conv("c", "b", 2, size=3))
    assert channels(small) == {"x": 3, "a": 3, "b": 3, "c": 2}


@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (AveragePool2D("b", ("a",), "b", Window((2, 2), (1, 1), PADDING), EVERYTHING), (6, 7, 4)),
        (MaxPool2D("b", ("a",), "b", Window((2, 2), (1, 1), PADDING), (-30, 50)), (6, 7, 4)),
        (Mean("b", ("a",), "b", (0, 1), scale(1, shift=-4)), (1, 1, 4)),
        (Relu("b", ("a",), "b", scale(1), (-9, 127)), (5, 6, 4)),
        (ADD_TO_ITSELF, (5, 6, 4)),
        (Reshape("b", ("a",), "b"), (1, 30, 4)),
    ],
)
def test_constants_and_unread_channels_go_through(operation, shape):
    build = Build(5, 6, 3).conv("a", "x", 4, zero_point=-9, constant={1: -40}).add(operation, shape)
    build.conv("c", "b", 2)
    build.operations[-1].weights[..., 3] = 0
    small, lost = simplified(build)
    assert channels(small) == {"x": 3, "a": 2, "b": 2, "c": 2}
    assert (lost["b"].constant, lost["b"].unread) == (1, 1)
    assert (lost["a"].constant, lost["a"].unread) == (1, 1)


@pytest.mark.parametrize(("end", "left"), [(-100, 3), (127, 4)])
def test_clamp_that_is_never_left_makes_a_constant(end, left):
    """It takes what the input can be: the same filter over all of int8 is not constant."""
    build = Build(5, 6, 3).conv("a", "x", 2).conv("b", "a", 4).conv("c", "b", 2)
    first, second, third = build.operations
    # An eighth of the sums above -20: "a" takes -115 to -20, channel 1 of "b" -91 to -20 or to -80.
    first.weights[:], first.bias[:] = -1, 0
    second.weights[:], second.bias[:] = 2, 800
    second.weights[1], second.bias[1] = 3, 0
    build.operations = [replace(first, clamp=(-128, end)), replace(second, clamp=(-70, 127)), third]
    small, _ = simplified(build)
    assert channels(small) == {"x": 3, "a": 2, "b": left, "c": 2}


def test_addition_needs_both_operands():
    build = Build(5, 6, 3).conv("a", "x", 4, constant={0: 5, 1: 7}).conv("b", "x", 4, constant={1: 9, 2: 3})
    small, lost = simplified(build.total("s", "a", "b").conv("c", "s", 2))
    # Channel 1 is constant in both. Half constant ones stay, without weights.
    assert channels(small) == {"x": 3, "a": 3, "b": 3, "s": 3, "c": 2}
    assert (lost["a"].frozen, lost["b"].frozen) == (1, 1)


def test_channel_stays_for_all_tensors_around_an_addition_if_one_is_read():
    build = Build(5, 6, 3).conv("a", "x", 4).conv("b", "x", 4).total("s", "a", "b").conv("c", "s", 4)
    build.operations[-1].weights[..., :2] = 0
    build.conv("d", "a", 4).total("e", "c", "d")
    build.operations[-2].weights[..., 1:] = 0
    small, lost = simplified(build)
    # "d" reads channel 0 of "a" alone, "c" the last two of the sum: channel 1 goes.
    assert channels(small) == {"x": 3, "a": 3, "b": 3, "s": 3, "c": 4, "d": 4, "e": 4}
    # Channel 0 of "b" only fills the shape.
    assert (lost["b"].unread, lost["b"].frozen, lost["a"].frozen) == (1, 1, 0)


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_channel_that_only_fills_a_shape_reads_nothing(kind):
    build = Build(1, 1, 3)
    add = getattr(build, kind)
    for name, source in (("z", "x"), ("a", "x"), ("b", "z")):
        add(name, source, 2)
    # One channel of "b" for each of "z".
    build.operations[-1].weights[..., :] = np.eye(2).reshape(build.operations[-1].weights.shape)
    build.total("s", "a", "b")
    add("c", "s", 2)
    build.operations[-1].weights[..., 0] = 0
    add("d", "a", 2)
    small, lost = simplified(build.total("e", "c", "d"))
    assert channels(small) == {"x": 3, "z": 1, "a": 2, "b": 2, "s": 2, "c": 2, "d": 2, "e": 2}
    assert (lost["z"].unread, lost["b"].frozen) == (1, 1)


def test_depthwise_multiplier():
    """An input goes with all its outputs, not with some."""
    build = Build(5, 6, 3).conv("a", "x", 4).depthwise("b", "a", multiplier=2, size=3).conv("c", "b", 2)
    build.operations[-1].weights[..., [1, 4, 5]] = 0
    small, lost = simplified(build)
    assert channels(small) == {"x": 3, "a": 3, "b": 6, "c": 2}
    assert (lost["b"].unread, lost["b"].frozen) == (2, 1)


def test_silent_depthwise_filters_free_what_they_read():
    build = Build(5, 6, 3).conv("a", "x", 4).depthwise("b", "a", size=3, silent=[2]).conv("c", "b", 2)
    small, lost = simplified(build)
    assert channels(small) == {"x": 3, "a": 3, "b": 3, "c": 2}
    assert (lost["a"].constant, lost["a"].unread, lost["b"].constant) == (0, 1, 1)


def test_depthwise_convolution_of_one_channel_loses_any_output():
    build = Build(5, 6, 1).depthwise("a", "x", multiplier=4, size=3, silent=[0]).conv("b", "a", 2)
    build.operations[-1].weights[..., 2] = 0
    assert channels(simplified(build)[0]) == {"x": 1, "a": 2, "b": 2}


def test_flattened_channel_goes_if_no_position_of_it_is_read():
    unread = [*range(0, 120, 4), *range(1, 116, 4)]
    build = Build(5, 6, 3).conv("a", "x", 4, constant={2: 17}).dense("b", "a", 2, unread)
    small, _ = simplified(build)
    assert channels(small) == {"x": 3, "a": 2, "b": 2}
    assert small.operations[1].weights.shape == (2, 60)


@pytest.mark.parametrize(
    ("shape", "unread", "left"),
    [
        # rows of 6 hold 4 channels and then 2: even ones share their elements, and odd ones
        ((2, 2, 6), [1, 3, 5], (2, 3)),
        ((2, 2, 6), [1, 3], (4, 6)),
        ((3, 4, 2), [1], (2, 1)),
        ((3, 1, 8), [1, 5], (3, 6)),
        ((3, 1, 8), [1, 4], (4, 8)),
        ((24,), [*range(2, 24, 4), 0], (3, 18)),
    ],
)
def test_reshape_drops_the_same_elements_on_both_sides(shape, unread, left):
    build = Build(2, 3, 3).conv("a", "x", 4).add(Reshape("b", ("a",), "b"), shape)
    build = build.dense("c", "b", 2, unread) if len(shape) == 1 else build.conv("c", "b", 2)
    build.operations[-1].weights[..., unread] = 0
    small, _ = simplified(build)
    assert (channels(small)["a"], channels(small)["b"]) == left


def test_output_keeps_its_constants_without_weights():
    build = Build(5, 6, 3).conv("a", "x", 4).conv("b", "a", 3, zero_point=-9, constant={1: 33})
    silent = replace(build.operations[1], bias=np.array([0, 1 << 27, 0], np.int32))
    silent.weights[1] = 1
    build.operations[1] = silent
    small, lost = simplified(build)
    assert channels(small) == {"x": 3, "a": 4, "b": 3}
    assert not small.operations[1].weights[1].any()
    # 127 less the zero point, in place of a bias that no machine holds
    assert small.operations[1].bias[1] == 136
    assert lost == {"b": Dropped("b", "CONV_2D", 3, constant=0, unread=0, frozen=1, weights=0, macs=0)}


def test_constant_output_leaves_one_channel_everywhere():
    build = Build(5, 6, 3).conv("a", "x", 4).depthwise("b", "a", size=3).conv("c", "b", 4).dense("d", "c", 3)
    build.operations[-1].weights[:] = 0
    small, lost = simplified(build)
    assert channels(small) == {"x": 3, "a": 1, "b": 1, "c": 1, "d": 3}
    assert not any(operation.weights.any() for operation in small.operations)
    assert (lost["a"].unread, lost["a"].frozen, lost["d"].frozen) == (3, 1, 3)


def test_operations_that_nothing_reads_are_removed():
    build = Build(5, 6, 3).conv("a", "x", 4).conv("b", "a", 4).conv("c", "b", 4).conv("d", "a", 2)
    small, lost = simplified(build)
    assert [operation.name for operation in small.operations] == ["a", "d"]
    assert set(small.tensors) == {"x", "a", "d"}
    assert lost["c"] == Dropped("c", "CONV_2D", 4, constant=0, unread=4, frozen=0, weights=16, macs=480)
    assert set(lost) == {"b", "c"}


def test_network_input_keeps_its_channels():
    build = Build(5, 6, 4).depthwise("a", "x", size=3, silent=[1]).conv("b", "a", 2)
    build.operations[-1].weights[..., 2] = 0
    small, lost = simplified(build)
    assert channels(small) == {"x": 4, "a": 4, "b": 2}
    assert lost["a"].frozen == 2


def test_softmax_reads_everything():
    build = Build(5, 6, 3).conv("a", "x", 4, constant={1: 4})
    build.add(Softmax("b", ("a",), "b", 1.0), (5, 6, 4))
    build.tensors["b"] = Tensor("b", (5, 6, 4), 1 / 256, -128)
    build.conv("c", "b", 2)
    build.operations[-1].weights[..., 2] = 0
    small, _ = simplified(build)
    assert channels(small) == {"x": 3, "a": 4, "b": 4, "c": 2}


def test_network_without_operations_that_can_be_simplified(chain):
    network = chain(5).softmax().network()
    assert simplify(network).network == network
    assert simplify(network).dropped == ()


def test_image_tells_what_was_dropped(infer):
    build = Build(5, 6, 3).conv("a", "x", 4, constant={1: -40}).conv("b", "a", 5)
    build.operations[-1].weights[..., 3] = 0
    network = build.network()
    image = from_bytes(to_bytes(compile(network, configuration("up5k"))))
    assert image.dropped == simplify(network).dropped
    report = image.report()
    assert (report["weights"], report["live_weights"]) == (12 + 20, 6 + 10)
    assert (report["macs"], report["live_macs"]) == (30 * 32, 30 * 16)
    header, first, second, legend = (line.split() for line in format_dropped(report).splitlines())
    assert " ".join(header) == "dropped from operator channels constant unread frozen weights MACs"
    assert first == ["a", "CONV_2D", "4", "1", "1", "0", "6", "180"]
    assert second == ["b", "CONV_2D", "5", "0", "0", "0", "10", "300"]
    assert legend[0] == "constant:"
    x = difficult_inputs(network, 2, seed=1)
    assert (infer(image, x) == golden.run(network, x)).all()
