"""The training itself: the stages of a recipe, an epoch after the other, resumable at each.

Two forces move the weights. The optimiser follows the loss. Outside it, for it would divide the strength
away, each step also moves every weight towards zero by what its bits are worth (`rate.gradient`). The price
of a bit is steered: every `STEER` steps the coder says how many bytes the weights take, and the price rises
where they are more than planned.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import InputError
from .data import HEAVY, LIGHT, Images, Split, distort, to_inputs
from .model import Block, Model, Norm
from .pruning import live_weights, narrow, prune, widths
from .rate import coded_bytes, gradient
from .recipe import Recipe, Stage

__all__ = ["Trainer", "errors_and_loss"]

STEER, REFRESH, WATCH = 25, 4, 4
"""Steps after which the price of a bit, the rate's gradient and the moving averages are made anew."""
FIRST_PRICE, LEAST_PRICE, HIGHEST_PRICE = 0.01, 1e-4, 0.06
CORRECTION, DAMPING, LARGEST_CHANGE = 0.3, 3.0, 0.15
"""What the price's logarithm changes by: for the error of the bytes' logarithm, for its growth, at most."""
SCALE_SHARE, BIAS_SHARE = 0.05, 0.5
"""Learning rates of folded scales, which are rounded coarsely, and of all others, to that of the weights."""
BETAS = (0.9, 0.99)
LEAST_GAIN = 0.02
LOSS_WEIGHT = 2.0
"""The better of two checkpoints has fewer errors, in percent, and so many times less loss."""


