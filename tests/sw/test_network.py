"""The rules that `Network.check` holds."""

from dataclasses import replace

import numpy as np
import pytest
from kolmogate.errors import InputError
from kolmogate.network import (
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    MaxPool2D,
    Mean,
    Network,
    Operation,
    Pad,
    Relu,
    Requantisation,
    Reshape,
    Softmax,
    Tensor,
    Window,
    accumulator_bounds,
)

FULL = (-128, 127)
IMAGE = Tensor("x", (4, 6, 2), 0.1, 3)
WINDOW = Window.valid((2, 2), (1, 1))


def scale(channels, multiplier=1 << 30, shift=-5):
    return Requantisation(np.full(channels, multiplier, np.int32), np.full(channels, shift, np.int32))


def network(operation, shape, source=IMAGE, **output):
    y = replace(Tensor("y", shape, source.scale, source.zero_point), **output)
    return Network({source.name: source, "y": y}, (operation,), source.name, "y")


CONVOLUTION = Conv2D(
    "y", ("x",), "y", np.full((3, 2, 2, 2), 127, np.int8), np.zeros(3, np.int32), WINDOW, scale(3), FULL
)
DEPTHWISE = DepthwiseConv2D(
    "y", ("x",), "y", np.ones((2, 2, 4), np.int8), np.zeros(4, np.int32), WINDOW, scale(4), FULL
)
DENSE = Dense("y", ("x",), "y", np.ones((5, 48), np.int8), np.zeros(5, np.int32), scale(5), FULL)
ROWS = replace(DENSE, weights=np.ones((5, 2), np.int8))
MEAN = Mean("y", ("x",), "y", (0, 1), scale(1))


class Unknown(Operation):
    kind = "UNKNOWN"


PROBABILITIES = {"scale": 1 / 256, "zero_point": -128}


