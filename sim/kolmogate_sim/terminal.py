"""A simulated board at a pseudo-terminal, which any serial client can open."""

import os
import pty
import select
import time
import tty
from collections.abc import Callable

from kolmogate.link import Link

__all__ = ["serve"]

# Simulated time between two looks at the terminal: some ten milliseconds of the host's.
_SLICE_SECONDS = 100e-6
# The device's clock stands when the host has been silent for so long: it will ask for what it waits for.
_SILENCE_SECONDS = 2.0
_BLOCK_BYTES = 4096


def serve(link: Link, announce: Callable[[str], None]) -> None:
    """Carry bytes between ``link`` and a new pseudo-terminal, for ever.

    ``announce`` is told the terminal's name once it can be opened. Clients may come and go.
    """
    board, port = pty.openpty()
    try:
        # This end of it stays open, or the terminal would hang up with the first client.
        tty.setraw(port)
        os.set_blocking(board, False)
        announce(os.ttyname(port))
        unsent = b""
        heard = -_SILENCE_SECONDS
        while True:
            idle = not unsent and time.monotonic() - heard > _SILENCE_SECONDS
            readable, writable, _ = select.select([board], [board] if unsent else [], [], None if idle else 0)
            if readable:
                link.write(os.read(board, _BLOCK_BYTES))
                heard = time.monotonic()
            if writable:
                unsent = unsent[os.write(board, unsent) :]
            if unsent and not writable:
                # A client that does not read: the device waits for it.
                select.select([board], [board], [], 0.01)
            elif not unsent and not idle:
                unsent = link.read(_SLICE_SECONDS)
    finally:
        os.close(board)
        os.close(port)
