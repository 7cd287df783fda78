"""Errors that users see: one readable sentence that says what was wrong and what to try.

Each class carries the exit code of the command line.
"""

__all__ = ["DeviceError", "InputError", "KolmogateError", "ToolMissingError", "UsageError"]


class KolmogateError(Exception):
    """Base of every error that a user can cause or meet; ``exit_code`` is the process status."""

    exit_code = 1


class InputError(KolmogateError):
    """A file, model or array that cannot be used."""


class UsageError(KolmogateError):
    """A call whose arguments do not fit together."""

    exit_code = 2


class ToolMissingError(KolmogateError):
    """A program or library that is not installed."""

    exit_code = 3


class DeviceError(KolmogateError):
    """The link failed, or the device reported an error: ``code`` is its `isa.ErrorCode`, 0 for the link."""

    exit_code = 4

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code
