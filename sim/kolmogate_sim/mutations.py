"""Damaged images and wild descriptors, for tests that no device may hang on them."""

import dataclasses
import random
from collections.abc import Mapping

from kolmogate.image import Image
from kolmogate.isa import RECORDS, Opcode, load_descriptor, store_descriptor
from kolmogate.protocol import Entry

__all__ = ["Mutant", "mutate"]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """What a device is given: the bytes of each section, and where an inference begins. Of where layers may
    write a sound host has told it (`Image.written_end`)."""

    image: Image
    contents: Mapping[str, bytes]
    entry: Entry

    def sections(self) -> list[tuple[int, bytes]]:
        """Addresses and bytes to write."""
        return [(self.image.sections[name].address, data) for name, data in self.contents.items()]

    def descriptors(self) -> list[dict[str, int]]:
        """The fields of each descriptor, in order of execution."""
        return [fields for _, fields, _ in _descriptors(self.contents["descriptors"], self.image)]


def _descriptors(data: bytes | bytearray, image: Image) -> list[tuple[int, dict[str, int], int]]:
    """Places, fields and sizes of all descriptors."""
    found, place, before = [], 0, 0
    while place < len(data):
        fields, size, before = load_descriptor(bytes(data[place:]), image.config.columns, before)
        found.append((place, fields, size))
        place += size
    return found


def mutate(image: Image, source: random.Random) -> Mutant:
    """One of many ways to spoil ``image``: bits, fields, whole descriptors, sections, entry addresses."""
    contents = {name: bytearray(section.data) for name, section in image.sections.items()}
    entry = image.entry
    kind = source.choice(("bits", "bits", "field", "field", "field", "descriptor", "section", "entry"))
    place, fields, size = source.choice(_descriptors(contents["descriptors"], image))
    if kind == "bits":
        name = source.choice([name for name, data in contents.items() if data])
        for _ in range(source.randrange(1, 4)):
            contents[name][source.randrange(len(contents[name]))] ^= 1 << source.randrange(8)
    elif kind == "field":
        record = RECORDS[Opcode(fields["opcode"])]
        name, width = source.choice(list(record.widths.items()))
        bits = source.choice((0, 1, (1 << width) - 1, 1 << width - 1, source.getrandbits(width)))
        signed = name in record.signed and bits >> width - 1
        changed = contents["descriptors"][place : place + size]
        if name == "opcode":
            changed[0] ^= fields["opcode"] ^ bits & (1 << width) - 1
        else:
            fields[name] = bits - (1 << width) if signed else bits & (1 << width) - 1
            # What it takes may have changed: what follows stays where it is.
            changed[:] = store_descriptor(fields, image.config.columns)[:size].ljust(size, b"\0")
        contents["descriptors"][place : place + size] = changed
    elif kind == "descriptor":
        contents["descriptors"][place : place + size] = source.randbytes(size)
    elif kind == "section":
        name = source.choice([name for name, data in contents.items() if data])
        count = len(contents[name])
        contents[name][:] = source.choice((bytes(count), b"\xff" * count, source.randbytes(count)))
    else:
        name = source.choice([field.name for field in dataclasses.fields(Entry)])
        entry = dataclasses.replace(entry, **{name: source.randrange(image.config.scratchpad_bytes)})
    return Mutant(image, {name: bytes(data) for name, data in contents.items()}, entry)
