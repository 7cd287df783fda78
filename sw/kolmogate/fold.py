"""Folding: a convolution with few output channels works on neighbouring positions side by side.

A layer of 16 channels would leave half of 32 columns idle. With fold 2 the other half takes the same channels
of the next position: the layer becomes one of 32 channels on half as many positions, whose window is wide
enough for both. Each half has zeros where the window belongs to the other alone. To the machine it is a layer
like any other; what it costs are those zeros.

A depthwise layer reads a word for each tap, which then holds the channels of neighbouring pixels. With a
stride of 1 those are what neighbouring positions want, and no zeros are needed.

Where a pixel has more room than channels, what is in between are channels as well: without weights, and
nothing reads their outputs.
"""

from dataclasses import replace

import numpy as np

from .axis import least_visits
from .config import MachineConfig
from .isa import WORD_GRAIN
from .layout import Layout
from .network import Conv2D, DepthwiseConv2D, Int8Array, Requantisation, Window
from .uses import Use

__all__ = ["Foldable", "fold", "fold_factor", "unfold"]

Foldable = Conv2D | DepthwiseConv2D


FACTORS = (1, 2, 4, 8)

LEAST_GAIN = 0.85
"""The part of a layer's cycles that may be left: filters and constants are there once a position."""


def fold_factor(use: Use, source: Layout, target: Layout, config: MachineConfig) -> int:
    """How many neighbouring positions pay; 1 where folding is impossible or gains nothing."""
    operation, channels = use.operation, target.channels
    if not isinstance(operation, Foldable) or use.shape is None:
        return 1
    if isinstance(operation, DepthwiseConv2D) and not use.word_mode:
        return 1

    pitch = _room(channels)

    def possible(factor: int) -> bool:
        """Where words are activations, neighbouring positions must lie as their outputs do."""
        layouts = (source, target) if use.word_mode else (target,)
        groups_before = -(-channels // config.columns)
        return (
            use.region[3] % factor == 0
            and all(layout.pixel_pitch == pitch for layout in layouts)
            and (factor * pitch <= config.columns or (use.word_mode and groups_before > 1))
        )

    def cycles(factor: int) -> float:
        """Of a position: taps, the words that they need, or the draining of all columns."""
        groups = -(-factor * pitch // config.columns)
        width = use.size[1] + (factor - 1) * (use.stride[1] - use.word_mode)
        taps = use.size[0] * width * (1 if use.word_mode else source.channels)
        apart = use.stride[0], factor * use.stride[1]
        words = least_visits((use.size[0], width), apart, config) if use.word_mode else 0
        drain = config.macs / config.requantisers
        return groups * max(taps, words, drain) / factor

    best = min((factor for factor in FACTORS if factor == 1 or possible(factor)), key=cycles)
    return best if cycles(best) <= LEAST_GAIN * cycles(1) else 1


def fold(operation: Foldable, factor: int) -> Foldable:
    """The convolution that makes ``factor`` neighbouring outputs as so many times the channels.

    They are as many as a pixel has room for.
    """
    filters, step = _filters(operation), _step(operation)
    channels, height, width, depth = filters.shape
    pitch = _room(channels)
    weights = np.zeros((factor, pitch, height, width + (factor - 1) * step, depth), np.int8)
    for place in range(factor):
        weights[place, :channels, :, place * step : place * step + width] = filters
    weights = weights.reshape(factor * pitch, *weights.shape[2:])
    scale, stride = operation.requantisation, operation.window.stride
    bias, multiplier, shift = (
        np.tile(np.pad(values, (0, pitch - channels)), factor)
        for values in (operation.bias, scale.multiplier, scale.shift)
    )
    return replace(
        operation,
        weights=weights[..., 0].transpose(1, 2, 0) if isinstance(operation, DepthwiseConv2D) else weights,
        bias=bias,
        window=Window((height, weights.shape[2]), (stride[0], factor * stride[1]), (0, 0, 0, 0)),
        requantisation=Requantisation(multiplier, shift),
    )


def _room(channels: int) -> int:
    """From a pixel of so many channels to the next."""
    return -(-channels // WORD_GRAIN) * WORD_GRAIN


def unfold(weights: Int8Array, operation: Foldable) -> Int8Array:
    """The weights of ``operation``, of those that `fold` made of it."""
    if isinstance(operation, DepthwiseConv2D):
        _, width, channels = operation.weights.shape
        return weights[:, :width, :channels]
    channels, _, width, _ = operation.weights.shape
    return weights[:channels, :, :width]


def _filters(operation: Foldable) -> Int8Array:
    """Weights as (channels, height, width, inputs of a channel at a position)."""
    if isinstance(operation, DepthwiseConv2D):
        return operation.weights.transpose(2, 0, 1)[..., np.newaxis]
    return operation.weights


def _step(operation: Foldable) -> int:
    """Taps from a position's window to its neighbour's: the word that a depthwise tap reads has both."""
    return operation.window.stride[1] - isinstance(operation, DepthwiseConv2D)
