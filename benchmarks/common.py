"""What the scripts of this folder begin and end with."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from kolmogate.errors import KolmogateError, UsageError

__all__ = ["folder", "run"]


def folder(variable: str, contents: str = "the MLPerf Tiny networks") -> Path:
    """The folder that an environment variable names; raises `UsageError` if it does not."""
    name = os.environ.get(variable)
    if not name:
        raise UsageError(f"{variable} is not set: it names the folder of {contents}")
    return Path(name)


def run(main: Callable[[], None]) -> None:
    """A script's ``main``; where it raises a `KolmogateError`, one sentence and the exit code of its kind."""
    try:
        main()
    except KolmogateError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
