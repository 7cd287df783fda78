"""Golden models of the core's components in numpy, and random layers to try them with.

A layer is a mapping of the fields of `kolmogate.isa.DESCRIPTOR`, a memory the bytes of the scratchpad.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from kolmogate.config import MachineConfig
from kolmogate.isa import (
    ADDRESS_BITS,
    DESCRIPTOR,
    FILL_BITS,
    FILL_UNIT,
    INPUT_OFFSET,
    SHIFTS,
    WORD_GRAIN,
    Opcode,
    rows_taken,
    window_taps,
    wrap_of,
)

__all__ = [
    "accumulate",
    "activations",
    "fill",
    "groups",
    "positions",
    "random_constants",
    "random_layer",
    "random_tile",
    "random_weights",
    "record_rows",
    "store",
    "tile_sums",
    "tiles",
]

Layer = Mapping[str, int]
Integers = npt.NDArray[np.int64]


def random_tile(
    source: random.Random, config: MachineConfig, taps: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Activations (taps, rows, columns) and weights (taps, columns); now and then the extremes only."""
    shapes = (taps, config.rows, config.columns), (taps, config.columns)
    drawn = [np.frombuffer(source.randbytes(int(np.prod(shape))), np.int8).reshape(shape) for shape in shapes]
    if source.random() < 0.3:
        drawn = [np.where(values < 0, -128, 127).astype(np.int8) for values in drawn]
    return drawn[0], drawn[1]


def tile_sums(
    activations: npt.NDArray[np.int8], weights: npt.NDArray[np.int8], *, word_mode: int, unit_weights: int
) -> Integers:
    """What the array sums up for a `random_tile`, shape (rows, columns).

    Out of word mode column 0 of the activations holds the rows' bytes.
    """
    taps = activations if word_mode else activations[:, :, :1]
    factors = weights.astype(np.int64) | unit_weights
    return np.sum((taps.astype(np.int64) + INPUT_OFFSET) * factors[:, None, :], axis=0)


def random_constants(source: random.Random) -> dict[str, int]:
    """Fields of `kolmogate.isa.CONSTANTS` that can be stored."""
    bits = source.randrange(26)
    return {
        "bias": source.randrange(-1 << bits, 1 << bits),
        "multiplier": source.randrange(1 << 30, 1 << 31),
        "shift": source.choice(SHIFTS),
    }


def record_rows(config: MachineConfig, stored: Sequence[int]) -> list[dict[str, Any]]:
    """One group's packed `STORED_CONSTANTS` as the rows that the weight decoder makes of them."""
    packed = b"".join(one.to_bytes(8, "little") for one in stored)
    packed += bytes(-len(packed) % config.columns)
    rows = [list(packed[start : start + config.columns]) for start in range(0, len(packed), config.columns)]
    return [{"row": row, "last": index == len(rows) - 1} for index, row in enumerate(rows)]


