"""The `.kg` file that holds an image.

Little-endian: magic, version, the sizes of the two parts, the *host part* (JSON), the *device part* (the
sections' bytes, one after the other, ``device_bytes`` in all) and a CRC-32 of everything before it. Loading
checks every value and runs nothing.
"""

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from .config import MachineConfig
from .errors import InputError, KolmogateError
from .files import write_whole
from .image import SECTIONS, Activation, Image, LayerReport, Section
from .layout import Layout
from .network import Network, Operation, Reshape, Softmax, Tensor

__all__ = ["from_bytes", "load_image", "save_image", "to_bytes"]

MAGIC = b"\x89KG\r\n\x1a\n\x00"
VERSION = 1
HEADER = struct.Struct("<8sHII")


def to_bytes(image: Image) -> bytes:
    """The contents of a `.kg` file."""
    host = json.dumps(_encode(image), separators=(",", ":"), allow_nan=False).encode()
    device = b"".join(section.data for section in image.sections.values())
    body = HEADER.pack(MAGIC, VERSION, len(host), len(device)) + host + device
    return body + struct.pack("<I", zlib.crc32(body))


def from_bytes(data: bytes) -> Image:
    """The image in the contents of a `.kg` file; raises `InputError` if it is not a sound one."""
    if data[: len(MAGIC)] != MAGIC:
        raise InputError("this is not a Kolmogate image; make one with `kolmogate compile`")
    if len(data) < HEADER.size:
        raise InputError("the image is cut short; copy or compile it again")
    _, version, host_size, device_size = HEADER.unpack_from(data)
    if version != VERSION:
        raise InputError(f"the image has format {version}, this release reads {VERSION}; compile it again")
    split, end = HEADER.size + host_size, HEADER.size + host_size + device_size
    if len(data) != end + 4:
        raise InputError(f"the image should have {end + 4} bytes, not {len(data)}; copy or compile it again")
    if zlib.crc32(data[:end]) != int.from_bytes(data[end:], "little"):
        raise InputError("the image is damaged, its checksum is wrong; copy or compile it again")
    try:
        host = json.loads(data[HEADER.size : split])
    except (ValueError, RecursionError):
        raise InputError("the host part of the image is not JSON; compile it again") from None
    try:
        return _decode(host, data[split:end])
    except KolmogateError as error:
        raise InputError(f"the image is not sound: {error}; compile it again") from None


def save_image(image: Image, path: str | os.PathLike[str]) -> None:
    """Write a `.kg` file: whole, or not at all. Raises `InputError` if the path cannot be written."""
    write_whole(path, to_bytes(image))


def load_image(path: str | os.PathLike[str]) -> Image:
    """The image in a `.kg` file; raises `InputError` that names the file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from None
    try:
        return from_bytes(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _encode(image: Image) -> dict[str, Any]:
    return {
        "model": image.model,
        "config": asdict(image.config),
        "sections": [
            {"name": name, "address": section.address, "size": len(section.data)}
            for name, section in image.sections.items()
        ],
        "input": asdict(image.input),
        "output": asdict(image.output),
        "tail": [
            {
                "kind": operation.kind,
                "name": operation.name,
                "output": asdict(image.tail.tensors[operation.output]),
                "beta": operation.beta if isinstance(operation, Softmax) else 0.0,
            }
            for operation in image.tail.operations
        ],
        "layers": [{**asdict(layer), "instructions": dict(layer.instructions)} for layer in image.layers],
    }


def _decode(host: object, device: bytes) -> Image:
    top = _record(host, "the host part")
    sections: dict[str, Section] = {}
    start = 0
    for item in _list(top, "sections"):
        size = _integer(item, "size", len(device) - start)
        sections[_get(item, "name", str)] = Section(_integer(item, "address"), device[start : start + size])
        start += size
    if start != len(device) or tuple(sections) != SECTIONS:
        raise InputError("its sections do not make up the device part")
    output = _activation(top, "output")
    return Image(
        model=_get(top, "model", str),
        config=_config(_get(top, "config", dict)),
        sections=sections,
        input=_activation(top, "input"),
        output=output,
        tail=_tail(_list(top, "tail"), output.tensor),
        layers=tuple(_layer(item) for item in _list(top, "layers")),
    )


def _config(item: Mapping[str, Any]) -> MachineConfig:
    values: dict[str, Any] = {
        field.name: _get(item, field.name, str) if field.type is str else _integer(item, field.name)
        for field in fields(MachineConfig)
    }
    return MachineConfig(**values)


def _activation(top: Mapping[str, Any], key: str) -> Activation:
    part = _get(top, key, dict)
    layout = _get(part, "layout", dict)
    channels = _integer(layout, "channels", low=1)
    return Activation(
        _tensor(_get(part, "tensor", dict)),
        _integer(part, "address"),
        Layout(
            height=_integer(layout, "height", low=1),
            width=_integer(layout, "width", low=1),
            channels=channels,
            padding=_integers(layout, "padding", 4),
            pixel_pitch=_integer(layout, "pixel_pitch", low=channels),
            zero_point=_integer(layout, "zero_point", 127, -128),
        ),
    )


def _tensor(item: Mapping[str, Any]) -> Tensor:
    return Tensor(
        _get(item, "name", str),
        _integers(item, "shape"),
        _number(item, "scale"),
        _integer(item, "zero_point", 127, -128),
    )


def _tail(items: list[dict[str, Any]], first: Tensor) -> Network:
    tensors, operations, last = {first.name: first}, list[Operation](), first.name
    for item in items:
        output = _tensor(_get(item, "output", dict))
        common = (_get(item, "name", str), (last,), output.name)
        match _get(item, "kind", str):
            case Softmax.kind:
                operations.append(Softmax(*common, _number(item, "beta")))
            case Reshape.kind:
                operations.append(Reshape(*common))
            case kind:
                raise InputError(f"the host does not run {kind}")
        last = output.name
        tensors[last] = output
    return Network(tensors, tuple(operations), first.name, last)


def _layer(item: Mapping[str, Any]) -> LayerReport:
    instructions = _get(item, "instructions", dict)
    return LayerReport(
        name=_get(item, "name", str),
        op=_get(item, "op", str),
        descriptor=_integer(item, "descriptor"),
        weights=_integer(item, "weights"),
        macs=_integer(item, "macs"),
        bits=_integer(item, "bits"),
        instructions={name: _integer(instructions, name) for name in instructions},
    )


T = TypeVar("T")


def _record(value: object, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise InputError(f"{what} is not a record")
    return value


def _get(record: Mapping[str, Any], key: str, kind: type[T]) -> T:
    value = record.get(key)
    if type(value) is not kind:
        raise InputError(f"{key!r} is missing or not of type {kind.__name__}")
    return value


def _integer(record: Mapping[str, Any], key: str, high: int = 1 << 40, low: int = 0) -> int:
    value = _get(record, key, int)
    if not low <= value <= high:
        raise InputError(f"{key!r} is not in {low} to {high}")
    return value


def _number(record: Mapping[str, Any], key: str) -> float:
    value = _get(record, key, float)
    if not math.isfinite(value):
        raise InputError(f"{key!r} is not a finite number")
    return value


def _list(record: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    return [_record(item, f"an item of {key!r}") for item in _get(record, key, list)]


def _integers(record: Mapping[str, Any], key: str, count: int | None = None) -> tuple[Any, ...]:
    values = _get(record, key, list)
    if (count is not None and len(values) != count) or len(values) > 8:
        raise InputError(f"{key!r} has {len(values)} items")
    return tuple(_integer({key: value}, key) for value in values)
