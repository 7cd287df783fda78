"""A byte link that drops, flips, repeats, inserts and delays bytes, to see what the two ends make of it."""

import random
from collections import Counter

from kolmogate.link import Link

__all__ = ["FaultyLink"]


class FaultyLink(Link):
    """Another link with faults in both directions.

    Parameters
    ----------
    link : Link
        Carries what is left. Closed with this one.
    source : Random
        Where the faults come from.
    rate : float
        Faults a byte; may be changed at any time.

    Attributes
    ----------
    faults : Counter
        How many there were of each kind.
    """

    KINDS = ("drop", "flip", "repeat", "insert", "delay")

    def __init__(self, link: Link, source: random.Random, rate: float) -> None:
        self._link, self._source, self.rate = link, source, rate
        self.timeout = link.timeout
        self.faults: Counter[str] = Counter()
        # What is late, in the order of its bytes: a link is a queue, whatever happens to it.
        self._to_device = b""
        self._to_host = b""

    def write(self, data: bytes) -> None:
        sent, late = self._disturb(data)
        self._link.write(self._to_device + sent)
        self._to_device = late

    def read(self, timeout: float) -> bytes:
        received, late = self._disturb(self._link.read(timeout))
        received, self._to_host = self._to_host + received, late
        if not received and self._to_device:
            # The silence was long enough for what is late to arrive.
            self._link.write(self._to_device)
            self._to_device = b""
        return received

    def now(self) -> float:
        return self._link.now()

    def close(self) -> None:
        self._link.close()

    def _disturb(self, data: bytes) -> tuple[bytes, bytes]:
        """What arrives of ``data`` now, and what arrives later."""
        arrived, split = bytearray(), None
        for byte in data:
            if self._source.random() >= self.rate:
                arrived.append(byte)
                continue
            kind = self._source.choice(self.KINDS)
            self.faults[kind] += 1
            if kind == "flip":
                arrived.append(byte ^ 1 << self._source.randrange(8))
            elif kind == "repeat":
                arrived += bytes((byte, byte))
            elif kind == "insert":
                arrived += bytes((self._source.randrange(256), byte))
            elif kind == "delay":
                split = len(arrived) if split is None else split
                arrived.append(byte)
        split = len(arrived) if split is None else split
        return bytes(arrived[:split]), bytes(arrived[split:])