@torch.no_grad()
def errors_and_loss(model: Model, split: Split) -> tuple[float, float]:
    """Share of images classified wrongly, in percent, and the mean cross-entropy."""
    errors = loss = 0.0
    for images, labels in zip(split.images.split(1000), split.labels.split(1000), strict=True):
        logits = model(to_inputs(images))
        errors += float((logits.argmax(1) != labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return 100 * errors / len(split), loss / len(split)


@dataclass
class _Place:
    """Where a training is: what a checkpoint says beside the model."""

    stage: int = 0
    epoch: int = 0
    price: float = FIRST_PRICE
    first_bytes: int = 0
    error: float = 0.0
    best: tuple[float, dict[str, Any]] | None = None


class Trainer:
    """Trains the network of a recipe.

    ``model`` is the network as it is; ``checkpoint`` the file that each epoch is saved to, and that a
    training goes on from. The same recipe on the same machine gives the same weights, however often it is
    interrupted.
    """

    def __init__(
        self, recipe: Recipe, images: Images, checkpoint: Path, log: Callable[[str], None] = print
    ) -> None:
        self.recipe, self.images, self.checkpoint, self._log = recipe, images, checkpoint, log
        self.side = images.training.images.shape[-1]
        torch.manual_seed(recipe.seed)
        self.model = Model(recipe, self.side)
        self._generator = torch.Generator().manual_seed(recipe.seed)
        self._place = _Place()
        if checkpoint.exists():
            self._resume()

    def run(self) -> Model:
        """Train to the end of the last stage; returns the model."""
        for index, stage in enumerate(self.recipe.stages):
            if index < self._place.stage:
                continue
            if self._place.epoch == 0:
                self._begin(stage)
                if stage.folded and stage.fixed:
                    self._keep_best(stage)
            while self._place.epoch < stage.epochs:
                self._epoch(stage)
                self._place.epoch += 1
                self._save()
            if self._place.best is not None:
                self.model.load_state_dict(self._place.best[1])
            self._place.stage, self._place.epoch, self._place.best = index + 1, 0, None
            self._save()
        return self.model

    def _begin(self, stage: Stage) -> None:
        if stage.keep:
            self.model = narrow(self.model, self.recipe, self.side, stage.keep)
        if stage.integers:
            self.model.make_integers()
        for block in self.model.blocks.values():
            if stage.fixed:
                block.freeze_all()
            else:
                block.thaw()
                block.average.copy_(block.integers())
        if stage.folded:
            self._measure()
            self.model.fold()
        for layer in self.model.layers:
            if not stage.fixed:
                layer.norm.unsettle()
        self._place.first_bytes, self._place.error = coded_bytes(self.model) if stage.integers else 0, 0.0

    def _new_optimiser(self, stage: Stage) -> torch.optim.Optimizer:
        for _, block in self._blocks():
            block.latent.requires_grad_(not stage.fixed)
        kinds: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if stage.fixed and name.endswith("exponent"):
                # A step of a scale is a jump that nothing is left to make up for.
                continue
            if name.endswith("latent"):
                share = 1.0
            else:
                share = SCALE_SHARE if stage.folded and name.endswith("exponent") else BIAS_SHARE
            if parameter.requires_grad:
                kinds.setdefault(share, []).append(parameter)
        groups = [{"params": parameters, "share": share} for share, parameters in kinds.items()]
        return torch.optim.Adam(groups, betas=BETAS, fused=True)

    @torch.no_grad()
    def _measure(self) -> None:
        """Bring means and variances of the normalisation up to date with the weights."""
        if any(layer.norm.folded for layer in self.model.layers):
            return
        for index in torch.randperm(len(self.images.training), generator=self._generator).split(
            self.recipe.batch
        )[:100]:
            self.model(to_inputs(self.images.training.images[index]), training=True)

    def _epoch(self, stage: Stage) -> None:
        place, recipe = self._place, self.recipe
        if stage.prune_every and place.epoch and place.epoch % stage.prune_every == 0:
            before = widths(self.model)
            self.model = prune(self.model, recipe, self.side)
            if widths(self.model) != before:
                self._measure()
        # Pressed weights come to hang where rounding turns, all at once, and no longer learn; the first steps
        # of a new optimiser, which are large, free them.
        optimiser = self._new_optimiser(stage)
        images, labels = self._epoch_images(stage)
        order = torch.randperm(len(labels), generator=self._generator)
        batches = order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch)
        total = stage.epochs * len(batches)
        # Folded layers do not normalise away what a coarser sum is off by.
        precision = torch.float32 if stage.folded else torch.bfloat16
        gradients: dict[str, Tensor] = {}
        loss_sum = 0.0
        with tqdm(batches, desc=f"{stage.name} {place.epoch + 1}/{stage.epochs}", leave=False) as progress:
            for number, index in enumerate(progress):
                step = place.epoch * len(batches) + number
                rate = self._set_learning_rate(optimiser, stage, step / total)
                logits = self.model(to_inputs(images[index]), training=True, precision=precision)
                loss = F.cross_entropy(logits, labels[index])
                if stage.bytes is not None and not stage.fixed:
                    self._press(stage, step, total, rate, gradients)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                self._keep_in_range()
                if stage.integers and not stage.fixed:
                    self._watch(stage, step, total, len(batches))
                if number % 8 == 0:
                    loss_sum += 8 * float(loss.detach())
        self._report(stage, loss_sum / len(batches))

    def _epoch_images(self, stage: Stage) -> tuple[Tensor, Tensor]:
        """The images of an epoch, some distorted, with their labels."""
        split = self.images.training
        images, labels = split.images, split.labels
        if stage.validation:
            images = torch.cat([images, self.images.validation.images])
            labels = torch.cat([labels, self.images.validation.labels])
        images = images.clone()
        chance = torch.rand(len(images), generator=self._generator)
        for most, chosen in (
            (LIGHT, chance < stage.light),
            (HEAVY, chance > 1 - stage.heavy),
        ):
            index = chosen.nonzero()[:, 0]
            for part in index.split(1000) if len(index) else ():
                images[part] = distort(images[part], most, self._generator)
        return images, labels

    def _set_learning_rate(self, optimiser: torch.optim.Optimizer, stage: Stage, progress: float) -> float:
        start, end = stage.learning_rate
        rate = end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        return rate

    @torch.no_grad()
    def _press(self, stage: Stage, step: int, total: int, rate: float, gradients: dict[str, Tensor]) -> None:
        """Move the weights towards zero, at the price that reaches the stage's bytes."""
        place = self._place
        assert stage.bytes is not None
        if step % STEER == 0:
            share = min(1.0, step / total / stage.reached)
            planned = place.first_bytes * (stage.bytes / place.first_bytes) ** share
            error = math.log(coded_bytes(self.model) / planned)
            change = CORRECTION * error + DAMPING * (error - place.error)
            place.error = error
            place.price *= math.exp(max(-LARGEST_CHANGE, min(LARGEST_CHANGE, change)))
            place.price = max(LEAST_PRICE, min(HIGHEST_PRICE, place.price))
        for name, block in self._blocks():
            if step % REFRESH == 0 or name not in gradients:
                gradients[name] = gradient(block, self.recipe.unit_bits)
            block.latent.sub_(gradients[name], alpha=rate * place.price)

    def _blocks(self) -> Iterator[tuple[str, Block]]:
        return iter(self.model.blocks.items())

    @torch.no_grad()
    def _keep_in_range(self) -> None:
        for _, block in self._blocks():
            block.clamp()
        for layer in self.model.layers:
            norm: Norm = layer.norm
            norm.gain.clamp_(min=LEAST_GAIN)

    def _watch(self, stage: Stage, step: int, total: int, batches: int) -> None:
        """Keep the averages, and freeze what wanders when its time has come."""
        if step % WATCH == 0:
            for _, block in self._blocks():
                block.watch()
        freezing = stage.freezing
        if freezing is None or step / total < freezing.start:
            return
        for layer in self.model.layers:
            layer.norm.settle()
        if (step + 1) % max(1, batches // 2) == 0:
            share = (step / total - freezing.start) / (freezing.end - freezing.start)
            bend = (1 + math.cos(math.pi * min(1.0, share))) / 2
            for _, block in self._blocks():
                block.freeze(freezing.low + (freezing.high - freezing.low) * bend)

    def _report(self, stage: Stage, loss: float) -> None:
        errors, validation_loss = errors_and_loss(self.model, self.images.validation)
        place = self._place
        if stage.folded and stage.fixed:
            self._keep_best(stage)
        text = (
            f"{stage.name} {place.epoch + 1}: loss {loss:.4f}, validation {errors:.2f}% {validation_loss:.4f}"
        )
        if stage.integers:
            text += f", {coded_bytes(self.model)} bytes, price {place.price:.4f}"
            text += f", weights {live_weights(self.model)}"
            frozen = sum(int(block.frozen.sum()) for _, block in self._blocks())
            text += f" of {widths(self.model)}, {frozen} frozen"
        self._log(text)

    def _keep_best(self, stage: Stage) -> None:
        """Keep the model if it is the best so far, by the images for validation or, once these are trained on
        too, by all that are, as they are."""
        splits = [self.images.validation] + [self.images.training] * stage.validation
        score = 0.0
        for split in splits:
            errors, loss = errors_and_loss(self.model, split)
            score += len(split) * (errors + LOSS_WEIGHT * loss)
        place = self._place
        if place.best is None or score < place.best[0]:
            state = {key: value.clone() for key, value in self.model.state_dict().items()}
            place.best = (score, state)

    def _save(self) -> None:
        state = {
            "recipe": self.recipe,
            "widths": widths(self.model),
            "flags": (
                [block.are_integers for _, block in self._blocks()],
                [layer.norm.folded for layer in self.model.layers],
            ),
            "model": self.model.state_dict(),
            "place": self._place,
            "generator": self._generator.get_state(),
        }
        temporary = self.checkpoint.with_name(self.checkpoint.name + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def _resume(self) -> None:
        # It is ours: made by `_save`.
        state = torch.load(self.checkpoint, weights_only=False)
        if state["recipe"] != self.recipe:
            raise InputError(
                f"checkpoint {self.checkpoint} is of another recipe: choose another output folder, or"
                " remove it"
            )
        layers = tuple(
            replace(layer, channels=width)
            for layer, width in zip(self.recipe.layers, state["widths"], strict=True)
        )
        self.model = Model(replace(self.recipe, layers=layers), self.side)
        integers, folded = state["flags"]
        for (_, block), flag in zip(self._blocks(), integers, strict=True):
            block.are_integers = flag
        for layer, flag in zip(self.model.layers, folded, strict=True):
            layer.norm.folded, layer.norm.coarse = flag, all(integers)
        self.model.load_state_dict(state["model"])
        self._place = state["place"]
        self._generator.set_state(state["generator"])