def groups(config: MachineConfig, layer: Layer) -> int:
    """Column groups of a layer."""
    return -(-layer["channels"] // config.columns)


def tiles(config: MachineConfig, layer: Layer) -> int:
    """Tiles of ``config.rows`` positions of one column group."""
    return -(-layer["x_count"] * layer["y_count"] // config.rows)


def positions(layer: Layer, end: str) -> Integers:
    """Byte addresses of a layer's positions in raster order; ``end`` is "input" or "output"."""
    steps = np.full((layer["y_count"], layer["x_count"]), layer[f"{end}_step"])
    steps[:, -1] = wrap_of(layer, end)
    walk = np.concatenate([[0], np.cumsum(steps)[:-1]])
    return (layer[f"{end}_base"] + walk) % (1 << ADDRESS_BITS)


def _taps(layer: Layer) -> Integers:
    """Byte offsets of a window's taps from its position."""
    outer_step = layer["outer_wrap"] + (layer["inner_count"] - 1) * layer["inner_step"]
    outer = np.arange(layer["outer_count"])[:, None, None] * outer_step
    inner = np.arange(layer["inner_count"])[:, None] * layer["inner_step"]
    run = np.arange(1 if layer["word_mode"] else layer["run"])
    return (outer + inner + run).ravel()


def activations(config: MachineConfig, layer: Layer, memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """What every multiplier sees, less `INPUT_OFFSET`, shape (groups, positions, taps, columns)."""
    lanes = np.arange(config.columns) * layer["word_mode"]
    further = np.arange(groups(config, layer)) * config.columns * layer["word_mode"]
    addresses = (
        further[:, None, None, None]
        + positions(layer, "input")[:, None, None]
        + _taps(layer)[:, None]
        + lanes
    )
    return memory[addresses % (1 << ADDRESS_BITS)].view(np.int8)


def random_weights(source: random.Random, config: MachineConfig, layer: Layer) -> npt.NDArray[np.int8]:
    """Weights in the order of their use, shape (groups, sets, taps, columns).

    A layer that streams its weights takes a set for every tile, any other one for all tiles. A single row of
    unit weights is for all taps.
    """
    sets = tiles(config, layer) if layer["stream_weights"] else 1
    shape = (groups(config, layer), sets, rows_taken(layer, window_taps(layer)), config.columns)
    return np.frombuffer(source.randbytes(int(np.prod(shape))), np.int8).reshape(shape)


def accumulate(
    config: MachineConfig, layer: Layer, memory: npt.NDArray[np.uint8], weights: npt.NDArray[np.int8]
) -> Integers:
    """The array's accumulators, shape (groups, positions, columns)."""
    inputs = activations(config, layer, memory).astype(np.int64) + INPUT_OFFSET
    by_position = np.repeat(
        weights | layer["unit_weights"], tiles(config, layer) * config.rows // weights.shape[1], axis=1
    )
    return np.sum(inputs * by_position[:, : inputs.shape[1]], axis=2)


def store(
    config: MachineConfig, layer: Layer, outputs: npt.NDArray[np.int8], memory: npt.NDArray[np.uint8]
) -> None:
    """Write outputs of shape (groups, positions, columns) to their places, live channels only."""
    starts = positions(layer, "output")
    for group, values in enumerate(outputs.view(np.uint8)):
        first = group * config.columns
        live = min(config.columns, layer["channels"] - first)
        for start, row in zip(starts, values, strict=True):
            memory[start + first :][:live] = row[:live]


def fill(layer: Layer, memory: npt.NDArray[np.uint8]) -> None:
    """Execute a FILL descriptor."""
    for line in range(layer["y_count"]):
        pitch = layer["run"] + layer["output_step"]
        start = (layer["output_base"] + line * pitch) % (1 << FILL_BITS) * FILL_UNIT
        memory[start : start + layer["run"] * FILL_UNIT] = layer["zero_point"] & 0xFF


def _span(offsets: Iterable[int], size: int, grain: int, source: random.Random) -> int:
    """A random base, multiple of ``grain``, that keeps base + offsets within a memory of ``size`` bytes."""
    offsets = list(offsets)
    low, high = -min(offsets), size - max(offsets)
    return source.randrange(-(-low // grain), -(-high // grain)) * grain


def random_layer(
    source: random.Random, config: MachineConfig, memory_bytes: int, **fixed: int
) -> dict[str, int]:
    """A small ARRAY layer whose input and output lie within a memory of ``memory_bytes``.

    Inputs may be anywhere (in word mode at multiples of 8 bytes) and overlap, steps of either sign but within
    a line; outputs are apart, at multiples of Q bytes. Fields in ``fixed`` are as given.
    """
    word_mode = fixed.get("word_mode", source.randrange(2))
    grain = WORD_GRAIN if word_mode else 1

    def step() -> int:
        return source.randrange(-3 * config.columns, 3 * config.columns + 1) // grain * grain

    layer: dict[str, Any] = {
        "opcode": Opcode.ARRAY,
        "word_mode": word_mode,
        "x_count": source.randrange(1, 2 * config.rows + 2),
        "y_count": source.randrange(1, 4),
        "outer_count": source.randrange(1, 4),
        "inner_count": source.randrange(1, 4),
        "channels": source.randrange(1, 3 * config.columns),
        **{f"input_{name}": step() for name in ("step", "wrap")},
        "outer_wrap": step(),
        "inner_step": abs(step()),
        "run": config.columns if word_mode else source.randrange(1, 3 * config.columns),
        **fixed,
    }
    layer = {**DESCRIPTOR.unpack(0), **layer}

    inputs = np.add.outer(_relative(layer, "input"), _taps(layer)).ravel()
    depth = groups(config, layer) * config.columns
    margin = depth if word_mode else 1
    layer["input_base"] = _span((*inputs, max(inputs) + margin - 1), memory_bytes, grain, source)

    lanes = config.requantisers
    pitch = -(-layer["channels"] // lanes) * lanes + source.randrange(3) * lanes
    sign = source.choice((-1, 1))
    layer["output_step"] = sign * pitch
    layer["output_wrap"] = sign * (pitch + source.randrange(3) * lanes)
    outputs = _relative(layer, "output")
    layer["output_base"] = _span((*outputs, max(outputs) + depth - 1), memory_bytes, lanes, source)
    for name in ("outer_wrap", "inner_step"):
        layer[name] %= 1 << ADDRESS_BITS
    return DESCRIPTOR.unpack(DESCRIPTOR.pack(**layer))


def _relative(layer: Layer, end: str) -> Integers:
    """Byte offsets of the positions from the first, for steps that are still signed."""
    half = 1 << ADDRESS_BITS - 1
    return positions({**layer, f"{end}_base": half}, end) - half
