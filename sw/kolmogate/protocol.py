"""The link protocol: frames, commands and answers.

This module is the only home of these layouts; the driver and the gateware derive from it.

A *frame* is ``COBS(body + CRC-32 of the body, little-endian)`` and a zero byte. A request's body is a
sequence number, a command and the command's payload; an answer's is the request's sequence number, a
status and, if the status is `Status.OK`, the answer's payload. Each is laid out by a `Record`, first
field lowest, sent little-endian:

=========  ===================================  =========================
command    payload                              answer
=========  ===================================  =========================
IDENTIFY   none                                 `IDENTITY`
WRITE      `ACCESS` and ``last + 1`` bytes      none
READ       `ACCESS`                             ``last + 1`` bytes
RUN        `RUN`                                none
STATUS     none                                 `PROGRESS`
RESET      none                                 none
FEED       `ACCESS` and ``last + 1`` bytes      `PROGRESS`
=========  ===================================  =========================

The device answers every good frame, one at a time, and drops every other without a word. Good is a frame
with a right CRC and the sequence number after that of the request before, or the same one: then the
request is repeated because its answer was lost. All requests can be carried out twice but RUN, which
starts nothing when it is repeated. IDENTIFY may have any sequence number and sets the one to count from,
so it opens a connection. A request that is answered with another status than `Status.OK` has had no
effect. FEED is a WRITE to a ring of a streamed program (`kolmogate.rings`): its reader may then go on to the
end of the page that was written. Addresses are scratchpad bytes, and an access stays inside a page: it does
not cross a multiple of `PAGE_BYTES`.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from cobs import cobs

from .config import MachineConfig
from .errors import UsageError
from .isa import ADDRESS_BITS, UNIT, Record

__all__ = [
    "ACCESS",
    "BAUD",
    "IDENTITY",
    "LONGEST_FRAME",
    "PAGE_BYTES",
    "PAGE_NUMBER_BITS",
    "PROGRESS",
    "RUN",
    "RUN_ADDRESS_BITS",
    "VERSION",
    "Command",
    "FrameReader",
    "Status",
    "identity",
    "last_page",
    "pack_frame",
    "unpack_frame",
]

VERSION = 4
"""Answered by IDENTIFY; driver and device must agree on it."""

PAGE_BYTES = 256
"""The scratchpad is whole pages; one READ or WRITE moves up to one of them."""

BAUD = 1_000_000
"""Bits a second of a serial port, unless a board and its user agree on another rate."""

LONGEST_FRAME = 2 * PAGE_BYTES
"""More bytes than any frame has."""

_CRC_BYTES = 4


class Command(IntEnum):
    """What a request asks for."""

    IDENTIFY = 0
    WRITE = 1
    READ = 2
    RUN = 3
    STATUS = 4
    RESET = 5
    FEED = 6


class Status(IntEnum):
    """How the device took a request."""

    OK = 0
    BAD_COMMAND = 1
    """There is no such command."""
    BAD_LENGTH = 2
    """The payload's length does not fit the command."""
    BAD_ADDRESS = 3
    """An address lies beyond the scratchpad, or an access crosses into the next page."""
    BUSY = 4
    """RUN while an inference was running."""


@dataclass(frozen=True)
class Entry:
    """Where an inference begins: byte addresses of the first descriptor and of the two program streams."""

    descriptors: int
    code: int
    literals: int

    def lower(self, by: int) -> "Entry":
        """That of the same image ``by`` bytes further down."""
        return Entry(self.descriptors - by, self.code - by, self.literals - by)


ACCESS = Record("memory access", {"last": 8, "address": 24})
"""``last`` is the number of bytes less one. The gateware keeps the newest bytes of a payload and counts from
the address, which so is at the end."""
PAGE_NUMBER_BITS = ADDRESS_BITS - (PAGE_BYTES - 1).bit_length()
RUN_ADDRESS_BITS = ADDRESS_BITS - (UNIT - 1).bit_length()
RUN = Record(
    "run request",
    {
        "limit": 32,
        **dict.fromkeys(("descriptors", "code", "literals"), RUN_ADDRESS_BITS),
        "last_page": PAGE_NUMBER_BITS,
        "streamed": 1,
    },
)
"""The cycles after which the device gives the inference up; base addresses in units of `isa.UNIT` bytes,
those of rings for a program that is ``streamed``, whose coded ring lies just below that of the literals; and
the last page that layers may write to: one that goes further ends in BAD_DESCRIPTOR, so that nothing a
descriptor says can damage a program."""
PROGRESS = Record("progress", {"busy": 2, "coded": 2, "literals": 2, "code": 2, "error": 8, "cycles": 32})
"""Whether an inference is running, the pages that the readers of a streamed program are in, and the
`ErrorCode` and cycles of the last inference."""
IDENTITY = Record(
    "identity",
    {
        # First in every version of the protocol.
        "version": 8,
        "rows": 8,
        "columns": 8,
        "requantisers": 8,
        "requantiser_digit_bits": 6,
        "scratchpad_ports": 2,
        "accumulator_bits": 8,
        "column_buffer_depth": 14,
        "entropy_engines": 1,
        "residual_adder": 1,
        "generator": 1,
        "scratchpad_bytes": 23,
    },
)
"""The protocol version and the fields of `MachineConfig` that an image depends on."""


def identity(config: MachineConfig) -> dict[str, int]:
    """What a device of that configuration answers to IDENTIFY."""
    return {name: VERSION if name == "version" else int(getattr(config, name)) for name in IDENTITY.widths}


def last_page(bound: int | None, scratchpad_bytes: int) -> int:
    """The page below ``bound``, from which byte on layers may not write; None is the scratchpad's end.

    Raises `UsageError` unless it is the end of a page.
    """
    end = scratchpad_bytes if bound is None else bound
    if end % PAGE_BYTES or not 0 < end <= scratchpad_bytes:
        raise UsageError(
            f"layers may write up to the end of a page of {PAGE_BYTES} bytes in the scratchpad of"
            f" {scratchpad_bytes}, not up to {end}"
        )
    return end // PAGE_BYTES - 1


def pack_frame(body: bytes) -> bytes:
    """The frame that carries ``body``, with its closing zero."""
    return cobs.encode(body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")) + b"\0"


def unpack_frame(frame: bytes) -> bytes | None:
    """The body of a frame given without its closing zero; `None` if the frame is damaged."""
    try:
        content = cobs.decode(frame)
    except cobs.DecodeError:
        return None
    body, crc = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
    return body if crc == zlib.crc32(body).to_bytes(_CRC_BYTES, "little") else None


class FrameReader:
    """Finds the good frames in a stream of bytes."""

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Yield the bodies of the good frames that ``received`` completes; damaged ones are dropped."""
        *frames, partial = (self._partial + received).split(b"\0")
        # What is longer than any frame is noise, and stays damaged when its head is cut off.
        self._partial = partial[-LONGEST_FRAME:]
        for frame in frames:
            body = unpack_frame(frame)
            if body is not None:
                yield body
