"""Channels that do nothing are dropped while the network is trained: what is left is trained in less time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .model import Block, Layer, Model
from .recipe import Recipe

__all__ = ["narrow", "prune", "widths"]


def widths(model: Model) -> tuple[int, ...]:
    """Output channels of each layer."""
    return tuple(layer.recipe.channels for layer in model.layers)


@torch.no_grad()
def prune(model: Model, recipe: Recipe, side: int) -> Model:
    """The model without channels that nothing reads or that are the same for every image.

    Channels of a block that several layers use stay, and those that such a layer reads. A constant goes
    into the normalisation of what reads it; where its window reaches into padding that is not quite the same.
    """
    keep = [torch.ones(width, dtype=torch.bool) for width in widths(model)]
    users = [[layer for layer in model.layers if layer.recipe.block == name] for name in model.blocks]
    blocks = dict(zip(model.blocks, users, strict=True))
    weights = {name: block() for name, block in model.blocks.items()}
    for _ in range(len(keep)):
        for index, layer in enumerate(model.layers[:-1]):
            following = model.layers[index + 1]
            if any(len(blocks[one.recipe.block]) > 1 for one in (layer, following)):
                continue
            made, read = weights[layer.recipe.block], weights[following.recipe.block]
            if index:
                made = made[:, keep[index - 1]]
            read = read[keep[index + 1]]
            alive = made.any(3).any(2).any(1) & read.any(3).any(2).any(0)
            keep[index] = alive if alive.any() else keep[index]
    return _without(model, recipe, side, keep)


@torch.no_grad()
def narrow(model: Model, recipe: Recipe, side: int, count: Sequence[int]) -> Model:
    """The model with so many channels of each layer but the last: those of most weight in what reads them."""
    keep = [torch.ones(width, dtype=torch.bool) for width in widths(model)]
    for mask, wanted, layer, following in zip(keep, count, model.layers, model.layers[1:], strict=False):
        read = model.blocks[following.recipe.block]()
        weight = read.square().sum((0, 2, 3)).sqrt() * layer.norm.gain
        mask.fill_(False)
        mask[weight.topk(min(wanted, len(weight))).indices] = True
    return _without(model, recipe, side, keep)


def _without(model: Model, recipe: Recipe, side: int, keep: list[Tensor]) -> Model:
    """The model with the channels in the masks ``keep`` of each layer."""
    layers = tuple(
        replace(layer.recipe, channels=int(mask.sum()))
        for layer, mask in zip(model.layers, keep, strict=True)
    )
    small = Model(replace(recipe, layers=layers), side)
    source = torch.ones(1, dtype=torch.bool)
    for index, (before, after) in enumerate(zip(model.layers, small.layers, strict=True)):
        _copy_norm(before, after, keep[index])
        if index:
            _fold_constants(model, index, small, keep)
        old, new = model.blocks[before.recipe.block], small.blocks[before.recipe.block]
        _copy_block(old, new, keep[index], source)
        source = keep[index]
    return small


def _copy_norm(before: Layer, after: Layer, keep: Tensor) -> None:
    for name in ("gain", "bias", "mean", "variance"):
        getattr(after.norm, name).copy_(getattr(before.norm, name)[keep])
    for name in ("exponent", "held"):
        value = getattr(before.norm, name)
        getattr(after.norm, name).copy_(value if before.norm.last else value[keep])
    after.norm.settled.copy_(before.norm.settled)
    after.norm.bias_bits.copy_(before.norm.bias_bits)
    after.norm.folded, after.norm.coarse = before.norm.folded, before.norm.coarse


def _copy_block(before: Block, after: Block, made: Tensor, read: Tensor) -> None:
    for name in ("latent", "average", "frozen", "value"):
        getattr(after, name).copy_(getattr(before, name)[made][:, read])
    after.are_integers = before.are_integers


def _fold_constants(model: Model, index: int, small: Model, keep: list[Tensor]) -> None:
    """What dropped constant channels added to the accumulators of layer ``index`` leaves their mean."""
    before, layer = model.layers[index - 1], model.layers[index]
    made = model.blocks[before.recipe.block]()
    if index > 1:
        made = made[:, keep[index - 2]]
    constant = ~keep[index - 1] & ~made.any(3).any(2).any(1)
    nothing = torch.zeros(1, len(constant), 1, 1)
    values = before.norm(nothing, training=False).flatten() * constant
    added = (model.blocks[layer.recipe.block]().sum((2, 3)) * values).sum(1)[keep[index]]
    norm = small.layers[index].norm
    if norm.last:
        norm.bias.add_(added * norm.scales())
    else:
        norm.mean.sub_(added)


def live_weights(model: Model) -> list[int]:
    """Weights that are not zero, of each block."""
    return [int(np.count_nonzero(block.integers().numpy())) for block in model.blocks.values()]
