"""Inputs to compress by: mixtures of those that are given, and made-up ones where there are none."""

import math

import numpy as np
import numpy.typing as npt

from .. import golden
from ..network import Int8Array, Network
from .gradients import gradients
from .outputs import Outputs

__all__ = ["capacity", "mixtures", "synthetic"]

FloatArray = npt.NDArray[np.float64]

INPUTS = range(128, 1025)
"""How many inputs are looked at: as many as memory allows."""

ACTIVATIONS = 1 << 24
"""Values of all tensors that are held for them."""

ROUNDS = 12
STRIDE = 12.0
"""Root mean square of what a round adds to an input, in steps."""


def capacity(network: Network) -> int:
    """How many inputs of a network are looked at."""
    values = sum(math.prod(tensor.shape) for tensor in network.tensors.values())
    return min(max(ACTIVATIONS // values, INPUTS[0]), INPUTS[-1])


def mixtures(x: Int8Array, rng: np.random.Generator) -> Int8Array:
    """Of each input with another one: as many again, so that filters fit the given ones less closely."""
    share = rng.uniform(0.3, 0.7, (len(x), *[1] * (x.ndim - 1)))
    mixed = x * share + x[rng.permutation(len(x))] * (1 - share)
    return np.round(mixed).astype(np.int8)


def synthetic(network: Network, rng: np.random.Generator) -> Int8Array:
    """As many made-up inputs for ``network`` as its `capacity`, (inputs, *input shape).

    They begin as Gaussian noise, of a natural spectrum (energy falls with the square of the frequency) along
    the axes of an image, each with a mean and a contrast of its own in the range of the input's quantisation.
    Where the network ends in SOFTMAX, each then climbs, by gradients of the same spectrum, towards a class
    drawn for it, so that the inputs use what the network has learnt to tell apart.
    """
    tensor = network.tensors[network.input]
    count = capacity(network)
    shape = (count, *[1] * len(tensor.shape))
    noise = _natural(rng.standard_normal((count, *tensor.shape)))
    values = noise * rng.uniform(20, 80, shape) + rng.uniform(-60, 60, shape)
    for round_ in range(ROUNDS):
        x = _stored(values)
        made = golden.run_tensors(network, x)
        outputs = Outputs.of(network, made)
        if outputs.beta is None:
            break
        if round_ == 0:
            wanted = np.eye(outputs.reference.shape[1])[rng.integers(0, outputs.reference.shape[1], count)]
            # How far each goes: some end between classes.
            reach = rng.uniform(0, 1, shape)
        slope = gradients(network, made, outputs.tensor.name, wanted - outputs.probabilities())
        values = values + STRIDE * reach * _natural(slope[network.input].astype(np.float64))
    return _stored(values)


def _stored(values: FloatArray) -> Int8Array:
    return np.clip(np.round(values), -128, 127).astype(np.int8)


def _natural(noise: FloatArray) -> FloatArray:
    """Images (inputs, height, width, channels) filtered to the spectrum of natural ones, anything else as it
    is; mean square 1 each."""
    if noise.ndim == 4:
        vertical, horizontal = (np.fft.fftfreq(size) for size in noise.shape[1:3])
        frequency = np.hypot(vertical[:, None], horizontal)
        frequency[0, 0] = np.inf
        noise = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) / frequency[..., None], axes=(1, 2)).real
    axes = tuple(range(1, noise.ndim))
    result: FloatArray = noise / np.sqrt(np.square(noise).mean(axis=axes, keepdims=True) + 1e-30)
    return result
