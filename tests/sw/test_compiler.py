"""What is compiled computes what the golden model computes, on every configuration."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import CONFIGURATIONS, configuration
from kolmogate.errors import InputError
from kolmogate.isa import P0, Opcode
from kolmogate.network import (
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Pad,
    Requantisation,
    Reshape,
    Softmax,
)
from kolmogate.programs.reader import decode
from kolmogate.random_network import random_network
from kolmogate.tflite_import import load_tflite

TARGETS = list(CONFIGURATIONS)
DEVICE_KINDS = (Conv2D, DepthwiseConv2D, Dense, AveragePool2D, Pad, Reshape, Softmax)


@pytest.mark.parametrize("target", TARGETS)
def test_every_operator_equals_golden(target, chain, inputs, infer):
    network = (
        chain(13, 9, 2)
        .conv(10, size=(4, 3), stride=(2, 1), padding=(1, 1, 0, 2))
        .depthwise(padding=(1, 1, 1, 1))
        .conv(24, size=(1, 1))
        .pad(0, 1, 1, 0)
        .depthwise(size=(3, 2), stride=(1, 2))
        .conv(40, size=(2, 2))
        .pool((2, 2), stride=(1, 1))
        .conv(12, padding=(1, 1, 1, 1))
        .pool((3, 2))
        .reshape(12)
        .dense(9)
        .dense(33)
        .network()
    )
    x = inputs(network, 6)
    y = golden.run(network, x)
    assert len(np.unique(y)) > 20
    assert (infer(compile(network, configuration(target)), x) == y).all()


@pytest.mark.parametrize("target", ["up5k", "ecp5-85f"])
@pytest.mark.parametrize("objective", ["fastest", "smallest"])
def test_random_networks_equal_golden(target, objective, inputs, infer):
    """Those that the machine cannot run are refused by name; enough of them run."""
    equal, refusals = 0, []
    for seed in range(80):
        network = random_network(seed, DEVICE_KINDS, 4)
        x = inputs(network, 3)
        try:
            y = infer(compile(network, configuration(target), objective=objective), x)
        except InputError as error:
            refusals.append(str(error))
            continue
        assert (y == golden.run(network, x)).all(), f"seed {seed}"
        equal += 1
    assert equal > 30
    assert all("on this target yet: " in text or "drop the last operation" in text for text in refusals)


@pytest.mark.parametrize(
    ("channels", "stride", "fold"), [(8, 1, 4), (8, 2, 4), (16, 1, 2), (40, 1, 4), (12, 1, 2)]
)
def test_depthwise_layers_take_neighbouring_positions(channels, stride, fold, chain, inputs, infer):
    """As many as there is room for: pixels of 12 channels have that of 16."""
    layers = (
        chain(9, 24, 3)
        .conv(channels, size=(1, 1))
        .depthwise(stride=(1, stride), padding=(1, 0, 1, stride % 2))
    )
    network = layers.conv(5, size=(1, 1)).network()
    image = compile(network, configuration("ecp5-85f"))
    assert image.layers[1].fold == fold
    assert (image.network().operations[1].weights == network.operations[1].weights).all()
    x = inputs(network, 3)
    assert (infer(image, x) == golden.run(network, x)).all()


@pytest.mark.parametrize(
    ("shape", "stride", "down"),
    [((25, 5, 64), (1, 1), True), ((5, 25, 64), (1, 1), False), ((8, 8, 16), (1, 3), True)],
)
def test_depthwise_layers_are_walked_along_the_better_axis(shape, stride, down, chain, inputs, infer):
    """Kernels with them; the image gives back the weights as they were."""
    size = (3, 2) if shape[2] == 64 else (3, 3)
    network = chain(*shape).depthwise(size, stride, (1, 1, 1, 1)).conv(4, (1, 1)).network()
    image = compile(network, configuration("ecp5-85f"))
    assert image.layers[0].down == down
    x = inputs(network, 3)
    assert (infer(image, x) == golden.run(network, x)).all()
    assert (golden.run(image.network(), x) == golden.run(network, x)).all()


@pytest.mark.parametrize("target", TARGETS)
def test_keyword_network_equals_golden(target, models_folder, inputs, infer):
    network = load_tflite(models_folder / "kws_ref_model.tflite")
    x = inputs(network, 4)
    assert (infer(compile(network, configuration(target)), x) == golden.run(network, x)).all()


@pytest.mark.parametrize("model", ["str_ww_ref_model", "ad01_int8", "vww_96_int8"])
def test_larger_networks_equal_golden(model, models_folder, inputs, infer):
    network = load_tflite(models_folder / f"{model}.tflite")
    x = inputs(network, 3)
    assert (infer(compile(network, configuration("ecp5-85f")), x) == golden.run(network, x)).all()


def test_machine_without_additions_refuses_them_by_name(models_folder):
    network = load_tflite(models_folder / "pretrainedResnet_quant.tflite")
    with pytest.raises(InputError, match=r"^ADD .* cannot be run exactly on this target"):
        compile(network, dataclasses.replace(configuration("up5k"), residual_adder=False))


def test_keyword_image_reports_what_it_holds(models_folder):
    report = compile(load_tflite(models_folder / "kws_ref_model.tflite"), configuration("up5k")).report()
    assert (report["weights"], report["macs"]) == (22_016, 2_656_768)
    assert report["device_bytes"] == sum(report["sections"].values())
    assert report["device_bytes"] < 29_000
    assert len(report["layers"]) == 11
    assert report["layers"][-1]["instructions"]["LITERAL"] > 0
    assert json.loads(json.dumps(report)) == report


def test_image_too_large_says_how_many_bytes_are_missing(chain):
    network = chain(64, 64, 3).conv(32, padding=(1, 1, 1, 1)).network("big")
    with pytest.raises(InputError) as caught:
        compile(network, configuration("up5k"))
    message = str(caught.value)
    missing = int(message.split(" bytes are missing")[0].split()[-1])
    assert message.startswith("network 'big' does not fit 'up5k'")
    larger = dataclasses.replace(configuration("up5k"), scratchpad_bytes=(128 << 10) + missing)
    assert compile(network, larger).device_bytes > 0
    smaller = dataclasses.replace(larger, scratchpad_bytes=larger.scratchpad_bytes - 8)
    with pytest.raises(InputError, match=" 8 bytes are missing"):
        compile(network, smaller)


@pytest.mark.parametrize("target", TARGETS)
def test_sections_fill_the_top_of_the_scratchpad(target, chain):
    config = configuration(target)
    image = compile(chain(6, 6, 3).conv(20, padding=(1, 1, 1, 1)).depthwise().network(), config)
    sections = list(image.sections.values())
    assert sections[-1].address + len(sections[-1].data) == config.scratchpad_bytes
    for section, following in itertools.pairwise(sections):
        assert section.address % config.columns == 0
        assert section.address + len(section.data) == following.address


def test_borders_are_filled_just_before_their_tensor_is_made(chain):
    network = chain(6, 6, 3).conv(8).depthwise(padding=(1, 1, 1, 1)).network()
    image = compile(network, configuration("up5k"))
    opcodes = [fields["opcode"] for fields in image.descriptors()]
    assert opcodes == [Opcode.FILL, Opcode.FILL, Opcode.ARRAY, Opcode.ARRAY, Opcode.END]
    # With one scratchpad port the region is empty when its border is filled.
    short = compile(network, configuration("up5k"), objective="smallest").descriptors()
    assert [fields["opcode"] for fields in short] == [Opcode.FILL, Opcode.ARRAY, Opcode.ARRAY, Opcode.END]
    # the border holds the zero point of the tensor it surrounds
    assert image.descriptors()[0]["zero_point"] == network.tensors["conv_2d_0"].zero_point


def test_with_two_ports_borders_are_filled_beside_the_layer_that_makes_their_tensor(chain):
    network = chain(6, 6, 3).conv(8).depthwise(padding=(1, 1, 1, 1)).network()
    opcodes = [fields["opcode"] for fields in compile(network, configuration("ecp5-25f")).descriptors()]
    assert opcodes == [Opcode.ARRAY, Opcode.FILL, Opcode.FILL, Opcode.ARRAY, Opcode.END]


@pytest.mark.parametrize(("size", "overlaps"), [(6, [0, 1, 1]), (2, [0, 0, 0])])
def test_a_layer_overlaps_if_its_first_tile_needs_nothing_of_the_last(chain, size, overlaps):
    """A map of 2x2 is a single tile."""
    layers = chain(size, size, 3).conv(8, (1, 1)).depthwise(padding=(1, 1, 1, 1)).conv(8, (1, 1))
    network = layers.network()
    arrays = [
        fields
        for fields in compile(network, configuration("ecp5-25f")).descriptors()
        if fields["opcode"] == Opcode.ARRAY
    ]
    assert [fields["overlaps"] for fields in arrays] == overlaps
    alone = compile(network, configuration("up5k")).descriptors()
    assert not any(fields.get("overlaps") for fields in alone)


def test_program_makes_the_weights_in_order(chain):
    network = chain(6, 6, 3).conv(10, size=(2, 1)).network()
    image = compile(network, configuration("up5k"))
    rows = decode(image.program(), 8)[0]
    weights = network.operations[0].weights.reshape(10, 6)
    assert (rows[:6] == weights[:8].T).all()
    assert (rows[6:, :2] == weights[8:].T).all()
    assert not rows[6:, 2:].any()
    (layer,) = image.layers
    assert layer.weights == 60
    assert layer.instructions[P0.LITERAL.name] >= 1
    assert layer.bytes <= len(image.sections["code"].data) + len(image.sections["literals"].data)


def test_network_without_weights(chain, inputs, infer):
    network = chain(6, 6, 3).pool((2, 3)).pool((3, 2)).network()
    image = compile(network, configuration("up5k"))
    assert sum(len(block) for block in decode(image.program(), 8)[1]) == 6
    assert image.layers[0].bits_per_weight == 0
    x = inputs(network, 4)
    assert (infer(image, x) == golden.run(network, x)).all()


def test_network_without_layers(chain, inputs, infer):
    network = chain(10).softmax().network()
    x = inputs(network, 4)
    assert (infer(compile(network, configuration("up5k")), x) == golden.run(network, x)).all()


def test_compiling_twice_gives_the_same_image(chain):
    network = chain(6, 6, 3).conv(20, padding=(1, 1, 1, 1)).depthwise().network()
    assert compile(network, configuration("up5k")) == compile(network, configuration("up5k"))


def test_output_outlives_layers_that_nothing_reads(chain, inputs, infer):
    """Operations may follow the one that makes the output; their outputs must not take its place."""
    builder = chain(6, 6, 3).conv(8)
    output = builder.current
    network = dataclasses.replace(builder.conv(8).conv(8, size=(1, 1)).network(), output=output)
    x = inputs(network, 2)
    assert (infer(compile(network, configuration("up5k")), x) == golden.run(network, x)).all()


@pytest.mark.parametrize("objective", ["fastest", "smallest"])
def test_filters_deeper_than_the_column_buffer_are_made_for_each_tile(chain, inputs, infer, objective):
    network = chain(5, 5, 16).conv(12, padding=(1, 1, 1, 1)).conv(9, size=(2, 2)).network()
    config = dataclasses.replace(configuration("up5k"), column_buffer_depth=32)
    image = compile(network, config, objective=objective)
    assert [layer.replays for layer in image.layers] == [13, 8]
    assert len(image.sections["literals"].data) < 2 * (144 * 12 + 48 * 16)
    x = inputs(network, 3)
    expected = golden.run(network, x)
    assert (infer(image, x) == expected).all()
    assert (golden.run(image.network(), x) == expected).all()


def test_where_literals_do_not_fit_as_little_is_coded_as_needed(chain):
    builder = chain(8, 8, 16)
    rng = np.random.default_rng(0)
    for _ in range(4):
        # One weight in ten is not 0: literals take 4 bits for each.
        weights = (rng.integers(-8, 8, (16, 3, 3, 16)) * (rng.random((16, 3, 3, 16)) < 0.1)).astype(np.int8)
        scale = Requantisation(np.full(16, 1 << 30, np.int32), np.full(16, -4, np.int32))
        builder.conv(16, padding=(1, 1, 1, 1), weights=weights, requantisation=scale)
    network = builder.network()
    config = configuration("up5k")
    fastest, smallest = (
        compile(network, config, objective=objective) for objective in ("fastest", "smallest")
    )
    saved = fastest.device_bytes - smallest.device_bytes
    assert saved > 1000
    # Literals exceed the scratchpad by three quarters of what coding saves.
    size = next(
        size
        for size in range(1 << 10, 128 << 10, 256)
        if fits(network, size + 3 * saved // 4, config, "fastest")
    )
    image = compile(network, dataclasses.replace(config, scratchpad_bytes=size))
    assert 0 < len(image.sections["coded"].data) < len(smallest.sections["coded"].data)


def fits(network, size, config, objective) -> bool:
    smaller = dataclasses.replace(config, scratchpad_bytes=size // 8 * 8)
    try:
        image = compile(network, smaller, objective=objective)
    except InputError:
        return False
    return not (image.streamed or image.sections["coded"].data)
