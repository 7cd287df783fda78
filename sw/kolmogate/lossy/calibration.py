"""Inputs to compress by where none are given: drawn so that they use the network as real ones might."""

import numpy as np
import numpy.typing as npt

from .. import golden
from ..network import Int8Array, Network, Softmax

__all__ = ["synthetic"]

INPUTS = 128
CANDIDATES = 4
"""So many times as many are drawn, of which those are kept that the network tells apart best."""


def synthetic(network: Network, rng: np.random.Generator) -> Int8Array:
    """Made-up inputs for ``network``, (inputs, *input shape).

    Gaussian, with a natural spectrum (energy falls with the square of the frequency) along the axes of an
    image, each with a mean and a contrast of its own, clipped to the range that the input's quantisation has.
    Where the network ends in SOFTMAX, they are taken evenly from the classes that it sees in them, most
    certain first.
    """
    tensor = network.tensors[network.input]
    noise = rng.standard_normal((CANDIDATES * INPUTS, *tensor.shape))
    if len(tensor.shape) == 3:
        noise = _natural(noise)
    shape = (len(noise), *[1] * len(tensor.shape))
    noise = noise * rng.uniform(20, 80, shape) + rng.uniform(-60, 60, shape)
    x = np.clip(np.round(noise), -128, 127).astype(np.int8)
    if not isinstance(network.operations[-1], Softmax):
        return x[:INPUTS]
    scores = golden.run(network, x).reshape(len(x), -1)
    seen = scores.argmax(axis=1)
    # The place of each input among those of its class: the first of all classes come first.
    order = np.argsort(-scores.max(axis=1).astype(np.int64), kind="stable")
    place = np.zeros(len(x), np.int64)
    for one in range(scores.shape[1]):
        members = order[seen[order] == one]
        place[members] = np.arange(len(members))
    return x[np.argsort(place, kind="stable")[:INPUTS]]


def _natural(noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """White noise (inputs, height, width, channels) with the spectrum of natural images, channels alike in
    part; unit variance."""
    noise = noise + 2 * noise.mean(axis=-1, keepdims=True) * np.sqrt(noise.shape[-1])
    vertical, horizontal = (np.fft.fftfreq(size) for size in noise.shape[1:3])
    frequency = np.hypot(vertical[:, None], horizontal)
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(noise, axes=(1, 2)) / frequency[..., None]
    shaped = np.fft.ifft2(spectrum, axes=(1, 2)).real
    result: npt.NDArray[np.float64] = shaped / shaped.std(axis=(1, 2, 3), keepdims=True)
    return result
