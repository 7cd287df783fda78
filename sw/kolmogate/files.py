"""Writing files so that nobody ever sees half of one."""

import os
from contextlib import suppress
from pathlib import Path

from .errors import InputError

__all__ = ["require_folder", "write_whole"]


def require_folder(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` if ``path`` has no folder: in time, before the work whose result goes there."""
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it first")


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all; raises `InputError` if it cannot be written."""
    path = Path(path)
    partial = path.parent / f"{path.name}.{os.getpid()}.part"
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): choose another path") from None
    finally:
        with suppress(OSError):
            partial.unlink()
