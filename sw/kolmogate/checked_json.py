"""Reading JSON that nobody has checked: every value is of the type and in the range asked for, or refused."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from .errors import InputError

__all__ = ["integer", "integers", "number", "record", "records", "value", "values"]

T = TypeVar("T")

LARGEST = 1 << 40
"""Where nothing else bounds an integer; larger ones would only cost time."""


def record(item: object, what: str) -> dict[str, Any]:
    """``item`` if it is a JSON object; ``what`` names it in the error."""
    if type(item) is not dict:
        raise InputError(f"{what} is not a record")
    return item


def value(parent: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """The value of ``key``, of exactly that type: true is no integer, 1 is no float."""
    item = parent.get(key)
    if type(item) is not kind:
        raise InputError(f"{key!r} is missing or not of type {kind.__name__}")
    return item


def integer(parent: Mapping[str, Any], key: str, high: int = LARGEST, low: int = 0) -> int:
    """The integer of ``key``, in [low, high]."""
    item = value(parent, key, int)
    if not low <= item <= high:
        raise InputError(f"{key!r} is not in {low} to {high}")
    return item


def number(parent: Mapping[str, Any], key: str) -> float:
    """The finite float of ``key``."""
    item = value(parent, key, float)
    if not math.isfinite(item):
        raise InputError(f"{key!r} is not a finite number")
    return item


def values(parent: Mapping[str, Any], key: str, kind: type[T]) -> list[T]:
    """The list of ``key``, whose items are all of exactly that type."""
    items = value(parent, key, list)
    if any(type(item) is not kind for item in items):
        raise InputError(f"an item of {key!r} is not of type {kind.__name__}")
    return items


def integers(
    parent: Mapping[str, Any], key: str, count: int | None = None, high: int = LARGEST, low: int = 0
) -> tuple[Any, ...]:
    """The list of integers of ``key``, each in [low, high]; ``count`` of them, or any number."""
    items = values(parent, key, int)
    if count is not None and len(items) != count:
        raise InputError(f"{key!r} has {len(items)} items, not {count}")
    if items and not low <= min(items) <= max(items) <= high:
        raise InputError(f"an item of {key!r} is not in {low} to {high}")
    return tuple(items)


def records(parent: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of JSON objects of ``key``."""
    return values(parent, key, dict)
