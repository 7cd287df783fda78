"""The simulated device: a byte link whose other end is the RTL, in this process."""

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from amaranth.lib import wiring
from kolmogate.errors import DeviceError, InputError
from kolmogate.link import Link
from kolmogate.protocol import LONGEST_FRAME
from kolmogate.registers import SPENT

from . import verilate

__all__ = ["SimulatedLink"]

_DRIVER = Path(__file__).with_name("device.cpp")
_BUFFER_BYTES = 4096
# An answer begins some thousand cycles after its request at most.
_ANSWER_CYCLES = 100_000
# Python sees an interrupt between two calls: a fraction of a second.
_CYCLES_A_CALL = 100_000


class SimulatedLink(Link):
    """A link to a device compiled by Verilator. The clock runs only while `read` waits.

    Parameters
    ----------
    component : Component
        The device, with byte streams ``i`` and ``o``. The first use compiles it, see `verilate`.
    clock_hz : int
        Cycles in one of the device's seconds.
    waves : Path or None
        An FST file to write all signals to; it is complete after `close`.

    Raises `ToolMissingError` when there is nothing to compile with, and `InputError` when ``waves``
    cannot be written.
    """

    def __init__(self, component: wiring.Component, clock_hz: int, waves: Path | None = None) -> None:
        self._clock_hz = clock_hz
        self.timeout = _ANSWER_CYCLES / clock_hz
        self._waves = waves
        self._partial = _partial(waves) if waves else None
        self._library = _declared(verilate.load(component, _DRIVER, waves is not None))
        self._handle = self._library.device_open(os.fsencode(self._partial) if self._partial else None)
        self._buffer = ctypes.create_string_buffer(_BUFFER_BYTES)

    def pace(self, cycles: int) -> None:
        """From now on move a byte in at least so many cycles each way, as a serial port does."""
        self._library.device_pace(self._open(), cycles)
        self.timeout = (_ANSWER_CYCLES + 2 * LONGEST_FRAME * cycles) / self._clock_hz

    @property
    def cycles(self) -> int:
        """Clock cycles since power-up."""
        return self._library.device_cycles(self._open())

    def spent(self, layers: int) -> npt.NDArray[np.void]:
        """What the last inference spent its cycles on: `SPENT` for its ``layers``, and for what followed.

        Raises `DeviceError` if it had another number of layers, or the device does not say.
        """
        spent = np.zeros(layers + 1, SPENT)
        counted = self._library.device_spent(self._open(), spent.ctypes.data, len(spent))
        if counted != len(spent):
            raise DeviceError(f"the device counted {counted - 1} layers, not {layers}")
        return spent

    def write(self, data: bytes) -> None:
        self._library.device_write(self._open(), data, len(data))

    def read(self, timeout: float) -> bytes:
        cycles = int(timeout * self._clock_hz)
        while cycles > 0:
            limit = min(cycles, _CYCLES_A_CALL)
            count = self._library.device_read(self._open(), self._buffer, _BUFFER_BYTES, limit)
            if count:
                return self._buffer.raw[:count]
            cycles -= limit
        return b""

    def now(self) -> float:
        return self.cycles / self._clock_hz

    def close(self) -> None:
        if self._handle is not None:
            self._library.device_close(self._handle)
            self._handle = None
            if self._partial and self._waves:
                os.replace(self._partial, self._waves)

    def _open(self) -> int:
        if self._handle is None:
            raise DeviceError("the simulated device is closed: open it again")
        return self._handle


def _partial(waves: Path) -> Path:
    """The file that becomes ``waves`` when it is complete."""
    partial = waves.with_name(waves.name + ".part")
    try:
        partial.write_bytes(b"")
    except OSError as error:
        raise InputError(f"the waveform {waves} cannot be written: {error.strerror}") from None
    return partial


def _declared(library: ctypes.CDLL) -> Any:
    """The library with the types of `device.cpp`."""
    handle, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in (
        ("device_open", handle, [ctypes.c_char_p]),
        ("device_pace", None, [handle, ctypes.c_uint64]),
        ("device_write", None, [handle, ctypes.c_char_p, size]),
        ("device_read", size, [handle, ctypes.c_char_p, size, ctypes.c_uint64]),
        ("device_spent", size, [handle, ctypes.c_void_p, size]),
        ("device_cycles", ctypes.c_uint64, [handle]),
        ("device_close", None, [handle]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
