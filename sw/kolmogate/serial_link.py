"""The byte link over a serial port: a board's UART, or a simulated board behind a pseudo-terminal."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import serial
from serial.tools.list_ports import comports

from .errors import DeviceError, UsageError
from .link import Link
from .protocol import BAUD, LONGEST_FRAME

__all__ = ["BAUDS", "SerialLink", "usb_ports"]

BAUDS = range(115_200, 3_000_001)
"""Baud rates that a board may be built for."""

# What USB, its driver and the operating system may add to the time that the bytes take.
_LATENCY_SECONDS = 0.1
_WRITE_SECONDS = 5.0


class SerialLink(Link):
    """A link through a serial port, which it holds for itself until it is closed.

    Parameters
    ----------
    port : str
        The port's name, such as ``/dev/ttyUSB1`` or ``COM3``.
    baud : int
        Bits a second, in `BAUDS`: the rate that the board was built for. A pseudo-terminal ignores it.

    Raises `UsageError` for a baud rate out of range, `DeviceError` if the port cannot be opened.
    """

    def __init__(self, port: str, baud: int = BAUD) -> None:
        if baud not in BAUDS:
            raise UsageError(f"a baud rate must be from {BAUDS[0]:,} to {BAUDS[-1]:,}, not {baud:,}")
        self._name = port
        # A request may still be on its way when the wait for its answer begins.
        self.timeout = _LATENCY_SECONDS + 2 * LONGEST_FRAME * 10 / baud
        try:
            self._port = serial.Serial(port, baud, exclusive=_EXCLUSIVE, write_timeout=_WRITE_SECONDS)
        except (OSError, ValueError) as error:
            raise DeviceError(_why_not(port, error)) from None
        # Otherwise FTDI's driver holds short answers back for 16 ms. Not every port and system knows it.
        with suppress(OSError, ValueError, AttributeError, NotImplementedError):
            self._port.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        with self._watched():
            self._port.write(data)

    def read(self, timeout: float) -> bytes:
        with self._watched():
            if self._port.timeout != timeout:
                self._port.timeout = timeout
            first: bytes = self._port.read(1)
            return first + self._port.read(self._port.in_waiting) if first else first

    def close(self) -> None:
        self._port.close()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except serial.SerialTimeoutException:
            raise DeviceError(
                f"{self._name} takes no data: check that it is the board's port, and plug the board in again"
            ) from None
        # What the standard library raises of a port that is closed has no type of its own.
        except (OSError, TypeError, _TERMINAL_ERROR):
            if not self._port.is_open:
                raise DeviceError(f"{self._name} is closed: open the device again") from None
            raise DeviceError(
                f"{self._name} was lost, as when a board is unplugged: plug it in and open it again"
            ) from None


def usb_ports() -> list[str]:
    """The names of all serial ports that are on USB, in order."""
    return sorted(port.device for port in comports() if port.vid is not None)


def _why_not(port: str, error: Exception) -> str:
    """Why ``port`` cannot be opened, and what to try."""
    code = getattr(error, "errno", None)
    if code == errno.EACCES and os.name == "posix":
        return (
            f"no permission to open {port}: join the group that owns it (`sudo usermod -aG dialout $USER`, "
            "then log in again), or give a udev rule for the board, such as "
            '`SUBSYSTEM=="tty", ATTRS{idVendor}=="0403", MODE="0666"` in /etc/udev/rules.d/50-kolmogate.rules'
        )
    if code in (errno.EAGAIN, errno.EBUSY) or "exclusively lock" in str(error) or code == errno.EACCES:
        return f"{port} is in use by another program: close that first"
    if code == errno.ENOENT or "FileNotFound" in str(error):
        ports = usb_ports()
        there = f"the serial ports on USB are {', '.join(ports)}" if ports else "no serial port is on USB"
        return f"there is no port {port} ({there}): check the name and that the board is plugged in"
    return f"{port} cannot be opened as a serial port: {error}"


# Windows knows no other access, and says so if it is asked for by name.
_EXCLUSIVE = True if os.name == "posix" else None

# Of the terminal's own kind, where there are terminals.
_TERMINAL_ERROR: type[Exception] = OSError
with suppress(ImportError):
    import termios

    _TERMINAL_ERROR = termios.error
