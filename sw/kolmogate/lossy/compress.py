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

ATTEMPTS = 9
"""Prices tried at most."""

STRIDE = 4.0
"""How far apart prices are tried until one is met and one is not."""

CLOSE = 1.05
"""Prices that are so near are not told apart."""

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
        Of more than `capacity`, so many are drawn. None: `synthetic` inputs.
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
    outputs = Outputs.of(small, golden.run_tensors(small, x))
    measure = outputs.measure

    def smallest(rewritten: Network) -> int:
        return compile(network, config, objective="smallest", rewritten=rewritten).device_bytes

    layers = sum(isinstance(one, Weighted) for one in small.operations)
    with tqdm(total=ATTEMPTS * layers, desc="compress", delay=2, leave=False, disable=None) as bar:

        def attempt(price: float) -> tuple[Network, float, float]:
            """The network, its loss, and what has to be at most 1."""
            rewritten = round_network(small, reference, price, config.columns, bar.update)
            loss = outputs.loss(golden.run_tensors(rewritten, x))
            used = loss / max_loss if max_bytes is None else smallest(rewritten) / max_bytes
            return rewritten, loss, used

        found, loss, used = _search(attempt, max_loss / weights, rising=max_bytes is None)
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
    lossy = Lossy(loss, measure, len(x), calibration is None)
    return Compressed(found, replace(image, lossy=lossy))


def _search(
    attempt: Callable[[float], tuple[Network, float, float]], price: float, rising: bool
) -> tuple[Network, float, float]:
    """Of the attempts whose last result is at most 1 that with the highest price if that result rises with
    the price; if it falls, that with the least loss. One of more than 1 if there is none.
    """
    met: float | None = None
    missed: float | None = None
    best = None
    for _ in range(ATTEMPTS):
        result = attempt(price)
        if result[2] <= 1:
            met = price
            if rising or best is None or best[2] > 1 or result[1] < best[1]:
                best = result
        else:
            missed = price
            best = result if best is None or (best[2] > 1 and result[2] < best[2]) else best
        if met is not None and missed is not None:
            if max(met, missed) < CLOSE * min(met, missed):
                break
            price = math.sqrt(met * missed)
        elif (met is not None) == rising:
            price *= STRIDE
        else:
            price /= STRIDE
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
