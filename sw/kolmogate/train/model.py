"""The network while it is trained: integer weights behind straight-through rounding, normalised activations.

Activations are numbers from 0 to 255 steps, of so many to 1.0 as the recipe says. Before they are folded,
layers normalise each batch, by scales that are coarse already once weights are integers. `Norm.fold` turns
that into what the machine computes: a scale, of two to the octave, and a bias that is a multiple of a power
of two, the same for the layer. Both are then trained on, through their rounding.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recipe import LayerRecipe, Recipe

__all__ = ["Block", "Layer", "Model", "Norm"]

HIGHEST = 255
"""Of an activation, in steps."""

FRACTIONS = (1.5, 2.125)
"""Folded scales are one of these times a power of two, some half an octave apart, or the first of them:
multipliers of so few bits are the fewest bytes of constants."""
HOLD = 0.75
"""By how many steps a scale may be off before it is rounded anew: else many would go to and fro."""
HIGHEST_EXPONENT = 3
"""Channels that are the same for every image would have any scale."""
BIAS_LIMIT = 63
SPREAD = 0.75
"""Standard deviation of weights when they become integers."""
MARGIN = 0.45
"""How far the numbers behind integers may exceed the limit."""
AVERAGE_RATE = 0.03
EPSILON = 1e-5


def rounded(x: Tensor) -> Tensor:
    """The nearest integers, with the gradient of ``x``."""
    return x + (x.round() - x).detach()


def coarse(exponent: Tensor) -> Tensor:
    """The scales nearest to ``FRACTIONS[0] * 2**exponent``."""
    halves = (2 * exponent).round()
    octaves = (halves / 2).floor()
    fractions = torch.where(halves == 2 * octaves, *FRACTIONS)
    return torch.ldexp(fractions, octaves.int())


class Block(nn.Module):
    """Weights (out, in, height, width): integers in [-limit, limit], or real numbers at first.

    ``average`` are moving averages of the integers; where ``frozen``, weights are ``value``.
    """

    def __init__(self, shape: tuple[int, ...], limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.are_integers = False
        self.latent = nn.Parameter(torch.randn(shape) * SPREAD)
        self.register_buffer("average", torch.zeros(shape))
        self.register_buffer("frozen", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("value", torch.zeros(shape))

    def make_integers(self) -> Tensor:
        """From now on weights are rounded; returns by what they were multiplied before."""
        with torch.no_grad():
            factor = SPREAD / self.latent.std()
            self.latent.mul_(factor)
            self.clamp()
            self.are_integers = True
            self.average.copy_(self.integers())
        return factor

    def forward(self) -> Tensor:
        if not self.are_integers:
            return self.latent
        return torch.where(self.frozen, self.value, rounded(self.latent))

    @torch.no_grad()
    def integers(self) -> Tensor:
        return torch.where(self.frozen, self.value, self.latent.round().clamp(-self.limit, self.limit))

    @torch.no_grad()
    def clamp(self) -> None:
        if self.are_integers:
            self.latent.clamp_(-self.limit - MARGIN, self.limit + MARGIN)

    @torch.no_grad()
    def watch(self) -> None:
        """Move the averages."""
        self.average.lerp_(self.integers(), AVERAGE_RATE)

    @torch.no_grad()
    def freeze(self, threshold: float) -> None:
        """Freeze what wanders: weights whose average is further than ``threshold`` from an integer."""
        nearest = self.average.round()
        wanders = ((self.average - nearest).abs() > threshold) & ~self.frozen
        self.value.copy_(torch.where(wanders, nearest, self.value))
        self.frozen |= wanders

    @torch.no_grad()
    def freeze_all(self) -> None:
        self.freeze(-1.0)

    @torch.no_grad()
    def thaw(self) -> None:
        self.latent.copy_(torch.where(self.frozen, self.value, self.latent))
        self.frozen.zero_()


class _Activation(torch.autograd.Function):
    """``clamp(z * scale + bias)``, rounded half up to ``steps`` to 1.0; gradients pass the rounding."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor, bias: Tensor, steps: int) -> Tensor:
        t = torch.addcmul(bias, z, scale)
        inside = ((t > 0) & (t < HIGHEST / steps)).to(z.dtype)
        ctx.save_for_backward(z, scale, inside)
        return t.clamp_(0, HIGHEST / steps).mul_(steps).add_(0.5).floor_().div_(steps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        z, scale, inside = ctx.saved_tensors
        gradient = gradient * inside
        axes = (0, *range(2, z.ndim))
        return (
            gradient * scale,
            (gradient * z).sum(axes, keepdim=True),
            gradient.sum(axes, keepdim=True),
            None,
        )


class Norm(nn.Module):
    """Scales and biases of a layer's channels; the activation too, unless it is the last layer."""

    def __init__(self, channels: int, last: bool, dense: bool, inputs: int, recipe: Recipe) -> None:
        super().__init__()
        self.last, self.dense = last, dense
        self.steps, self.bias_step = recipe.activation_steps, recipe.bias_step
        self.scale_steps = recipe.scale_steps
        self.folded = self.coarse = False
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        # Folded: log2 of the scales of accumulators, less that of the first of FRACTIONS, and of the biases'
        # unit in accumulator steps. The last layer has no normalisation, and one scale from the start.
        start = math.log2(1.5 / math.sqrt(inputs) / SPREAD)
        self.exponent = nn.Parameter(torch.full((1,) if last else (channels,), start))
        # What it is rounded to, in steps.
        self.register_buffer("held", torch.zeros_like(self.exponent.detach()))
        self.register_buffer("settled", torch.tensor(False))
        self.register_buffer("bias_bits", torch.tensor(0))

    def scales(self) -> Tensor:
        """Of accumulators, folded: (channels,), of the last layer (1,)."""
        if self.last:
            return torch.exp2(self.exponent)
        smooth = FRACTIONS[0] * torch.exp2(self.exponent)
        return smooth + (self._coarse_scales() - smooth).detach()

    def _coarse_scales(self) -> Tensor:
        return coarse(self.held / self.scale_steps)

    @torch.no_grad()
    def _round_scales(self, exponents: Tensor) -> None:
        """Round those that are too far off, unless they are settled."""
        steps = exponents * self.scale_steps
        off = ((steps - self.held).abs() > HOLD) & ~self.settled
        self.held.copy_(torch.where(off, steps.round(), self.held))

    @torch.no_grad()
    def settle(self) -> None:
        """From now on scales stay as they are: weights that are frozen could not make up for a change."""
        self.settled.fill_(True)

    @torch.no_grad()
    def unsettle(self) -> None:
        """Scales follow what is learned again, from where they are."""
        if self.settled and not self.last:
            self.exponent.copy_(self.held / self.scale_steps)
            self.gain.copy_(self._coarse_scales() * torch.sqrt(self.variance + EPSILON))
        self.settled.fill_(False)

    def bias_units(self) -> Tensor:
        """Folded biases in units of 2**bias_bits accumulator steps, rounded, (channels,)."""
        unit = torch.exp2(self.bias_bits) / self.steps * self.scales()
        return rounded(self.bias / unit.detach()).clamp(-BIAS_LIMIT, BIAS_LIMIT)

    def folded_biases(self) -> Tensor:
        """What `bias_units` add to outputs, (channels,)."""
        return self.bias_units() * (torch.exp2(self.bias_bits) / self.steps * self.scales())

    @torch.no_grad()
    def _normal_exponents(self) -> Tensor:
        """What `exponent` is to be when the normalisation is folded."""
        return (
            (self.gain / torch.sqrt(self.variance + EPSILON) / FRACTIONS[0])
            .log2()
            .clamp(max=HIGHEST_EXPONENT)
        )

    @torch.no_grad()
    def fold(self) -> None:
        """Turn the normalisation into scales and biases."""
        if not self.last:
            self._round_scales(self._normal_exponents())
            self.exponent.copy_(self.held / self.scale_steps)
            self.bias.sub_(self.mean * self.scales())
        scales = self.scales()
        needed = (self.bias_step / scales.median()).log2().round()
        widest = (self.bias.abs() / scales * self.steps / BIAS_LIMIT).max().clamp(min=1).log2().ceil()
        self.bias_bits.copy_(torch.maximum(needed, widest).clamp(min=0).long())
        self.folded = True

    def forward(self, z: Tensor, training: bool) -> Tensor:
        shape = (1, -1, *[1] * (z.ndim - 2))
        if self.last:
            return z * self.scales() + (self.folded_biases() if self.folded else self.bias)
        if not self.folded:
            gain = self.gain
            if self.coarse:
                exponents = self._normal_exponents()
                if training:
                    self._round_scales(exponents)
                gain = gain * self._coarse_scales() / (FRACTIONS[0] * torch.exp2(exponents))
            z = F.batch_norm(z, self.mean, self.variance, gain, self.bias, training, 0.05, EPSILON)
            return F.hardtanh(z, 0, HIGHEST / self.steps)
        if training:
            self._round_scales(self.exponent)
        scales, bias = self.scales(), self.folded_biases()
        if not self.dense:
            # Convolutions round twice, first to this power of two, half up.
            half = torch.full_like(scales, 0.5 / self.steps)
            bias = bias + torch.ldexp(half, scales.detach().frexp().exponent)
        return _Activation.apply(z, scales.view(shape), bias.view(shape), self.steps)


class Layer(nn.Module):
    """A layer of a recipe. ``inputs`` are channels of an image of ``side`` pixels."""

    def __init__(self, recipe: LayerRecipe, inputs: int, side: int, last: bool, whole: Recipe) -> None:
        super().__init__()
        self.recipe, self.side, self.inputs = recipe, side, inputs
        self.size = recipe.size or side
        self.map = (side + 2 * recipe.padding - self.size) // recipe.stride + 1
        self.is_dense = self.map == 1 and recipe.padding == 0
        self.norm = Norm(recipe.channels, last, self.is_dense, inputs * self.size**2, whole)

    @property
    def output_side(self) -> int:
        return self.map // self.recipe.pool

    def forward(self, x: Tensor, weights: Tensor, training: bool, precision: torch.dtype) -> Tensor:
        x, weights = x.to(precision), weights.to(precision)
        if self.is_dense:
            # Channels are last in memory, so that this copies nothing.
            flat = x.permute(0, 2, 3, 1).reshape(len(x), -1)
            z = F.linear(flat, weights.permute(0, 2, 3, 1).reshape(len(weights), -1))
            return self.norm(z.float(), training)[:, :, None, None]
        weights = weights.contiguous(memory_format=torch.channels_last)
        z = F.conv2d(x, weights, None, self.recipe.stride, self.recipe.padding)
        if self.recipe.pool > 1:
            z = F.max_pool2d(z, self.recipe.pool)
        return self.norm(z.float(), training)


class Model(nn.Module):
    """The network of a recipe, for square images of ``side`` pixels and one channel.

    Inputs (n, 1, side, side) are integers, as many steps as they say; outputs are logits (n, classes).
    """

    def __init__(self, recipe: Recipe, side: int) -> None:
        super().__init__()
        self.steps = recipe.activation_steps
        self.blocks = nn.ModuleDict()
        self.layers = nn.ModuleList()
        channels = 1
        for layer in recipe.layers:
            last = layer is recipe.layers[-1]
            made = Layer(layer, channels, side, last, recipe)
            shape = (layer.channels, channels, made.size, made.size)
            if layer.block not in self.blocks:
                self.blocks[layer.block] = Block(shape, recipe.limit)
            self.layers.append(made)
            channels, side = layer.channels, made.output_side

    def forward(self, x: Tensor, training: bool = False, precision: torch.dtype = torch.float32) -> Tensor:
        weights = {name: block() for name, block in self.blocks.items()}
        x = x / self.steps
        for layer in self.layers:
            x = layer(x, weights[layer.recipe.block], training, precision)
        return x.flatten(1)

    def make_integers(self) -> None:
        for name, block in self.blocks.items():
            if not block.are_integers:
                factor = block.make_integers()
                last = self.layers[-1]
                if last.recipe.block == name:
                    last.norm.exponent.data.sub_(torch.log2(factor))
        for layer in self.layers:
            layer.norm.coarse = True

    def fold(self) -> None:
        for layer in self.layers:
            if not layer.norm.folded:
                layer.norm.fold()
