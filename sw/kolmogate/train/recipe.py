"""Recipes: what is trained on which images in which stages, as a TOML file that a person can read.

A recipe names a data set, a seed, the layers of a network and the stages of its training. The fields are
those of the dataclasses here; `load_recipe` refuses unknown ones.
"""

import tomllib
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError

__all__ = ["Freezing", "LayerRecipe", "Recipe", "Stage", "load_recipe"]

T = TypeVar("T")


@dataclass(frozen=True)
class LayerRecipe:
    """A convolution, or a dense layer: a convolution as large as the image that it reads.

    Parameters
    ----------
    block : str
        Its weights. Layers that name the same block share them and have scales and biases of their own.
    channels : int
        Outputs. Of the last layer: the classes.
    size : int
        Of the square window; 0 is the whole image.
    padding : int
        Pixels of zeros around the image, before the window slides over it.
    stride : int
    pool : int
        Side of the max pooling that follows; 1 is none.
    """

    block: str
    channels: int
    size: int = 0
    padding: int = 0
    stride: int = 1
    pool: int = 1


@dataclass(frozen=True)
class Freezing:
    """When weights that wander between two integers are frozen at the nearer one of their moving average.

    From ``start`` to ``end``, shares of the stage, once every half epoch: those whose average is further than
    a threshold from an integer. It falls from ``high`` to ``low``. Scales stay as they are from ``start`` on.
    """

    start: float = 0.3
    end: float = 0.95
    high: float = 0.42
    low: float = 0.04


@dataclass(frozen=True)
class Stage:
    """Part of a training.

    Parameters
    ----------
    name : str
    epochs : int
    learning_rate : pair of float
        Of the weights, at the start and at the end of a half cosine; scales and biases have half of it.
    integers : bool
        Weights are integers; else real numbers, for the first steps.
    bytes : int or None
        What the coded weights shall take, reached after the share ``reached`` of the stage.
    reached : float
    prune_every : int
        Epochs after which channels that do nothing are dropped; 0 is never.
    keep : tuple of int
        So many channels of each layer but the last are left when the stage starts, those of most weight in
        what reads them; empty for all.
    light, heavy : float
        Shares of the images that are distorted a little, and more.
    validation : bool
        Whether the images for validation are trained on too.
    freezing : Freezing or None
    folded : bool
        Scales, biases and activations are those of the network that comes out.
    fixed : bool
        Weights stay as they are: each at the integer nearest to its moving average. If it is folded too, its
        best epoch is taken, or its start, by the images for validation or, with those, by all trained on.
    """

    name: str
    epochs: int
    learning_rate: tuple[float, float]
    integers: bool = True
    bytes: int | None = None
    reached: float = 0.85
    prune_every: int = 0
    keep: tuple[int, ...] = ()
    light: float = 0.3
    heavy: float = 0.0
    validation: bool = False
    freezing: Freezing | None = None
    folded: bool = False
    fixed: bool = False


@dataclass(frozen=True)
class Recipe:
    """A network and its training.

    Parameters
    ----------
    name : str
        Of the network that comes out.
    dataset : str
        One of `kolmogate.train.data.DATASETS`.
    seed : int
    layers : tuple of LayerRecipe
    stages : tuple of Stage
    limit : int
        Weights are integers in [-limit, limit].
    unit_bits : float
        What a channel costs beside its weights; the pressure on its last weights to go.
    activation_steps : int
        Activations are multiples of 1 over so many, 1 being about their standard deviation. The fewer, the
        smaller the numbers that biases are.
    bias_step : int
        Biases are multiples of a power of two near so many output steps.
    scale_steps : int
        Scales are so many to the octave, 1 or 2.
    batch : int
        Images a step.
    images : int
        Of the data set, of each kind; 0 is all.
    """

    name: str
    dataset: str
    seed: int
    layers: tuple[LayerRecipe, ...]
    stages: tuple[Stage, ...]
    limit: int = 7
    unit_bits: float = 12.0
    activation_steps: int = 32
    bias_step: int = 4
    scale_steps: int = 2
    batch: int = 125
    images: int = 0


def load_recipe(path: str | Path, *, seed: int | None = None) -> Recipe:
    """The recipe in a TOML file, with another seed if one is given.

    Raises `InputError` that says what is wrong with it.
    """
    try:
        content = tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"recipe {path} does not exist: give the path of a recipe.toml") from None
    except (OSError, ValueError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from None
    try:
        layers = tuple(_made(LayerRecipe, one) for one in content.pop("layers", []))
        stages = tuple(_stage(one) for one in content.pop("stages", []))
        recipe = _made(Recipe, {**content, "layers": layers, "stages": stages})
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from None
    _check(recipe, path)
    return recipe if seed is None else replace(recipe, seed=seed)


def _stage(values: dict[str, Any]) -> Stage:
    values = dict(values)
    if "freezing" in values:
        values["freezing"] = _made(Freezing, values["freezing"])
    if "learning_rate" in values:
        rates = values["learning_rate"]
        if not isinstance(rates, list) or len(rates) != 2:
            raise InputError("learning_rate must be a pair, at the start and at the end of the stage")
        values["learning_rate"] = tuple(rates)
    values["keep"] = tuple(values.get("keep", ()))
    return _made(Stage, values)


def _made(kind: type[T], values: dict[str, Any]) -> T:
    """``kind(**values)``, with readable errors."""
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values.keys() - known.keys():
        raise InputError(f"unknown field {name!r} of a {kind.__name__}: choose of {', '.join(known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING:
            raise InputError(f"a {kind.__name__} has no {name!r}: add it")
    return kind(**values)


def _check(recipe: Recipe, path: str | Path) -> None:
    if not recipe.layers or not recipe.stages:
        raise InputError(f"recipe {path} has no layers or no stages: add [[layers]] and [[stages]]")
    for name in ("limit", "activation_steps", "bias_step", "batch"):
        value = getattr(recipe, name)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"recipe {path}: {name} must be a whole number, at least 1, not {value!r}")
    if recipe.scale_steps not in (1, 2):
        raise InputError(f"recipe {path}: scale_steps must be 1 or 2, not {recipe.scale_steps!r}")
    folded = [stage.folded for stage in recipe.stages]
    if not folded[-1] or folded != sorted(folded):
        raise InputError(f"recipe {path}: the last stages, and only those, must be folded")
    if any(stage.folded and not stage.integers for stage in recipe.stages):
        raise InputError(f"recipe {path}: folded stages have weights that are integers")
    if any(len(stage.keep) not in (0, len(recipe.layers) - 1) for stage in recipe.stages):
        raise InputError(f"recipe {path}: keep is a number for each layer but the last")
    if any(stage.epochs < 1 for stage in recipe.stages):
        raise InputError(f"recipe {path}: a stage has at least one epoch")
