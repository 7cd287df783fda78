"""The `.kg` file that holds an image.

Little-endian: magic, version, the sizes of the two parts, the *host part* (JSON), the *device part* (the
sections' bytes, one after the other, ``device_bytes`` in all) and a CRC-32 of everything before it. Loading
checks every value and runs nothing.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from . import checked_json as checked
from . import skeleton
from .config import MachineConfig
from .errors import InputError, KolmogateError
from .files import write_whole
from .image import SECTIONS, Activation, Image, LayerReport, Lossy, Section
from .layout import Layout
from .network import Tensor
from .schedule import split_tail
from .simplify import Dropped

__all__ = ["from_bytes", "load_image", "save_image", "to_bytes"]

MAGIC = b"\x89KG\r\n\x1a\n\x00"
VERSION = 6
HEADER = struct.Struct("<8sHII")

T = TypeVar("T", MachineConfig, Dropped, Lossy)


def to_bytes(image: Image) -> bytes:
    """The contents of a `.kg` file."""
    # What JSON does not know are numpy's arrays and integers.
    host = json.dumps(
        _encode(image), separators=(",", ":"), allow_nan=False, default=lambda value: value.tolist()
    ).encode()
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
        "config": asdict(image.config),
        "streamed": image.streamed,
        "sections": [
            {"name": name, "address": section.address, "size": len(section.data)}
            for name, section in image.sections.items()
        ],
        "input": {"address": image.input.address, "layout": asdict(image.input.layout)},
        "output": {"address": image.output.address, "layout": asdict(image.output.layout)},
        "network": skeleton.to_record(image.skeleton),
        "layers": [{**asdict(layer), "instructions": dict(layer.instructions)} for layer in image.layers],
        "dropped": [asdict(dropped) for dropped in image.dropped],
        "reordered": list(image.reordered),
        **({"lossy": asdict(image.lossy)} if image.lossy else {}),
    }


def _decode(host: object, device: bytes) -> Image:
    top = checked.record(host, "the host part")
    sections: dict[str, Section] = {}
    start = 0
    for item in checked.records(top, "sections"):
        size = checked.integer(item, "size", len(device) - start)
        name, address = checked.value(item, "name", str), checked.integer(item, "address")
        sections[name] = Section(address, device[start : start + size])
        start += size
    if start != len(device) or tuple(sections) != SECTIONS:
        raise InputError("its sections do not make up the device part")
    network = skeleton.from_record(checked.value(top, "network", dict))
    _, tail = split_tail(network)
    image = Image(
        config=_flat(MachineConfig, checked.value(top, "config", dict)),
        sections=sections,
        input=_activation(top, "input", network.tensors[network.input]),
        output=_activation(top, "output", network.tensors[tail.input]),
        skeleton=network,
        layers=tuple(_layer(item) for item in checked.records(top, "layers")),
        dropped=tuple(_flat(Dropped, item) for item in checked.records(top, "dropped")),
        reordered=tuple(checked.values(top, "reordered", str)),
        streamed=checked.value(top, "streamed", bool),
        lossy=_flat(Lossy, checked.value(top, "lossy", dict)) if "lossy" in top else None,
    )
    image.check()
    return image


def _flat(kind: type[T], item: Mapping[str, Any]) -> T:
    """A dataclass that holds strings, integers and truth values alone."""
    values: dict[str, Any] = {
        field.name: (
            checked.integer(item, field.name)
            if field.type is int
            else checked.value(item, field.name, field.type)  # type: ignore[arg-type]
        )
        for field in fields(kind)
    }
    return kind(**values)


def _activation(top: Mapping[str, Any], key: str, tensor: Tensor) -> Activation:
    part = checked.value(top, key, dict)
    layout = checked.value(part, "layout", dict)
    channels = checked.integer(layout, "channels", low=1)
    return Activation(
        tensor,
        checked.integer(part, "address"),
        Layout(
            height=checked.integer(layout, "height", low=1),
            width=checked.integer(layout, "width", low=1),
            channels=channels,
            padding=checked.integers(layout, "padding", 4),
            pixel_pitch=checked.integer(layout, "pixel_pitch", low=channels),
            zero_point=checked.integer(layout, "zero_point", 127, -128),
        ),
    )


def _layer(item: Mapping[str, Any]) -> LayerReport:
    instructions = checked.value(item, "instructions", dict)
    return LayerReport(
        name=checked.value(item, "name", str),
        op=checked.value(item, "op", str),
        weights=checked.integer(item, "weights"),
        live_weights=checked.integer(item, "live_weights"),
        positions=checked.integer(item, "positions"),
        fold=checked.integer(item, "fold", 4, 1),
        down=checked.value(item, "down", bool),
        replays=checked.integer(item, "replays", low=1),
        bits=checked.integer(item, "bits"),
        constant_bits=checked.integer(item, "constant_bits"),
        instructions={name: checked.integer(instructions, name) for name in instructions},
    )
