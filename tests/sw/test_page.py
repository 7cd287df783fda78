"""The page of `kolmogate report`: complete in itself, with all figures, the same for the same image."""

import re
import sys

import pytest
from kolmogate.cli import main
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import load_image, save_image
from kolmogate.figures import FIGURES
from kolmogate.programs.reader import instruction_bytes


@pytest.fixture
def images(chain, tmp_path):
    """Paths of two images of a network."""
    network = (
        chain(8, 8, 2).conv(16).depthwise(padding=(1, 1, 1, 1)).pool((2, 2)).reshape(144).dense(5).network()
    )
    for objective in ("fastest", "smallest"):
        image = compile(network, configuration("up5k"), objective=objective)
        save_image(image, tmp_path / f"{objective}.kg")
    return [tmp_path / f"{objective}.kg" for objective in ("fastest", "smallest")]


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_page_is_complete_in_itself(images, tmp_path):
    page, folder = tmp_path / "r.html", tmp_path / "figures"
    folder.mkdir()
    assert run("report", images[0], "--compare", images[1], "-o", page, "--png", folder) == 0
    text = page.read_text()
    assert text.count("data:image/svg+xml;base64,") == len(FIGURES)
    # Nothing is loaded: no address but of data.
    assert set(re.findall(r'(?:src|href)="([a-z]+):', text)) == {"data"}
    assert "@import" not in text
    assert "<script" not in text
    assert "fastest" in text
    assert "smallest" in text
    assert {path.stem for path in folder.iterdir()} == set(FIGURES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    again = tmp_path / "again.html"
    assert run("report", images[0], "--compare", images[1], "-o", again) == 0
    assert again.read_text() == text


def test_wrong_uses_are_one_sentence(images, tmp_path, capsys, monkeypatch):
    for arguments, code, sentence in (
        ((tmp_path / "none.kg", "-o", tmp_path / "r.html"), 1, "none.kg"),
        ((images[0], "-o", tmp_path / "no" / "r.html"), 1, "there is no folder"),
        ((images[0], "-o", tmp_path / "r.html", "--png", tmp_path / "no"), 2, "make it first"),
    ):
        assert run("report", *arguments) == code
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("report", images[0], "-o", tmp_path / "r.html") == 3
    assert "pip install 'kolmogate[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_instructions_account_for_the_program(images):
    for path in images:
        image = load_image(path)
        program = image.program()
        spent = instruction_bytes(program, image.config.columns)
        streams = len(program.code) + len(program.coded) + len(program.literals)
        # What fills up words is nobody's.
        assert streams - 3 * image.config.columns <= sum(spent.values()) <= streams