@pytest.mark.parametrize(
    "sound",
    [
        network(CONVOLUTION, (3, 5, 3)),
        network(replace(CONVOLUTION, window=Window((2, 2), (1, 1), (7, 0, 0, 0))), (10, 5, 3)),
        network(DEPTHWISE, (3, 5, 4)),
        network(DENSE, (5,)),
        network(ROWS, (4, 6, 5)),
        network(MEAN, (2,)),
        network(MEAN, (1, 1, 2)),
        network(Reshape("y", ("x",), "y"), (12, 4)),
        network(Softmax("y", ("x",), "y", 1.0), (4, 6, 2), **PROBABILITIES),
    ],
)
def test_sound_networks(sound):
    sound.check()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (network(CONVOLUTION, (3, 5, 4)), r"weights must be int8 of shape \(4, 2, 2, 2\)|must have shape"),
        (network(CONVOLUTION, (4, 5, 3)), r"output 'y' must have shape \(3, 5, 3\), not \(4, 5, 3\)"),
        (
            network(replace(CONVOLUTION, bias=np.zeros(3)), (3, 5, 3)),
            "bias must be int32 of shape .* float64",
        ),
        (
            network(replace(CONVOLUTION, requantisation=scale(2)), (3, 5, 3)),
            "multiplier must be int32 of shape",
        ),
        (
            network(replace(CONVOLUTION, requantisation=scale(3, -1)), (3, 5, 3)),
            "must not be negative, not -1",
        ),
        (network(replace(CONVOLUTION, requantisation=scale(3, 1, 31)), (3, 5, 3)), "-31 to 30, not 31 to 31"),
        (
            network(replace(CONVOLUTION, requantisation=scale(3, 1, 14)), (3, 5, 3)),
            "channel 0 can overflow 32 bits",
        ),
        (
            network(replace(CONVOLUTION, clamp=(5, 4)), (3, 5, 3)),
            r"clamp must be a range within int8, not \(5, 4\)",
        ),
        (network(replace(CONVOLUTION, clamp=(-129, 4)), (3, 5, 3)), "clamp must be a range within int8"),
        (
            network(replace(CONVOLUTION, window=Window.valid((5, 2), (1, 1))), (1, 5, 3)),
            "larger than the padded",
        ),
        (network(replace(CONVOLUTION, window=Window.valid((2, 2), (0, 1))), (1, 5, 3)), "must be positive"),
        (network(CONVOLUTION, (3, 5, 3), Tensor("x", (48,), 0.1, 3)), "must be .height, width, channels."),
        (network(DEPTHWISE, (3, 5, 3)), "3 output channels must be a multiple of 2 input channels"),
        (network(DENSE, (4,)), r"weights must be int8 of shape \(4, 48\)"),
        (network(DENSE, (1, 5)), r"output 'y' must have shape \(4, 6, 5\)"),
        (network(replace(MEAN, axes=(0,)), (6, 2)), r"axes must be height and width, not \(0,\)"),
        (network(MEAN, (3,)), r"output 'y' must have shape \(2,\)"),
        (network(Reshape("y", ("x",), "y"), (7,)), r"shape \(4, 6, 2\) cannot become \(7,\)"),
        (
            network(Reshape("y", ("x",), "y"), (48,), zero_point=0),
            "must have the scale and zero point of the input",
        ),
        (
            network(Pad("y", ("x",), "y", (1, 0, 0, 0)), (5, 6, 2), scale=0.2),
            "must have the scale and zero point",
        ),
        (network(MaxPool2D("y", ("x",), "y", WINDOW, FULL), (3, 5, 2), scale=0.2), "must have the scale"),
        (
            network(AveragePool2D("y", ("x",), "y", Window((1, 1), (1, 1), (1, 0, 0, 0)), FULL), (5, 6, 2)),
            r"padding \(1, 0, 0, 0\) must be smaller than the window \(1, 1\)",
        ),
        (network(Softmax("y", ("x",), "y", 1.0), (4, 6, 2)), "must have scale 1/256 and zero point -128"),
        (network(Softmax("y", ("x",), "y", 1e-9), (4, 6, 2), **PROBABILITIES), "is too small"),
        (
            network(Softmax("y", ("x",), "y", 1.0), (512,), Tensor("x", (512,), 0.1, 0), **PROBABILITIES),
            "its axis of 512 values must be shorter than 512",
        ),
        (network(Relu("y", ("x",), "y", scale(2), FULL), (4, 6, 2)), "multiplier must be int32 of shape"),
        (network(Unknown("y", ("x",), "y"), (4, 6, 2)), "UNKNOWN 'y': is not an operation of this version"),
        (network(replace(DENSE, inputs=("x", "x")), (5,)), "must have 1 input, not 2"),
        (network(replace(DENSE, inputs=("z",)), (5,)), "reads tensor 'z' before it is written"),
        (network(replace(DENSE, output="z"), (5,)), "writes unknown tensor 'z'"),
        (network(replace(DENSE, output="x"), (5,)), "writes tensor 'x' again"),
        (network(DENSE, (5,), scale=float("nan")), "tensor 'y' must have a positive finite scale, not nan"),
        (network(DENSE, (5,), scale=1e39), "tensor 'y' must have a positive finite scale, not inf"),
        (network(DENSE, (5,), zero_point=-129), "tensor 'y' must have an int8 zero point, not -129"),
        (network(DENSE, (0,)), r"tensor 'y' must have positive sizes, not shape \(0,\)"),
        (replace(network(DENSE, (5,)), output="z"), "the network's output 'z' is not among its tensors"),
        (replace(network(DENSE, (5,)), operations=()), "no operation writes the network's output 'y'"),
    ],
)
def test_broken_networks(broken, reason):
    with pytest.raises(InputError, match=reason):
        broken.check()


def test_scales_are_float32():
    assert Tensor("x", (1,), 0.1, 0).scale == float(np.float32(0.1))


@pytest.mark.parametrize("operation", [CONVOLUTION, DEPTHWISE, ROWS])
def test_accumulator_bounds_are_reached(operation):
    rng = np.random.default_rng(3)
    weights = rng.integers(-128, 128, operation.weights.shape, np.int8)
    bias = rng.integers(-1000, 1000, operation.bias.shape).astype(np.int32)
    low, high = accumulator_bounds(replace(operation, weights=weights, bias=bias), 3)
    channel_axis = 2 if isinstance(operation, DepthwiseConv2D) else 0
    for channel, filters in enumerate(np.moveaxis(weights, channel_axis, 0)):
        best = sum(int(w) * ((127 if w > 0 else -128) - 3) for w in filters.reshape(-1))
        worst = sum(int(w) * ((-128 if w > 0 else 127) - 3) for w in filters.reshape(-1))
        assert (low[channel], high[channel]) == (worst + bias[channel], best + bias[channel])
