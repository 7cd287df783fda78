"""The benchmark on the machine model: its results, its tables, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from kolmogate.bench import ANCHORS, bench, format_bench, save_bench
from kolmogate.cli import main
from kolmogate.config import configuration
from kolmogate.errors import InputError
from kolmogate.network import Conv2D, DepthwiseConv2D
from kolmogate.random_network import random_network
from kolmogate.tflite_export import save_tflite

KEYS = {
    *("model", "target", "on", "cycles", "weights", "macs", "live_macs", "utilisation", "device_bytes"),
    *("exact", "scratchpad_bytes", "layers"),
}
SPLIT = ("compute", "drain", "decode", "memory", "other")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "small.tflite"
    save_tflite(random_network(1, kinds=[Conv2D], length=2), path)
    return path


def test_results(model):
    results = bench([model], ["up5k", "ecp5-85f"], "machine")
    assert [result["target"] for result in results] == ["up5k", "ecp5-85f"]
    for result in results:
        assert set(result) == KEYS
        assert (result["model"], result["on"], result["exact"]) == ("small", "machine", True)
        assert result["cycles"] == sum(layer["cycles"] for layer in result["layers"])
        for layer in result["layers"]:
            assert layer["cycles"] == sum(layer[key] for key in SPLIT)
        macs = configuration(result["target"]).macs
        assert result["utilisation"] == pytest.approx(
            result["live_macs"] / (macs * result["cycles"]), abs=1e-4
        )


def test_the_tables_name_what_did_not_fit(model):
    results = bench([model], ["up5k"], "machine")
    assert "*" not in format_bench(results)
    larger = {**results[0], "scratchpad_bytes": 256 << 10}
    assert "small on up5k with 256 KiB" in format_bench([larger])


@pytest.mark.slow
def test_a_network_gets_the_scratchpad_that_it_needs(models_folder):
    [result] = bench([models_folder / "ad01_int8.tflite"], ["up5k"], "machine")
    assert result["scratchpad_bytes"] > configuration("up5k").scratchpad_bytes
    assert result["exact"]


def test_anchors_are_of_the_networks_that_they_name(model):
    [result] = bench([model], ["up5k"], "machine")
    impostor = {**result, "model": "kws_ref_model"}
    assert "264,239" not in format_bench([impostor])
    assert "264,239" in format_bench([{**impostor, "weights": ANCHORS["kws_ref_model"].weights}])


def test_depthwise_layers_count_together_and_each(model):
    """Of 100 cycles of 16 multipliers each: 800 and 160 of 1,600, and a window of another size."""
    [result] = bench([model], ["up5k"], "machine")
    kinds = ((800, "3x3"), (160, "3x3"), (16, "5x5"))
    layers = [
        {
            **result["layers"][0],
            "op": DepthwiseConv2D.kind,
            "window": window,
            "live_macs": macs,
            "cycles": 100,
            "utilisation": macs / 1600,
        }
        for macs, window in kinds
    ]
    row = format_bench([{**result, "layers": layers}]).splitlines()[1]
    assert row.split()[5:7] == ["30%", "10%"]


def test_what_is_saved(model, tmp_path):
    results = bench([model], ["up5k"], "machine")
    save_bench(results, tmp_path / "cycles", "kolmogate bench small.tflite")
    assert json.loads((tmp_path / "cycles.json").read_text()) == results
    assert "`kolmogate bench small.tflite`" in (tmp_path / "cycles.md").read_text()


def test_the_command(model, tmp_path, capsys):
    arguments = ["bench", str(model), "--target", "up5k"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == bench([model], ["up5k"], "machine")
    assert main([*arguments, "-o", str(tmp_path / "cycles")]) == 0
    assert format_bench(bench([model], ["up5k"], "machine")) in capsys.readouterr().out
    assert (tmp_path / "cycles.md").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "vax"], 2, "unknown target 'vax'"),
        (["--on", "paper"], 2, "cannot bench on 'paper'"),
        (["-o", "nowhere/cycles"], 1, "no folder nowhere"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, code, message, model, capsys):
    assert main(["bench", str(model), *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_model_that_is_none(tmp_path):
    path = tmp_path / "none.tflite"
    path.write_bytes(np.arange(64, dtype=np.uint8).tobytes())
    with pytest.raises(InputError, match=r"none\.tflite"):
        bench([path], ["up5k"], "machine")
