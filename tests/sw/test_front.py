"""The front: points that no other beats, their table, what is written."""

import itertools
import json

import pytest
from kolmogate.cli import main
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.errors import ToolMissingError, UsageError
from kolmogate.front import format_front, front, require_plots, save_front
from kolmogate.network import Conv2D
from kolmogate.random_network import random_network
from kolmogate.tflite_export import save_tflite

UP5K = configuration("up5k")


@pytest.fixture
def network(chain):
    return chain(9, 9, 8).conv(16, padding=(1, 1, 1, 1)).depthwise().conv(24, size=(1, 1)).dense(10).network()


def test_bytes_fall_as_cycles_grow(network):
    points = front(network, UP5K)
    for one, other in itertools.pairwise(points):
        assert one.cycles < other.cycles
        assert one.bytes > other.bytes
    smallest = compile(network, UP5K, objective="smallest")
    assert points[-1].bytes <= smallest.device_bytes
    lines = format_front(points).splitlines()
    assert len(lines) == 1 + len(points)
    assert lines[1].endswith("1.00")


def test_jobs_find_the_same(network):
    points = front(network, UP5K)
    assert front(network, UP5K, jobs=2, backend="threading") == points
    with pytest.raises(UsageError, match="joblib has no back-end 'abacus'"):
        front(network, UP5K, backend="abacus")


def test_what_is_saved(network, tmp_path):
    points = front(network, UP5K)
    paths = save_front(points, tmp_path / "front.of", "a network on up5k")
    before = [path.read_bytes() for path in paths]
    record = json.loads(before[0])
    assert [tuple(point.values()) for point in record["points"]] == [tuple(point) for point in points]
    assert format_front(points) in before[1].decode()
    assert b"<svg" in before[2]
    assert [
        path.read_bytes() for path in save_front(points, tmp_path / "front.of", "a network on up5k")
    ] == before


def test_the_command(tmp_path, capsys):
    model = tmp_path / "m.tflite"
    save_tflite(random_network(1, kinds=[Conv2D], length=2), model)
    assert main(["compile", str(model), "--front", str(tmp_path / "f"), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "f.json").read_text())["points"] == points
    assert main(["compile", str(model)]) == 2
    assert "an image with -o, or the front with --front" in capsys.readouterr().err
    assert main(["compile", str(model), "--front", str(tmp_path / "f"), "--jobs", "0"]) == 2
    assert "--jobs must be at least 1, not 0" in capsys.readouterr().err


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ToolMissingError, match=r"pip install 'kolmogate\[plot\]'"):
        require_plots()
