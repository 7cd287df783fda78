"""Lossy compression: a network rewritten with fewer bits a weight, and how far that may go.

Layer by layer, in order of execution, filters are fitted to what the original made of the calibration
inputs, given what the layers before make of them now, and rounded (`kolmogate.lossy.rounding`). One price,
of a bit in units of the loss, decides for all layers how coarsely: so each gets the bits that it makes the
most of. What comes out is a network like any other, with one scale a layer; it is compiled exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from .. import golden
from ..compiler import compile
from ..config import MachineConfig
from ..errors import InputError, UsageError
from ..image import Image, Lossy
from ..network import Int8Array, Network, Operation, Weighted
from ..simplify import simplify
from .calibration import capacity, mixtures, synthetic
from .outputs import Outputs
from .rewrite import rewrite
from .rounding import LARGEST, Rate, Rounded, round_filters
from .statistics import Moments, Reference, moments, observe

__all__ = ["Compressed", "compress", "round_network"]

SEED = 0

TYPICAL_LOSS = 0.3
"""With a budget of bytes the first price is that of about this loss."""

ATTEMPTS = 8
"""Prices tried at most."""

STRIDES = 1.15, 8.0
"""How far apart prices are tried, at least and at most, until one is met and one is not."""

AIM, ENOUGH = 0.99, 0.98
"""What part of a budget is aimed at, and what part is enough."""

CLOSE = 1.02
"""Prices that are so near are not told apart."""

LOSS_SLOPE, BYTES_SLOPE = 1.3, -0.3
"""How the logarithms of loss and of bytes go with that of the price, about."""

SCALE = 1.5
"""Steps are this times a power of two: all bytes of such a multiplier are 0 in a program
(`isa.STORED_CONSTANTS`)."""


@dataclass(frozen=True)
class Compressed:
    """A network that was rewritten with other weights, and its image."""

    network: Network
    image: Image


def compress(
    network: Network,
    config: MachineConfig,
    *,
    max_loss: float,
    calibration: Int8Array | None = None,
    objective: str = "balanced",
    max_cycles: int | None = None,
    max_bytes: int | None = None,
    streamed: bool = False,
) -> Compressed:
    """``network`` rewritten for a machine, and compiled.

    Parameters
    ----------
    max_loss : float
        The greatest loss of the outputs (`kolmogate.lossy.outputs`) on the calibration inputs.
    calibration : int8 array (inputs, *input shape) or None
        Of more than `capacity`, so many are drawn. None: `synthetic` inputs, and the loss is that of as many
        others.
    objective, max_cycles, max_bytes, streamed
        As for `kolmogate.compile`. Without ``max_bytes`` it is the network with the fewest bits found within
        ``max_loss``; with it, the one with the least loss found within so many bytes.

    Raises `InputError` if the budgets cannot be met, and as `compile` does.
    """
    if not (math.isfinite(max_loss) and max_loss > 0):
        raise UsageError(f"the largest loss must be a positive number, not {max_loss:g}")
    if max_bytes is not None and max_cycles is not None:
        raise UsageError("give a budget of cycles or of bytes, not both")
    small = simplify(network).network
    weights = sum(one.weights.size for one in small.operations if isinstance(one, Weighted))
    if not weights:
        raise InputError(f"network {network.name!r} has no weights to compress: leave out --max-loss")
    rng = np.random.default_rng(SEED)
    x = synthetic(small, rng) if calibration is None else calibration
    x = x[np.sort(rng.permutation(len(x))[: capacity(small)])]
    reference = observe(small, np.concatenate([x, mixtures(x, rng)]), rng)
    # Where inputs cost nothing, the loss is that of others than filters are fitted to.
    judged = synthetic(small, rng) if calibration is None else x
    outputs = Outputs.of(small, golden.run_tensors(small, judged))
    measure = outputs.measure

    def smallest(rewritten: Network) -> int:
        return compile(network, config, objective="smallest", rewritten=rewritten).device_bytes

    layers = sum(isinstance(one, Weighted) for one in small.operations)
    with tqdm(total=ATTEMPTS * layers, desc="compress", delay=2, leave=False, disable=None) as bar:

        def attempt(price: float) -> tuple[Network, float, float]:
            """The network, its loss, and what has to be at most 1."""
            rewritten = round_network(small, reference, price, config.columns, bar.update)
            loss = outputs.loss(golden.run_tensors(rewritten, judged))
            used = loss / max_loss if max_bytes is None else smallest(rewritten) / max_bytes
            return rewritten, loss, used

        start = max_loss if max_bytes is None else TYPICAL_LOSS
        found, loss, used = _search(attempt, start / weights, rising=max_bytes is None)
    if used > 1:
        raise InputError(
            f"the least loss found is {loss:.3g} ({measure}), more than {max_loss:g}: allow more loss"
            if max_bytes is None
            else f"network {network.name!r} takes {smallest(found)} bytes on {config.name!r} at a loss of"
            f" {loss:.3g} ({measure}), more than {max_bytes}: allow more bytes"
        )
    if loss > max_loss:
        raise InputError(
            f"within {max_bytes} bytes the least loss found is {loss:.3g} ({measure}), more than"
            f" {max_loss:g}: allow more bytes or more loss"
        )
    image = compile(
        network,
        config,
        objective=objective,
        max_cycles=max_cycles,
        max_bytes=max_bytes,
        streamed=streamed,
        rewritten=found,
    )
    lossy = Lossy(loss, measure, len(judged), calibration is None)
    return Compressed(found, replace(image, lossy=lossy))


def _search(
    attempt: Callable[[float], tuple[Network, float, float]], price: float, rising: bool
) -> tuple[Network, float, float]:
    """Of the attempts whose last result is at most 1 that with the highest price if that result rises with
    the price; if it falls, that with the least loss. One of more than 1 if there is none.
    """
    # The nearest prices that met the budget and that missed it, and what part of it they took.
    met: tuple[float, float] | None = None
    missed: tuple[float, float] | None = None
    best = None
    slope = LOSS_SLOPE if rising else BYTES_SLOPE
    for _ in range(ATTEMPTS):
        result = attempt(price)
        used = max(result[2], 1e-9)
        if used <= 1:
            met = price, used
            if rising or best is None or best[2] > 1 or result[1] < best[1]:
                best = result
            if used >= ENOUGH:
                break
        else:
            missed = price, used
            best = result if best is None or (best[2] > 1 and result[2] < best[2]) else best
        if met is None or missed is None:
            change = (AIM / used) ** (1 / slope)
            least, most = STRIDES if change > 1 else (1 / STRIDES[1], 1 / STRIDES[0])
            price *= min(max(change, least), most)
            continue
        if max(met[0], missed[0]) < CLOSE * min(met[0], missed[0]):
            break
        # Between the two as far as the budget is, but not at an end.
        share = math.log(AIM / met[1]) / math.log(missed[1] / met[1])
        price = met[0] * (missed[0] / met[0]) ** min(max(share, 0.2), 0.8)
    assert best is not None
    return best


def round_network(
    network: Network,
    reference: Reference,
    price: float,
    columns: int,
    tell: Callable[[], object] = lambda: None,
) -> Network:
    """The network with filters rounded at a ``price`` of a bit.

    ``tell`` is called after each layer with weights.
    """
    values = {network.input: reference.values[network.input]}
    operations: list[Operation] = []
    rate = Rate.start(columns)
    for operation in network.operations:
        inputs = [network.tensors[name] for name in operation.inputs]
        output = network.tensors[operation.output]
        if isinstance(operation, Weighted):
            needed = moments(network, operation, reference, values[operation.inputs[0]])
            rounded, step = _round(needed, price, rate)
            rate = rounded.rate
            operation = rewrite(operation, rounded.weights, rounded.bias, step, inputs[0], output)
            tell()
        operations.append(operation)
        read = [values[name] for name in operation.inputs]
        values[operation.output] = golden.evaluate(operation, read, inputs, output)
    return replace(network, operations=tuple(operations))


def _round(needed: Moments, price: float, rate: Rate) -> tuple[Rounded, float]:
    """Filters rounded with the step for which error and bits together cost least, and that step."""
    precision = np.exp(needed.log_precision())
    # A fine step d costs precision * d**2 / 12, and log2(d) bits less: here the derivatives are equal.
    ideal = np.sqrt(6 * price / (np.log(2) * precision))
    # No weight beyond what int8 holds, and none that is certain to be rounded to 0.
    largest = np.abs(needed.targets[:, :-1]).max()
    ends = (largest / LARGEST, 2 * largest) if largest > 0 else (1.0, 1.0)
    octave = math.floor(math.log2(float(np.clip(0.85 * ideal, *ends)) / SCALE))
    best: tuple[float, Rounded, float] | None = None
    for step in (SCALE * 2.0**octave, SCALE * 2.0 ** (octave + 1)):
        if step >= ends[0]:
            rounded = round_filters(needed, step, price, rate)
            cost = rounded.error + price * rounded.bits
            if best is None or cost < best[0]:
                best = cost, rounded, step
    assert best is not None
    return best[1:]
