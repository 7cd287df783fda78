"""The byte link between driver and device, whatever carries it."""

import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["Link"]


class Link(ABC):
    """Bytes to and from a device. Bytes may be lost or damaged on the way: the driver sees to that.

    Seconds are the device's own: a simulated link counts its clock. All methods raise `DeviceError` when
    the link itself has failed and will not recover.
    """

    timeout: float
    """Seconds of silence after which an answer must be taken for lost."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send ``data``."""

    @abstractmethod
    def read(self, timeout: float) -> bytes:
        """What has arrived; waits up to ``timeout`` seconds for the first byte, and is empty if none came."""

    def now(self) -> float:
        """Seconds since some moment that stays the same."""
        return time.monotonic()

    @abstractmethod
    def close(self) -> None:
        """End the connection; closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
