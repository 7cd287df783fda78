"""The trained model as a network of exact integer operations, in the shape that its recipe asked for.

What was trained is what is exported: integers, scales that are 1.5 times a power of two, biases in the
accumulator's unit. Channels that were dropped on the way are there again, as zeros, so that the file has all
the weights of the recipe; `kolmogate.simplify` finds what they are worth.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..network import (
    Conv2D,
    Dense,
    MaxPool2D,
    Network,
    Operation,
    Reshape,
    Tensor,
    Window,
    accumulator_bounds,
)
from ..quantisation import DenseScale, convolution_requantisation
from .data import Split, to_inputs
from .model import ACTIVATION_STEPS, FRACTION, Layer, Model
from .recipe import Recipe

__all__ = ["input_bytes", "to_network"]

ACTIVATION_SCALE = 1 / ACTIVATION_STEPS


def input_bytes(split: Split) -> NDArray[np.int8]:
    """Images as the network's input (n, 28, 28, 1): half of each byte."""
    return (split.images >> 1).to(torch.int8).permute(0, 2, 3, 1).contiguous().numpy()


@torch.no_grad()
def to_network(model: Model, recipe: Recipe, validation: Split) -> Network:
    """The network; the scale of its logits is the finest that leaves those of ``validation`` within int8.

    Raises `InputError` if the model is not folded.
    """
    if not all(layer.norm.folded for layer in model.layers):
        raise InputError("the model is not folded: its recipe must end with a folded stage")
    side = model.layers[0].side
    tensors = {"image": Tensor("image", (side, side, 1), ACTIVATION_SCALE, 0)}
    operations: list[Operation] = []

    def append(kind: type[Operation], output: Tensor, **fields: Any) -> None:
        """Add an operation that reads the last tensor and writes ``output``."""
        operations.append(kind(output.name, (next(reversed(tensors)),), output.name, **fields))
        tensors[output.name] = output

    inputs = 1
    for index, (layer, asked) in enumerate(zip(model.layers, recipe.layers, strict=True), 1):
        last = index == len(model.layers)
        weights, bias, scales = _grown(model, layer, asked.channels, inputs)
        source = tensors[next(reversed(tensors))]
        if last:
            scales = np.full(asked.channels, _logit_scale(model, validation))
        name = "logits" if last else f"layer{index}"
        side = layer.map
        shape = (asked.channels,) if layer.is_dense else (side, side, asked.channels)
        output = Tensor(name, shape, ACTIVATION_SCALE, 0)
        clamp = (-128, 127) if last else (0, 127)
        if layer.is_dense:
            if len(source.shape) == 3:
                append(Reshape, Tensor(f"flat{index}", (math.prod(source.shape),), ACTIVATION_SCALE, 0))
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
            pooled = Tensor(f"pooled{index}", (side, side, asked.channels), ACTIVATION_SCALE, 0)
            append(MaxPool2D, pooled, window=window, clamp=(-128, 127))
        inputs = asked.channels
    network = Network(tensors, tuple(operations), "image", "logits", recipe.name)
    network.check()
    return network


def _grown(
    model: Model, layer: Layer, channels: int, inputs: int
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float64]]:
    """Weights (out, height, width, in), biases and scales, with zeros for channels that were dropped."""
    small = model.blocks[layer.recipe.block].integers().permute(0, 2, 3, 1).numpy().astype(np.int8)
    weights = np.zeros((channels, *small.shape[1:3], inputs), np.int8)
    weights[: len(small), ..., : small.shape[3]] = small
    units = layer.norm.bias_units().numpy().round().astype(np.int32)
    bias = np.zeros(channels, np.int32)
    bias[: len(units)] = units << int(layer.norm.bias_bits)
    scales = np.ones(channels)
    scales[: len(units)] = layer.norm.scales().numpy()
    return weights, bias, scales


def _logit_scale(model: Model, validation: Split) -> float:
    """By what accumulators of the last layer become int8: the like of the other layers' scales."""
    logits = torch.cat([model(to_inputs(images)) for images in validation.images.split(1000)])
    accumulators = float(logits.abs().max() / model.layers[-1].norm.scales()[0]) * ACTIVATION_STEPS
    return FRACTION * 2.0 ** -math.ceil(math.log2(FRACTION * max(accumulators, 1) / 127))
