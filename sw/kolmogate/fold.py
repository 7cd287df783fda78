"""Folding: a convolution with few output channels works on neighbouring positions side by side.

A layer of 16 channels would leave half of 32 columns idle. With fold 2 the other half takes the same channels
of the next position: the layer becomes one of 32 channels on half as many positions, whose window is wide
enough for both. Each half has zeros where the window belongs to the other alone. To the machine it is a layer
like any other; what it costs are those zeros.
"""

from dataclasses import replace

import numpy as np

from .config import MachineConfig
from .layout import Layout
from .network import Conv2D, Int8Array, Requantisation, Window
from .uses import Use

__all__ = ["fold", "fold_factor", "unfold"]


def fold_factor(use: Use, source: Layout, target: Layout, config: MachineConfig) -> int:
    """How many neighbouring positions pay; 1 where folding is impossible or gains nothing."""
    operation, channels = use.operation, target.channels
    if not isinstance(operation, Conv2D) or use.word_mode or use.shape is None:
        return 1

    def cycles(factor: int) -> float:
        """Of a position: taps, or the draining of all columns."""
        columns = use.size[1] + (factor - 1) * use.stride[1]
        taps = use.size[0] * columns * source.channels
        drain = config.macs / config.requantisers
        return max(taps, drain) / factor

    factors = [
        factor
        for factor in (1, 2, 4)
        if factor == 1
        # The channels of neighbouring positions must lie side by side in memory.
        or (
            factor * channels <= config.columns
            and use.region[3] % factor == 0
            and target.pixel_pitch == channels
        )
    ]
    return min(factors, key=cycles)


def fold(operation: Conv2D, factor: int) -> Conv2D:
    """The convolution that makes ``factor`` neighbouring outputs as so many times the channels."""
    channels, height, width, depth = operation.weights.shape
    step = operation.window.stride[1]
    weights = np.zeros((factor, channels, height, width + (factor - 1) * step, depth), np.int8)
    for place in range(factor):
        weights[place, :, :, place * step : place * step + width] = operation.weights
    scale = operation.requantisation
    return replace(
        operation,
        weights=weights.reshape(factor * channels, *weights.shape[2:]),
        bias=np.tile(operation.bias, factor),
        window=Window((height, weights.shape[3]), (operation.window.stride[0], factor * step), (0, 0, 0, 0)),
        requantisation=Requantisation(np.tile(scale.multiplier, factor), np.tile(scale.shift, factor)),
    )


def unfold(weights: Int8Array, factor: int, step: int) -> Int8Array:
    """The weights that `fold` was given, of those that it made; ``step`` is the original stride."""
    channels, _, width, _ = weights.shape
    return weights[: channels // factor, :, : width - (factor - 1) * step]
