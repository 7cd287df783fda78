"""Streamed programs: the rings in the scratchpad that their streams flow through, and who may go how far.

A *streamed* program is not in the device's memory. While it runs, the host feeds each of its three streams
page by page into a ring of `RING_PAGES` pages, and the device's reader waits before it enters the page that
is fed next. The coded stream runs, in its ring as in memory, towards lower addresses.

Positions are pages modulo the ring, said anew in every answer of the device, so that a request which is
repeated changes nothing. The host keeps the page behind a reader's: LOOP goes back to it. The page fed next
is always a free one, which tells a ring that is full from one that is empty.
"""

from collections.abc import Mapping

from .config import MachineConfig
from .programs.p0 import Program
from .protocol import PAGE_BYTES

__all__ = ["RINGS", "RING_BYTES", "RING_PAGES", "Feed", "feeds", "padded", "ring_addresses"]

RING_PAGES = 4
RING_BYTES = RING_PAGES * PAGE_BYTES

RINGS = {"coded": 1, "literals": 2, "code": 3}
"""Which quarter each stream has of the last `BLOCK_BYTES` of the scratchpad, at a multiple of as many."""

WORDS_AHEAD = 2

BLOCK_BYTES = (len(RINGS) + 1) * RING_BYTES


def ring_addresses(config: MachineConfig) -> dict[str, int]:
    """Where the rings are; what lies below the first is for the image's other parts."""
    block = (config.scratchpad_bytes // BLOCK_BYTES - 1) * BLOCK_BYTES
    return {name: block + ring * RING_BYTES for name, ring in RINGS.items()}


def padded(program: Program, columns: int) -> Program:
    """The streams as they are fed: in whole pages, with zeros in the place of what readers take ahead.

    Lanes hold `WORDS_AHEAD` words before they give out a bit of the one before these, and the last bits of
    the coded stream need not be stored.
    """

    def pages(stream: bytes) -> int:
        return -(-(len(stream) + WORDS_AHEAD * columns) // PAGE_BYTES) * PAGE_BYTES

    return Program(
        program.code.ljust(pages(program.code), b"\0"),
        program.coded.rjust(pages(program.coded), b"\0"),
        program.literals.ljust(pages(program.literals), b"\0"),
    )


class Feed:
    """The host's end of a ring.

    Parameters
    ----------
    name : str
        The stream, as in `RINGS`.
    address : int
        Of the ring.
    stream : bytes
        Whole pages, as `padded` makes them.
    """

    def __init__(self, name: str, address: int, stream: bytes) -> None:
        self.name = name
        self._address = address
        self._stream = stream
        self._descends = name == "coded"
        self._sent = 0

    @property
    def left(self) -> int:
        """Pages that are not yet sent."""
        return len(self._stream) // PAGE_BYTES - self._sent

    def ahead(self, page: int) -> int:
        """Pages that the reader has before it, its own among them, when it says that it is in ``page``."""
        if self._descends:
            page = -1 - page
        return (self._sent - page) % RING_PAGES

    def has_room(self, page: int) -> bool:
        """Whether another page may be sent to a reader in ``page``."""
        return self.left > 0 and self.ahead(page) < RING_PAGES - 2

    def take(self) -> tuple[int, bytes]:
        """The next page to send, with its address."""
        place = self._sent % RING_PAGES
        start = self._sent * PAGE_BYTES
        if self._descends:
            place = RING_PAGES - 1 - place
            start = len(self._stream) - start - PAGE_BYTES
        self._sent += 1
        return self._address + place * PAGE_BYTES, self._stream[start : start + PAGE_BYTES]


def feeds(program: Program, addresses: Mapping[str, int]) -> list[Feed]:
    """A feed for each stream of a program that is `padded`, by the addresses of their rings."""
    return [Feed(name, addresses[name], getattr(program, name)) for name in RINGS]
