"""What rounding a layer needs to know: second moments of its inputs, as the network's output notices them.

An error in a layer's weights makes an error in its sums at every position of an input, and what the output
notices of them together is their sum weighted with its gradients. So the inputs of all positions are summed
up with the gradients of each channel as weights, and second moments are taken of these sums: errors that
positions have in common count more than errors that cancel, and those where nothing follows do not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import golden
from ..network import Conv2D, DepthwiseConv2D, Int8Array, Network, Tensor, Weighted
from .gradients import gradients, real_scales
from .outputs import Outputs

__all__ = ["Moments", "Reference", "filters", "moments", "observe"]

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]

PROBES = 4
"""Random directions of the output whose gradients are taken."""

EVERYWHERE = 1.0
"""Weight of the plain second moments of all positions, as a part of that of the noticed ones: gradients are
those of the original network and of few inputs."""

DAMPING = 0.1
"""Part of the inputs' mean variance that is added to each: the fewer the inputs, the more it keeps filters as
they were."""

LEAST_VARIANCE = 1e-3
"""Of inputs that hardly vary, in squared steps."""

PRECISION = 1e-5
"""Second moments are known to so much of them: products are summed up in single precision."""

UNNOTICED = 1e-12
"""Loss for a squared step in a layer that the output does not depend on, as far as its inputs tell."""

UNFOLDED = 1 << 23
"""Values of unfolded windows that are held at a time."""


@dataclass(frozen=True)
class Reference:
    """What the original network does with the calibration inputs.

    Parameters
    ----------
    values : mapping
        Every tensor, (inputs, *shape).
    outputs : Outputs
        Those to keep.
    gradients : mapping
        By output of each operation with weights: arrays (inputs, positions, channels), one a probe.
    """

    values: dict[str, Int8Array]
    outputs: Outputs
    gradients: dict[str, list[Float32Array]]


@dataclass(frozen=True)
class Moments:
    """Of a layer with n - 1 taps: the last of n inputs is the constant 1, which the bias is the weight of.

    Parameters
    ----------
    second : array (groups, n, n)
        Second moments of the inputs, less their zero point; one group for all channels, or one each.
    targets : array (channels, n)
        Filters and biases, in output steps, that come nearest to the original sums.
    importance : array (channels,)
        Loss for a unit of the squared error that ``second`` gives.
    """

    second: FloatArray
    targets: FloatArray
    importance: FloatArray

    def log_precision(self) -> float:
        """Logarithm of what a weight's squared error costs, in the mean, if the weights after it make up for
        what they can."""
        taps = self.second.shape[1] - 1
        # The determinant of the taps' covariance: of all, divided by that of the constant.
        _, whole = np.linalg.slogdet(self.second)
        inner = whole - np.log(self.second[:, -1, -1])
        return float(inner.mean() / taps + np.log(self.importance).mean())


def observe(network: Network, x: Int8Array, rng: np.random.Generator) -> Reference:
    """What ``network`` does with the inputs ``x``."""
    values = golden.run_tensors(network, x)
    outputs = Outputs.of(network, values)
    found: dict[str, list[Float32Array]] = {}
    for _ in range(PROBES):
        made = gradients(network, values, outputs.tensor.name, outputs.probes(rng))
        for name, gradient in made.items():
            if name != network.input:
                found.setdefault(name, []).append(gradient.reshape(len(x), -1, gradient.shape[-1]))
    return Reference(values, outputs, found)


def filters(operation: Weighted) -> Int8Array:
    """The weights as (channels, taps)."""
    channels = len(operation.bias)
    if isinstance(operation, DepthwiseConv2D):
        return operation.weights.reshape(-1, channels).T
    return operation.weights.reshape(channels, -1)


def moments(network: Network, operation: Weighted, reference: Reference, x: Int8Array) -> Moments:
    """For ``operation`` of the original network, which now reads ``x``.

    Targets are fitted to what the original made of what it read: so they make up for the errors of the layers
    before, as far as these can be told from the inputs.
    """
    source, output = network.tensors[operation.inputs[0]], network.tensors[operation.output]
    scales = real_scales(operation.requantisation)
    original = np.column_stack([filters(operation), operation.bias]) * scales[:, None]
    channels, n = original.shape
    # Channels that read the same inputs are one group.
    groups = [slice(0, channels)]
    if isinstance(operation, DepthwiseConv2D):
        groups = [slice(channel, channel + 1) for channel in range(channels)]
    plain, noticed = (np.zeros((len(groups), n, n)) for _ in range(2))
    plain_cross, cross = (np.zeros((channels, n)) for _ in range(2))
    energy = np.zeros(channels)
    probes = reference.gradients[operation.output]
    before = reference.values[operation.inputs[0]]
    for part in _parts(len(x), probes[0].shape[1] * n * len(groups)):
        made = golden.accumulate(operation, before[part], source, output) * scales
        sums: Float32Array = made.reshape(len(made), -1, channels).astype(np.float32)
        unfolded = _rows(operation, x[part], source)
        for group, (rows, own) in enumerate(zip(unfolded, groups, strict=True)):
            wanted = sums[..., own]
            _add(plain[group], plain_cross[own], rows, wanted)
            for probe in probes:
                weights = probe[part][..., own].transpose(0, 2, 1)
                seen = weights @ rows
                energy[own] += np.square(seen).sum((0, 2))
                _add(noticed[group], cross[own], seen, weights @ wanted)
    # In units of the loss: a mean over inputs and probes, shared by the channels of a group.
    count = len(x) * len(probes) * channels / len(groups)
    noticed /= count
    cross /= count
    positions = len(x) * probes[0].shape[1]
    plain /= positions
    plain_cross /= positions
    # What goes unnoticed counts a little too.
    spread = np.maximum(_variance(plain), LEAST_VARIANCE)
    variance = _variance(noticed)
    variance = np.maximum(variance + EVERYWHERE * variance.mean(), UNNOTICED * spread)
    share = EVERYWHERE * variance / spread
    targets = np.empty_like(original)
    for group, own in enumerate(groups):
        noticed[group] += share[group] * plain[group]
        wanted = cross[own] + share[group] * plain_cross[own]
        # The bias is fitted freely.
        damping = np.where(np.arange(n) < n - 1, DAMPING * variance[group], 0)
        damping += PRECISION * np.diag(noticed[group])
        noticed[group] += np.diag(damping)
        targets[own] = np.linalg.solve(noticed[group], (wanted + damping * original[own]).T).T
    relative = energy.reshape(len(groups), -1)
    relative = relative / np.maximum(relative.mean(axis=1, keepdims=True), 1e-30)
    importance = (relative + EVERYWHERE) / (1 + EVERYWHERE) / 2
    return Moments(noticed, targets, importance.reshape(-1))


def _add(second: FloatArray, cross: FloatArray, rows: Float32Array, wanted: Float32Array) -> None:
    """Sums of products over inputs and positions of ``rows`` (inputs, m, n) and ``wanted`` (inputs, m, c)."""
    flat = rows.reshape(-1, rows.shape[-1])
    second += flat.T @ flat
    cross += wanted.reshape(-1, wanted.shape[-1]).T @ flat


def _variance(second: FloatArray) -> FloatArray:
    """The mean variance of the inputs but the constant, (groups,)."""
    square = np.einsum("gii->gi", second)[:, :-1]
    mean = second[:, :-1, -1] ** 2 / np.maximum(second[:, -1:, -1], 1e-30)
    result: FloatArray = np.maximum(square - mean, 0).mean(axis=1)
    return result


def _parts(inputs: int, values: int) -> Iterator[slice]:
    """Slices of a batch whose inputs, of so many values each, are few enough to be held."""
    step = max(1, UNFOLDED // values)
    return (slice(start, start + step) for start in range(0, inputs, step))


def _rows(operation: Weighted, x: Int8Array, source: Tensor) -> Float32Array:
    """What filters meet at each position, and a 1: (groups, inputs, positions, 1 + taps)."""
    match operation:
        case Conv2D():
            windows = golden.unfold(x, operation.window, source.zero_point).transpose(0, 1, 2, 4, 5, 3)
            rows = windows.reshape(1, len(x), -1, windows[0, 0, 0].size)
        case DepthwiseConv2D():
            windows = golden.unfold(x, operation.window, source.zero_point).transpose(3, 0, 1, 2, 4, 5)
            rows = windows.reshape(x.shape[-1], len(x), -1, windows[0, 0, 0, 0].size)
            rows = np.repeat(rows, len(operation.bias) // x.shape[-1], axis=0)
        case _:
            rows = x.reshape(1, len(x), -1, operation.weights.shape[1])
    result = np.ones((*rows.shape[:3], rows.shape[3] + 1), np.float32)
    result[..., :-1] = rows
    result[..., :-1] -= source.zero_point
    return result
