"""Operations with other weights: integers of a layer's filters and biases, and one scale for all channels."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..network import Conv2D, Dense, DepthwiseConv2D, Tensor, Weighted, accumulator_bounds
from ..quantisation import DenseScale, convolution_requantisation

__all__ = ["rewrite"]

Int64Array = npt.NDArray[np.int64]


def rewrite(
    operation: Weighted, weights: Int64Array, bias: Int64Array, step: float, source: Tensor, output: Tensor
) -> Weighted:
    """``operation`` with filters ``weights`` (channels, taps) and ``bias`` (channels,), ``step`` output steps
    for a unit of the accumulator.

    The step is rounded up to what a float32 weight scale in a file gives: where sums lie halfway between two
    outputs, shortened multipliers (`kolmogate.shorten`) then round as those do.
    """
    scale = np.float32(step * output.scale / source.scale)
    if float(scale) * source.scale / output.scale < step:
        scale = np.nextafter(scale, np.float32(np.inf))
    shaped = weights.T if isinstance(operation, DepthwiseConv2D) else weights
    new = replace(
        operation,
        weights=np.ascontiguousarray(shaped.astype(np.int8)).reshape(operation.weights.shape),
        bias=bias.astype(np.int32),
    )
    match new:
        case Dense():
            bounds = accumulator_bounds(new, source.zero_point)
            requantisation = DenseScale.of(source, scale, output, bounds, new.clamp).requantisation()
        case Conv2D() | DepthwiseConv2D():
            requantisation = convolution_requantisation(source, scale, output, len(bias))
    return replace(new, requantisation=requantisation)
