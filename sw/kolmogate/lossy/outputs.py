"""How far a network's outputs have moved: the loss that lossy compression is bounded by.

Networks that end in SOFTMAX are compared by the Kullback-Leibler divergence of their distributions, computed
in floating point from what SOFTMAX reads, mean over the inputs, in nats. All others by the relative error:
energy of the difference over energy of the outputs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..network import Int8Array, Network, Softmax, Tensor

__all__ = ["Outputs"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outputs:
    """The outputs that a network should keep.

    Parameters
    ----------
    tensor : Tensor
        The one that is compared: the network's output, or what its last SOFTMAX reads.
    beta : float or None
        Factor of the logits, None where outputs are compared by relative error.
    reference : float64 array (inputs, values)
        Real values of the tensor, with ``beta``.
    """

    tensor: Tensor
    beta: float | None
    reference: FloatArray

    @classmethod
    def of(cls, network: Network, values: dict[str, Int8Array]) -> "Outputs":
        """Of a network whose tensors have these ``values`` (`kolmogate.golden.run_tensors`)."""
        last = network.operations[-1]
        if isinstance(last, Softmax) and last.output == network.output:
            tensor, beta = network.tensors[last.inputs[0]], last.beta
        else:
            tensor, beta = network.tensors[network.output], None
        return cls(tensor, beta, _real(values[tensor.name], tensor, beta))

    @property
    def measure(self) -> str:
        """What `loss` is, for reports."""
        return "relative error" if self.beta is None else "KL divergence"

    def loss(self, values: dict[str, Int8Array]) -> float:
        """The loss of a network whose tensors have these values, for the same inputs."""
        real = _real(values[self.tensor.name], self.tensor, self.beta)
        if self.beta is None:
            return float(np.square(real - self.reference).sum() / np.square(self.reference).sum())
        before, after = _log_softmax(self.reference), _log_softmax(real)
        return float((np.exp(before) * (before - after)).sum(axis=1).mean())

    def probabilities(self) -> FloatArray:
        """Of the classes, (inputs, classes)."""
        return np.exp(_log_softmax(self.reference))

    def probes(self, rng: np.random.Generator) -> FloatArray:
        """Random directions g of the tensor's stored values, (inputs, values): for a small change d of them
        the loss is the mean over inputs of ``(g @ d)**2 / 2``, in expectation.
        """
        step = self.tensor.scale
        if self.beta is None:
            energy = np.square(self.reference).sum() / len(self.reference)
            signs = rng.integers(0, 2, self.reference.shape) * 2.0 - 1
            return signs * step * np.sqrt(2 / energy)
        # Scores of classes drawn from the network's own distribution: their covariance is its Fisher matrix.
        distribution = self.probabilities()
        drawn = (distribution.cumsum(axis=1) < rng.random((len(distribution), 1))).sum(axis=1)
        one_hot = np.eye(distribution.shape[1])[np.minimum(drawn, distribution.shape[1] - 1)]
        return (one_hot - distribution) * step * self.beta


def _real(values: Int8Array, tensor: Tensor, beta: float | None) -> FloatArray:
    real = (values.astype(np.float64) - tensor.zero_point) * tensor.scale
    return real.reshape(len(real), -1) * (1.0 if beta is None else beta)


def _log_softmax(x: FloatArray) -> FloatArray:
    shifted = x - x.max(axis=1, keepdims=True)
    result: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
