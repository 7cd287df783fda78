"""Channels in another order: the same outputs, and programs that are shorter."""

import numpy as np
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import from_bytes, to_bytes
from kolmogate.network import Add, Conv2D
from kolmogate.random_network import KINDS, random_network
from kolmogate.report import format_reordered
from kolmogate.simplify import simplify
from kolmogate.simplify.reorder import reorder
from kolmogate.tflite_import import load_tflite

UP5K = configuration("up5k")


def scales(operation):
    scale = operation.requantisation
    return scale.shift + np.log2(np.maximum(scale.multiplier, 1))


def test_random_networks_keep_every_output_bit():
    moved_kinds = set()
    for seed in range(150):
        network = random_network(seed, KINDS, 3 + seed % 6)
        ordered, moved = reorder(network)
        ordered.check()
        x = np.random.default_rng(seed).integers(-128, 128, (6, *network.tensors[network.input].shape))
        x = x.astype(np.int8)
        np.testing.assert_array_equal(golden.run(ordered, x), golden.run(network, x), f"seed {seed}")
        moved_kinds |= {one.kind for one in network.operations if one.name in moved}
        assert reorder(ordered)[1] == ()
    assert moved_kinds >= {"CONV_2D", "DEPTHWISE_CONV_2D"}


def test_chains_are_in_the_order_of_their_last_layer(chain):
    network = chain(9, 8, 3).conv(8).depthwise().conv(5).dense(7).dense(3).network()
    ordered, moved = reorder(network)
    first, depthwise, second, dense, last = ordered.operations
    assert moved == tuple(one.name for one in (first, depthwise, second, dense))
    assert all((np.diff(scales(one)) >= 0).all() for one in (depthwise, second, dense))
    before = np.argsort(scales(network.operations[1]), kind="stable")
    np.testing.assert_array_equal(first.bias, network.operations[0].bias[before])
    # Nothing could absorb another order of the network's outputs.
    np.testing.assert_array_equal(last.bias, network.operations[-1].bias)


def test_channels_of_an_addition_stay_together():
    seen = 0
    for seed in range(40):
        network = random_network(seed, (Conv2D, Add), 6)
        ordered, moved = reorder(network)
        sums = [one for one in network.operations if isinstance(one, Add)]
        seen += any(one.name in moved for one in network.operations) and bool(sums)
        x = np.random.default_rng(seed).integers(-128, 128, (4, *network.tensors["input"].shape))
        x = x.astype(np.int8)
        np.testing.assert_array_equal(golden.run(ordered, x), golden.run(network, x))
    assert seen > 5


def test_smallest_image_says_what_was_reordered(models_folder, infer):
    network = load_tflite(models_folder / "kws_ref_model.tflite")
    image = from_bytes(to_bytes(compile(network, UP5K, objective="smallest")))
    _, moved = reorder(simplify(network).network)
    assert image.reordered == moved
    assert image.report()["reordered"] == list(moved)
    assert format_reordered(image.report()).startswith("channels in ascending order of their scales: ")
    x = np.random.default_rng(3).integers(-128, 128, (2, *network.tensors[network.input].shape))
    x = x.astype(np.int8)
    np.testing.assert_array_equal(golden.run(image.network(), x), golden.run(network, x))
    np.testing.assert_array_equal(infer(image, x), golden.run(network, x))


def test_a_budget_of_bytes_is_met_by_another_order(chain):
    network = chain(4, 4, 3).conv(48, size=(1, 1)).conv(48, size=(1, 1)).conv(5, size=(1, 1)).network()
    smallest = compile(network, UP5K, objective="smallest")
    assert smallest.reordered
    image = compile(network, UP5K, max_bytes=smallest.device_bytes + 2 * UP5K.columns)
    assert image.device_bytes <= smallest.device_bytes + 2 * UP5K.columns
    assert image.reordered == smallest.reordered
    assert compile(network, UP5K, max_bytes=image.device_bytes + 2000).reordered == ()


def test_other_objectives_keep_the_order(chain):
    network = chain(9, 8, 3).conv(8).conv(5).network()
    assert compile(network, UP5K).reordered == ()
