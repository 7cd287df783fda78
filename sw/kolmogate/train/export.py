"""The trained model as a network of exact integer operations, in the shape that its recipe asked for.

What was trained is what is exported: integers, coarse scales, biases in the accumulator's unit. Activations
have the zero point -128, so that the machine's biases are the network's own. Channels are in an order that
takes few bytes. Those that were dropped on the way are there again, as zeros, so that the file has all the
weights of the recipe; `kolmogate.simplify` finds what they are worth.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import configuration
from ..errors import InputError
from ..network import (
    Conv2D,
    Dense,
    MaxPool2D,
    Network,
    Operation,
    Requantisation,
    Reshape,
    Tensor,
    Window,
    accumulator_bounds,
)
from ..quantisation import DenseScale, convolution_requantisation
from ..simplify import simplify
from .data import Split, to_inputs
from .model import FRACTIONS, HIGHEST, Model, coarse
from .order import shortest_order
from .recipe import Recipe

__all__ = ["TARGET", "input_bytes", "to_network"]

TARGET = "up5k"
"""The machine whose programs count."""
ORDERS = 9000
"""Orders of channels that are tried."""

ZERO_POINT = -128
"""Of activations and logits; that of the image is 0."""


def input_bytes(split: Split) -> NDArray[np.int8]:
    """Images as the network's input (n, 28, 28, 1): half of each byte."""
    return (split.images >> 1).to(torch.int8).permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def to_network(model: Model, recipe: Recipe, validation: Split) -> Network:
    """The network; its logits are as fine as leaves the highest of each image of ``validation`` within int8.

    Raises `InputError` if the model is not folded.
    """
    if not all(layer.norm.folded for layer in model.layers):
        raise InputError("the model is not folded: its recipe must end with a folded stage")
    side = model.layers[0].side
    step = 1 / model.steps
    tensors = {"image": Tensor("image", (side, side, 1), step, 0)}
    operations: list[Operation] = []

    def append(kind: type[Operation], output: Tensor, **fields: Any) -> None:
        """Add an operation that reads the last tensor and writes ``output``."""
        operations.append(kind(output.name, (next(reversed(tensors)),), output.name, **fields))
        tensors[output.name] = output

    for index, layer in enumerate(model.layers, 1):
        last, asked = index == len(model.layers), layer.recipe
        weights = model.blocks[asked.block].integers().permute(0, 2, 3, 1).numpy().astype(np.int8)
        bias = layer.norm.bias_units().numpy().round().astype(np.int32) << int(layer.norm.bias_bits)
        scales = layer.norm.scales().numpy().astype(np.float64)
        source = tensors[next(reversed(tensors))]
        if last:
            raised, logit_scale = _logit_range(model, validation)
            bias, scales = bias + raised, np.full(asked.channels, logit_scale)
        name = "logits" if last else f"layer{index}"
        side = layer.map
        shape = (asked.channels,) if layer.is_dense else (side, side, asked.channels)
        output = Tensor(name, shape, step, ZERO_POINT)
        clamp = (-128, 127)
        if layer.is_dense:
            if len(source.shape) == 3:
                append(
                    Reshape,
                    Tensor(f"flat{index}", (math.prod(source.shape),), step, source.zero_point),
                )
            flat = weights.reshape(len(weights), -1)
            nominal = convolution_requantisation(source, scales, output, asked.channels)
            dense = Dense(output.name, (next(reversed(tensors)),), output.name, flat, bias, nominal, clamp)
            # The reference scales dense layers by floating-point numbers.
            bounds = accumulator_bounds(dense, 0)
            exact = DenseScale.of(source, scales, output, bounds, clamp).requantisation()
            append(Dense, output, weights=flat, bias=bias, requantisation=exact, clamp=clamp)
        else:
            window = Window((layer.size,) * 2, (asked.stride,) * 2, (asked.padding,) * 4)
            scale = convolution_requantisation(source, scales, output, asked.channels)
            append(
                Conv2D,
                output,
                weights=weights,
                bias=bias,
                window=window,
                requantisation=scale,
                clamp=clamp,
            )
        if asked.pool > 1:
            side = layer.output_side
            window = Window((asked.pool,) * 2, (asked.pool,) * 2, (0, 0, 0, 0))
            pooled = Tensor(f"pooled{index}", (side, side, asked.channels), step, ZERO_POINT)
            append(MaxPool2D, pooled, window=window, clamp=(-128, 127))
    network = Network(tensors, tuple(operations), "image", "logits", recipe.name)
    network.check()
    # Layers that share weights have to keep one order together.
    if len(model.blocks) == len(model.layers):
        network = shortest_order(simplify(network).network, configuration(TARGET), ORDERS, recipe.seed)
    return _grown(network, [layer.channels for layer in recipe.layers])


def _grown(network: Network, widths: Sequence[int]) -> Network:
    """The network with so many channels of each convolution and dense layer: zeros after its own."""
    tensors, operations, asked = dict(network.tensors), [], iter(widths)
    # Channels that are read, before and after.
    channels = grown = tensors[network.input].shape[-1]
    for one in network.operations:
        if isinstance(one, Conv2D | Dense):
            width, scale = next(asked), one.requantisation
            made = (0, width - len(one.bias))
            filters = one.weights.reshape(len(one.bias), -1, channels)
            filters = np.pad(filters, (made, (0, 0), (0, grown - channels)))
            window = one.weights.shape[1:-1]
            one = replace(
                one,
                weights=filters.reshape(width, *window, -1 if not window else grown),
                bias=np.pad(one.bias, made),
                requantisation=Requantisation(
                    np.pad(scale.multiplier, made, "edge"), np.pad(scale.shift, made, "edge")
                ),
            )
            channels, grown = width - made[1], width
        before = tensors[one.output]
        *image, last = before.shape
        tensors[one.output] = replace(before, shape=(*image, last // channels * grown))
        operations.append(one)
    larger = replace(network, tensors=tensors, operations=tuple(operations))
    larger.check()
    return larger


def _logit_range(model: Model, validation: Split) -> tuple[int, float]:
    """What is added to all accumulators of the last layer, and by what they then become int8.

    That is like the other layers' scales. The highest logit of each image is in the range; lower ones may be
    clamped.
    """
    logits = torch.cat([model(to_inputs(images)) for images in validation.images.split(1000)])
    highest = (logits.amax(1) / model.layers[-1].norm.scales()[0] * model.steps).round()
    low, high = int(highest.min()), int(highest.max())
    halves = math.floor(2 * math.log2(HIGHEST / max(high - low, 1) / FRACTIONS[0]))
    return -low, float(coarse(torch.tensor(halves / 2)))
