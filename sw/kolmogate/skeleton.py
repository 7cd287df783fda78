"""A network without its weights: what an image keeps of it for the host.

The weights of an image exist as programs alone. Its *skeleton* is the network with all of them 0, kept as
JSON that has the shapes in place of the weights.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, NamedTuple

import numpy as np

from . import checked_json as checked
from .axis import turn
from .errors import InputError
from .fold import Foldable, fold, unfold
from .network import (
    DepthwiseConv2D,
    Int8Array,
    Int32Array,
    Network,
    Operation,
    Requantisation,
    Tensor,
    Weighted,
    Window,
)
from .parameters import row_count, weights_of_rows
from .programs.p0 import Program
from .programs.reader import count_rows, decode

__all__ = ["Making", "from_record", "regenerate", "skeleton", "to_record"]

MAXIMUM_VALUES = 1 << 23
"""Weights of a network, or values of a tensor with its padding: one for each bit of the largest scratchpad.
It bounds the memory that a damaged image can ask for."""

MAXIMUM_AXES = 8

_KINDS: dict[str, type[Operation]] = {kind.kind: kind for kind in Operation.__subclasses__()}


def skeleton(network: Network) -> Network:
    """``network`` with every weight 0."""
    operations = (
        replace(operation, weights=np.zeros_like(operation.weights))
        if isinstance(operation, Weighted)
        else operation
        for operation in network.operations
    )
    return replace(network, operations=tuple(operations))


class Making(NamedTuple):
    """How an operation's weights are made: for an operation that was folded (`kolmogate.fold`) and turned
    (`kolmogate.axis`), and how often; for one without weights so many rows of ``zeros``."""

    fold: int = 1
    down: bool = False
    replays: int = 1
    zeros: int = 0


def regenerate(empty: Network, program: Program, columns: int, layers: Mapping[str, Making]) -> Network:
    """The network of skeleton ``empty``, its weights made by ``program`` for a machine of so many columns.

    ``layers`` tells by an operation's name how.
    Raises `InputError` if the program does not make them, or the network breaks a rule of `Network.check`.
    """
    makings = [layers.get(one.name, Making()) for one in empty.operations]
    made_as = [_made_as(*pair) for pair in zip(empty.operations, makings, strict=True)]
    counts = [
        row_count(operation, columns) * making.replays if isinstance(operation, Weighted) else making.zeros
        for operation, making in zip(made_as, makings, strict=True)
    ]
    # Before any row is made: a few bytes of program can make very many.
    total, _ = count_rows(program)
    if total != sum(counts):
        raise InputError(f"the weight program makes {total} rows, the network's layers take {sum(counts)}")
    rows = np.split(decode(program, columns)[0], np.cumsum(counts)[:-1]) if counts else []
    operations: list[Operation] = []
    for operation, made, making, part in zip(empty.operations, made_as, makings, rows, strict=True):
        if isinstance(operation, Weighted) and isinstance(made, Weighted):
            operation = replace(operation, weights=_weights(operation, made, making, part, columns))
        elif part.any():
            raise InputError(f"the weight program does not make the zeros that {operation.name!r} takes")
        operations.append(operation)
    network = replace(empty, operations=tuple(operations))
    network.check()
    return network


def _made_as(operation: Operation, making: Making) -> Operation:
    """The operation whose weights the program makes."""
    if making.fold > 1:
        if not isinstance(operation, Foldable):
            raise InputError(f"{operation.kind} {operation.name!r} cannot be folded")
        operation = fold(operation, making.fold)
    if making.down and isinstance(operation, DepthwiseConv2D):
        operation = turn(operation)
    return operation


def _weights(operation: Weighted, made: Weighted, making: Making, rows: Int8Array, columns: int) -> Int8Array:
    """The weights of ``operation``, which the program's ``rows`` are as those of ``made``."""
    groups = -(-len(made.bias) // columns)
    once = rows.reshape(groups, making.replays, -1, columns)[:, 0].reshape(-1, columns)
    weights = weights_of_rows(made, once)
    if making.down and isinstance(operation, DepthwiseConv2D):
        weights = weights.transpose(1, 0, 2)
    if making.fold > 1 and isinstance(operation, Foldable):
        weights = unfold(weights, operation)
    return weights


def to_record(network: Network) -> dict[str, Any]:
    """What JSON keeps of a network: everything but the weights' values. Holds numpy arrays of integers."""
    return {
        "name": network.name,
        "input": network.input,
        "output": network.output,
        "tensors": [asdict(tensor) for tensor in network.tensors.values()],
        "operations": [_operation_record(operation) for operation in network.operations],
    }


def _operation_record(operation: Operation) -> dict[str, Any]:
    item = {"kind": operation.kind, **asdict(operation)}
    if "weights" in item:
        item["weights"] = item["weights"].shape
    return item


def from_record(item: Mapping[str, Any]) -> Network:
    """The skeleton in a record that JSON gave back; raises `InputError` unless it is a sound network."""
    tensors = [_tensor(part) for part in checked.records(item, "tensors")]
    parts = checked.records(item, "operations")
    weights = sum(math.prod(_shape(part, "weights")) for part in parts if "weights" in part)
    for what, count in (
        ("its weights", weights),
        *((f"tensor {tensor.name!r}", math.prod(tensor.shape)) for tensor in tensors),
    ):
        _check_size(what, count)
    network = Network(
        {tensor.name: tensor for tensor in tensors},
        tuple(_operation(part) for part in parts),
        checked.value(item, "input", str),
        checked.value(item, "output", str),
        checked.value(item, "name", str),
    )
    network.check()
    for operation in network.operations:
        window = getattr(operation, "window", None)
        if window is not None:
            height, width, channels = network.tensors[operation.inputs[0]].shape
            top, bottom, left, right = window.padding
            padded = (height + top + bottom) * (width + left + right) * channels
            _check_size(f"the padded input of {operation.name!r}", padded)
    return network


def _check_size(what: str, count: int) -> None:
    if count > MAXIMUM_VALUES:
        raise InputError(f"{what} would take {count} bytes, more than the {MAXIMUM_VALUES} of any image")


def _tensor(item: Mapping[str, Any]) -> Tensor:
    return Tensor(
        checked.value(item, "name", str),
        _shape(item, "shape"),
        checked.number(item, "scale"),
        checked.integer(item, "zero_point", 127, -128),
    )


def _operation(item: Mapping[str, Any]) -> Operation:
    name = checked.value(item, "kind", str)
    if name not in _KINDS:
        raise InputError(f"there is no operation {name!r}")
    kind = _KINDS[name]
    return kind(**{field.name: _READERS[field.name](item) for field in fields(kind)})


def _shape(item: Mapping[str, Any], key: str) -> tuple[int, ...]:
    shape = checked.integers(item, key)
    if len(shape) > MAXIMUM_AXES:
        raise InputError(f"{key!r} has {len(shape)} axes, more than {MAXIMUM_AXES}")
    return shape


def _int32(item: Mapping[str, Any], key: str) -> Int32Array:
    return np.array(checked.integers(item, key, high=(1 << 31) - 1, low=-(1 << 31)), np.int32)


def _window(item: Mapping[str, Any]) -> Window:
    window = checked.value(item, "window", dict)
    size, stride, padding = (
        checked.integers(window, key, count) for key, count in (("size", 2), ("stride", 2), ("padding", 4))
    )
    return Window(size, stride, padding)


def _requantisation(item: Mapping[str, Any]) -> Requantisation:
    scale = checked.value(item, "requantisation", dict)
    return Requantisation(_int32(scale, "multiplier"), _int32(scale, "shift"))


_READERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "name": lambda item: checked.value(item, "name", str),
    "inputs": lambda item: tuple(checked.values(item, "inputs", str)),
    "output": lambda item: checked.value(item, "output", str),
    "weights": lambda item: np.zeros(_shape(item, "weights"), np.int8),
    "bias": lambda item: _int32(item, "bias"),
    "window": _window,
    "requantisation": _requantisation,
    "clamp": lambda item: checked.integers(item, "clamp", 2, 127, -128),
    "left_shift": lambda item: checked.integer(item, "left_shift"),
    "axes": lambda item: checked.integers(item, "axes"),
    "padding": lambda item: checked.integers(item, "padding", 4),
    "beta": lambda item: checked.number(item, "beta"),
}
"""How each field of an operation is read; a field means the same in every kind."""
