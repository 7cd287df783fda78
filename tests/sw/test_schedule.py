"""Layers, layouts and addresses that the compiler makes of a network."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from kolmogate.allocate import Region, allocate
from kolmogate.config import configuration
from kolmogate.errors import InputError
from kolmogate.isa import window_taps
from kolmogate.layout import Layout
from kolmogate.lower import lower
from kolmogate.network import Add, Mean, Pad, Requantisation, Softmax
from kolmogate.parameters import average_constants
from kolmogate.schedule import schedule
from kolmogate.simplify import simplify

UP5K = configuration("up5k")
WIDE = configuration("ecp5-85f")
SCALES = Requantisation(np.full(3, 1 << 30, np.int32), np.zeros(3, np.int32))


@pytest.mark.parametrize("seed", range(20))
def test_border_fills_exactly_what_is_no_pixel(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 9, 2))
    padding = tuple(int(n) for n in rng.integers(0, 4, 4))
    layout = Layout(height, width, 5, padding, int(rng.choice([5, 8, 32])), 9)
    written = np.zeros(layout.size, int)
    for fill in layout.border():
        for line in range(fill.lines):
            start = fill.offset + line * fill.step
            assert start >= 0
            assert start + fill.run <= layout.size
            written[start : start + fill.run] += 1
    for y, x in np.ndindex(height, width):
        start = layout.origin + y * layout.row_pitch + x * layout.pixel_pitch
        written[start : start + layout.pixel_pitch] += 1
    assert (written == 1).all()


def test_equal_borders_take_two_fills():
    assert len(Layout(25, 5, 64, (1, 1, 1, 1), 64, 0).border()) == 2
    assert Layout(25, 5, 64, (0, 0, 0, 0), 64, 0).border() == []


def test_a_whole_region_takes_one_fill():
    layout = Layout(25, 5, 64, (1, 1, 1, 1), 64, 0)
    assert layout.whole() == [(0, layout.size, 1, 0)]
    long = Layout(100, 5, 64, (1, 1, 1, 1), 64, 0)
    assert long.whole() == long.border()


def test_long_border_is_cut_to_what_a_descriptor_holds():
    fills = Layout(4, 4000, 8, (2, 2, 0, 0), 8, 0).border()
    assert max(fill.run for fill in fills) < 1 << 14
    assert sum(fill.run * fill.lines for fill in fills) == 4 * 4000 * 8


def test_layout_packs_and_unpacks(chain):
    layout = Layout(3, 4, 5, (1, 0, 2, 1), 8, -9)
    x = np.arange(60, dtype=np.int8).reshape(3, 4, 5)
    region = layout.pack(x)
    assert len(region) == layout.size
    assert (layout.unpack(region) == x).all()
    assert np.frombuffer(region, np.int8)[: layout.origin].tolist() == [-9] * layout.origin
    with pytest.raises(InputError, match="expected 60 int8 numbers, got 59"):
        layout.pack(x.ravel()[1:])
    with pytest.raises(InputError, match="of type int32"):
        layout.pack(x.astype(np.int32))
    with pytest.raises(InputError, match="expected a region of"):
        layout.unpack(region[1:])


@pytest.mark.parametrize("seed", range(30))
def test_regions_that_live_together_never_overlap(seed):
    rng = np.random.default_rng(seed)
    regions = []
    for index in range(12):
        first = int(rng.integers(0, 10))
        size = int(rng.integers(1, 1000))
        regions.append(Region(str(index), size, first, first + int(rng.integers(0, 4))))
    addresses = allocate(regions, 8)
    assert all(address % 8 == 0 and address >= 0 for address in addresses.values())
    for a, b in itertools.combinations(regions, 2):
        if a.first <= b.last and b.first <= a.last:
            start, other = addresses[a.name], addresses[b.name]
            assert start + a.size <= other or other + b.size <= start


def test_chain_alternates_between_two_addresses():
    addresses = allocate([Region(str(step), 64, step, step + 1) for step in range(6)], 8)
    assert set(addresses.values()) == {0, 64}


def test_dense_input_is_read_a_kernel_row_at_a_time(chain):
    (layer,) = schedule(chain(8, 6, 3).conv(4, padding=(1, 1, 1, 1)).network(), UP5K).layers
    fields = layer.fields
    assert (fields["outer_count"], fields["inner_count"], fields["run"], window_taps(fields)) == (3, 1, 9, 27)
    assert fields["outer_wrap"] == (6 + 1) * 3
    assert (fields["x_count"], fields["y_count"], fields["channels"]) == (6, 8, 4)
    assert (fields["word_mode"], fields["stream_weights"], fields["single_rounding"]) == (0, 0, 0)
    assert layer.positions == 48


def test_steps_lead_from_one_position_to_the_next(chain):
    (layer,) = schedule(chain(2, 9, 2).conv(4, size=(1, 3), stride=(1, 2)).network(), UP5K).layers
    assert (layer.fields["input_step"], layer.fields["input_wrap"]) == (4, 18 - 3 * 4)
    assert (layer.fields["output_step"], layer.fields["output_wrap"]) == (8, 8)
    (layer,) = schedule(chain(1, 9, 200).conv(4, size=(1, 9)).network(), UP5K).layers
    assert all(layer.fields[f"{end}_{name}"] == 0 for end in ("input", "output") for name in ("step", "wrap"))


def test_depthwise_reads_words(chain):
    plan = schedule(chain(5, 5, 3).conv(12).depthwise(padding=(1, 1, 1, 1)).network(), UP5K)
    fields = plan.layers[1].fields
    assert plan.layouts["conv_2d_0"].pixel_pitch == 16
    assert (fields["word_mode"], fields["run"], window_taps(fields)) == (1, 8, 9)
    assert plan.layers[1].parameters.rows.shape == (2, 9, 8)
    assert not plan.layers[1].parameters.rows[1, :, 4:].any()


def test_depthwise_of_one_channel_is_a_convolution(chain):
    (layer,) = schedule(chain(6, 6, 1).depthwise(multiplier=8).network(), UP5K).layers
    assert (layer.fields["word_mode"], layer.fields["channels"], window_taps(layer.fields)) == (0, 8, 9)


def test_borders_reach_no_further_than_the_windows(chain):
    """A stride may leave the last padding unread."""
    plan = schedule(chain(5, 5, 8).conv(8, stride=(2, 2), padding=(1, 2, 1, 2)).network(), UP5K)
    assert plan.layouts["input"].padding == (1, 1, 1, 1)


def test_padding_and_reshapes_become_views(chain):
    network = chain(6, 6, 3).pad(1, 0, 2, 1).conv(8, padding=(1, 1, 1, 1)).reshape(504).dense(4).network()
    plan = schedule(network, UP5K)
    assert [layer.op for layer in plan.layers] == ["CONV_2D", "FULLY_CONNECTED"]
    assert plan.layouts["input"].padding == (2, 1, 3, 2)
    assert window_taps(plan.layers[1].fields) == 504
    assert plan.layers[1].fields["run"] == 504
    assert plan.layers[1].fields["stream_weights"] == 1


def test_dense_over_a_bordered_image_is_a_window(chain):
    builder = chain(4, 4, 3).conv(12, size=(1, 1))
    conv = builder.operations[0].output
    network = builder.dense(5).network()
    plan = schedule(network, UP5K)
    fields = plan.layers[1].fields
    assert plan.layouts[conv].pixel_pitch == 16
    assert (fields["outer_count"], fields["inner_count"], fields["run"]) == (4, 4, 12)


@pytest.mark.parametrize(("zero_point", "left"), [(-7, 121), (-128, 0)])
def test_what_the_array_leaves_of_the_zero_point_is_folded_into_the_bias(chain, zero_point, left):
    network = chain(4, 4, 3, zero_point=zero_point).conv(4).network()
    operation = network.operations[0]
    (layer,) = schedule(network, UP5K).layers
    sums = operation.weights.astype(int).sum(axis=(1, 2, 3))
    assert (layer.parameters.bias == operation.bias - left * sums).all()


def test_channel_that_never_changes_takes_no_weights(chain):
    """Networks from practice have such channels with biases that fit no accumulator."""
    builder = chain(4, 4, 3).conv(3)
    conv = builder.operations[0]
    conv.bias[1] = 1 << 30
    conv.weights[1] = conv.weights[1] // 2
    conv.requantisation.multiplier[1], conv.requantisation.shift[1] = 1 << 30, -24
    rows = schedule(simplify(builder.network()).network, UP5K).layers[0].parameters
    assert not rows.rows[0, :, 1].any()
    assert rows.rows[0, :, 0].any()
    assert (rows.bias[1], rows.multiplier[1] >> rows.shift[1]) == (32, 1)


def test_softmax_stays_on_the_host(chain):
    plan = schedule(chain(4, 4, 3).dense(10).reshape(1, 10).softmax().reshape(10).network(), UP5K)
    assert [operation.kind for operation in plan.tail.operations] == ["RESHAPE", "SOFTMAX", "RESHAPE"]
    assert plan.output == plan.tail.input == "fully_connected_0"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9, 25, 64, 125, 1000])
def test_average_rounds_half_away_from_zero(count):
    multiplier, shift = average_constants(count)
    rng = np.random.default_rng(count)
    ties = [(2 * k + 1) * count // 2 for k in range(-128, 127) if count % 2 == 0]
    ends = [-128 * count, 127 * count, -1, 0, 1]
    for total in ties + ends + rng.integers(-128 * count, 127 * count + 1, 500).tolist():
        exact = Fraction(total, count)
        rounded = int(abs(exact) + Fraction(1, 2)) * (1 if total >= 0 else -1)
        assert (total * multiplier + (1 << shift - 1)) >> shift == rounded


def refused(network, config=UP5K):
    with pytest.raises(InputError) as caught:
        schedule(network, config)
    return str(caught.value)


def test_operators_without_hardware_are_refused_by_name(chain):
    softmax = chain(4, 4, 3).softmax().dense(2).network()
    assert refused(softmax).startswith("SOFTMAX 'softmax_0' cannot be run exactly")
    tall = chain(1023, 1023, 1).append(
        Mean("", (), "", axes=(0, 1), requantisation=Requantisation(SCALES.multiplier[:1], SCALES.shift[:1])),
        (1,),
    )
    assert "the sum of 1046529 values can leave an accumulator of 26 bits" in refused(tall.network())


def test_forms_without_hardware_are_refused(chain):
    reshaped = chain(4, 4, 3).dense(16).reshape(4, 4, 1).conv(2).network()
    assert "in another shape" in refused(reshaped)
    axes = chain(4, 4, 4).reshape(2, 2, 4, 4).dense(2).network()
    assert "at most 3" in refused(axes)


def test_sums_whose_scales_are_too_far_apart_are_refused(chain):
    far = Requantisation(np.full(3, 1 << 30, np.int32), np.array([0, 0, -15], np.int32))
    builder = chain(4, 4, 3).append(Add("", (), "", requantisation=far, clamp=(-128, 127)), (4, 4, 3))
    builder.operations[0] = dataclasses.replace(builder.operations[0], inputs=("input", "input"))
    message = refused(builder.network())
    assert message.startswith("ADD 'add_0' cannot be run exactly: no two scales")


def test_additions_go_with_the_operand_that_has_more_taps(chain):
    builder = chain(6, 6, 8).conv(8, padding=(1, 1, 1, 1))
    branch = builder.current
    builder.conv(8, size=(3, 3), padding=(1, 1, 1, 1))
    long = builder.current
    builder.current = branch
    builder.conv(8, size=(1, 1))
    add = Add(
        "",
        (),
        "",
        requantisation=Requantisation(SCALES.multiplier, np.array([0, 0, -18], np.int32)),
        clamp=(-128, 127),
    )
    builder.append(add, (6, 6, 8))
    builder.operations[-1] = dataclasses.replace(
        builder.operations[-1], inputs=(long, builder.operations[-2].output)
    )
    network = lower(builder.network())
    assert [operation.name for operation in network.operations][-2:] == [long, "add_3"]
    layers = schedule(network, UP5K).layers
    assert (layers[-1].made, layers[-1].output, layers[-1].operand) == (long, "add_3", "conv_2d_2")
    # The sum replaces its operand.
    assert schedule(network, UP5K).places["add_3"] == "conv_2d_2"


def test_filters_deeper_than_a_column_are_made_again_for_each_tile(chain):
    (layer,) = schedule(chain(4, 5, 1025).conv(8, size=(1, 1)).network(), UP5K).layers
    assert (layer.fields["stream_weights"], layer.replays) == (1, 10)
    (layer,) = schedule(chain(4, 5, 1024).conv(8, size=(1, 1)).network(), UP5K).layers
    assert (layer.fields["stream_weights"], layer.replays) == (0, 1)
    (layer,) = schedule(chain(3, 3, 128).conv(8).network(), UP5K).layers
    assert (layer.fields["stream_weights"], layer.replays) == (1, 1)
    light = np.ones((1, 1, 1, 7169), np.int8)
    network = chain(1, 3, 7169).conv(1, size=(1, 1), weights=light).network()
    assert "7169 taps, programs can make 7168" in refused(network)


def test_numbers_beyond_the_machine_are_refused(chain):
    heavy = np.full((1, 2200), -128, np.int8)
    builder = chain(2200).dense(1, weights=heavy)
    assert "beyond an accumulator of 26 bits" in refused(builder.network())
    builder = chain(4, 4, 3).conv(3)
    builder.operations[0].bias[0] = 1 << 26
    builder.operations[0].requantisation.shift[0] = -19
    assert "its bias reaches" in refused(builder.network())
    assert "x_count must be in [0, 4096)" in refused(chain(1, 5000, 1).conv(1, size=(1, 1)).network())
    far = chain(1, 4, 1024).conv(1, size=(1, 1), stride=(1, 2)).network()
    assert "input_step must be in [-2048, 2048), not 2048; `--on golden` runs" in refused(far)


def test_unused_views_are_no_layers(chain):
    builder = chain(4, 4, 3).conv(4)
    pad = Pad("unused", ("input",), "unused", padding=(1, 1, 1, 1))
    builder.tensors["unused"] = dataclasses.replace(builder.tensors["input"], name="unused", shape=(6, 6, 3))
    builder.operations.insert(0, pad)
    assert schedule(builder.network(), UP5K).layouts["input"].padding == (0, 0, 0, 0)


def test_network_of_host_operations_has_no_layers(chain):
    plan = schedule(chain(10).softmax().network(), UP5K)
    assert plan.layers == ()
    assert isinstance(plan.tail.operations[0], Softmax)


def test_border_serves_every_reader(chain):
    builder = chain(6, 6, 3).conv(4, padding=(2, 0, 1, 0))
    first = builder.current
    builder.current = "input"
    builder.conv(4, padding=(0, 1, 0, 2))
    network = dataclasses.replace(builder.network(), output=first)
    assert schedule(network, UP5K).layouts["input"].padding == (2, 1, 1, 2)
