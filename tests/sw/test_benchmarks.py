"""The scripts of the folder `benchmarks`: what they say when they cannot run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def complaint(script: str, *arguments: str, **variables: str) -> str:
    """What a script that fails says: one sentence that begins with its name."""
    environment = {name: value for name, value in os.environ.items() if name[:10] != "KOLMOGATE_"}
    done = subprocess.run(
        [sys.executable, FOLDER / f"{script}.py", *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"{script}.py: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("script", ["boards", "compression", "instructions", "streaming"])
def test_no_folder_of_networks(script):
    assert "KOLMOGATE_MODELS is not set: it names the folder" in complaint(script)


def test_networks_that_are_not_there(tmp_path):
    folders = {"KOLMOGATE_MODELS": str(tmp_path), "KOLMOGATE_DATA": str(tmp_path)}
    for script in ("compression", "instructions", "streaming"):
        assert "No such file or directory): give the path" in complaint(script, **folders)


def test_unknown_names():
    assert "unknown network 'nonsense': choose from kws_ref_model, " in complaint("compression", "nonsense")
    assert "unknown board 'nonsense': choose one of icebreaker, " in complaint("fmax", "nonsense")
