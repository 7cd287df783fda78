"""What weights cost: the bytes that the entropy coder of weight programs takes for them, and its gradient.

The bytes are those of the real coder, `kolmogate.programs.entropy`. It adapts to densities; the gradient
takes them from the integers as they are: how often a weight is not zero, by its output and by its input, and
how often magnitudes follow.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ..parameters import program_rows
from ..programs.entropy import Coder, Reference
from .model import Block, Model

__all__ = ["coded_bytes", "gradient"]

COLUMNS = 8
PRIOR = 4.0
"""How many weights of the whole tensor's density a row or a column is taken to have seen before."""
STEEPEST = 9.0
FLATTEST, FLATTEST_STEP = 0.3, 0.5
"""Bits for the first and for each further unit of magnitude, at least."""
SMALLEST = 0.01


@torch.no_grad()
def coded_bytes(model: Model) -> int:
    """Bytes that the coder takes for all blocks, after rows and columns of zeros are dropped."""
    coder = Coder(COLUMNS)
    for block in model.blocks.values():
        weights = block.integers().permute(0, 2, 3, 1).numpy().astype(np.int8)
        weights = weights[weights.any(axis=(1, 2, 3))]
        weights = weights[..., weights.any(axis=(0, 1, 2))]
        if weights.size:
            for rows in program_rows(weights.reshape(len(weights), -1), COLUMNS):
                coder.write(rows, COLUMNS, (Reference(), Reference()))
    return -(-coder.bits // 8)


@torch.no_grad()
def gradient(block: Block, unit_bits: float) -> Tensor:
    """Bits a unit of each weight: what moving it away from zero by 1 would cost.

    ``unit_bits`` is what an output channel and an input channel cost as long as a weight is left: the fewer
    there are, the more of it each one bears.
    """
    weights, integers = block.latent, block.integers()
    present = (integers != 0).float()
    window = tuple(range(2, weights.ndim))
    overall = (present.sum() + 0.5) / (present.numel() + 1)
    of_output = present.sum((1, *window), keepdim=True)
    of_input = present.sum((0, *window), keepdim=True)

    def density(count: Tensor) -> Tensor:
        return (count + PRIOR * overall) / (present.numel() / count.numel() + PRIOR)

    logit = torch.logit(density(of_output)) + torch.logit(density(of_input)) - torch.logit(overall)
    magnitudes = torch.bincount(integers.abs().flatten().long(), minlength=block.limit + 1)[1:].float() + 0.5
    lengths = -torch.log2(magnitudes / magnitudes.sum())
    magnitude = weights.abs()
    bits = (-logit.clamp(-STEEPEST, STEEPEST) / math.log(2) + 1 + lengths[0]).clamp(min=FLATTEST)
    bits = bits.expand_as(weights)
    for step in range(1, block.limit):
        more = (lengths[step] - lengths[step - 1]).clamp(min=FLATTEST_STEP)
        bits = torch.where(magnitude > step, more, bits)
    # The last weights of a channel bear what the channel costs.
    shared = unit_bits / (of_output + 1) + unit_bits / (of_input + 1)
    bits = bits + shared * (magnitude <= 1)
    return bits * weights.sign() * (magnitude > SMALLEST)
