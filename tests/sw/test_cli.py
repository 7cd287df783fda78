"""The command line: what it prints, its exit codes, and that bad input is one sentence and no traceback."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.cli import main
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.errors import InputError
from kolmogate.network import AveragePool2D, Conv2D, Dense, DepthwiseConv2D, Network, Pad, Softmax, Tensor
from kolmogate.random_network import random_network
from kolmogate.report import NAME_WIDTH, short_name
from kolmogate.tflite_export import save_tflite
from kolmogate.tflite_import import load_tflite

KINDS = (Conv2D, DepthwiseConv2D, Dense, AveragePool2D, Pad, Softmax)


@dataclass(frozen=True)
class Files:
    """A network as the file, its image, three inputs and their outputs."""

    folder: Path
    tflite: Path
    image: Path
    inputs: Path
    network: Network
    x: np.ndarray
    y: np.ndarray


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Files:
    """The first random network that fits a file and the machine and whose outputs tell inputs apart."""
    folder = tmp_path_factory.mktemp("cli")
    tflite, image, inputs = folder / "small.tflite", folder / "small.kg", folder / "x.npy"
    for seed in range(40, 200):
        network = random_network(seed, KINDS, 5)
        x = np.random.default_rng(seed).integers(-128, 128, (3, *network.tensors["input"].shape))
        x = x.astype(np.int8)
        y = golden.run(network, x)
        if not isinstance(network.operations[-1], Softmax) or len(np.unique(y)) < 5:
            continue
        try:
            compile(network, configuration("up5k"))
            save_tflite(network, tflite)
        except InputError:
            continue
        break
    else:
        pytest.fail("no random network fits: look for seeds further on")
    np.save(inputs, x)
    assert main(["compile", str(tflite), "-o", str(image)]) == 0
    return Files(folder, tflite, image, inputs, load_tflite(tflite), x, y)


@pytest.fixture
def cli(capsys):
    """``cli(*arguments)``: (exit code, standard output, standard error)."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def refused(outcome, code, sentence):
    """The outcome is that exit code and one sentence, which holds ``sentence``, on standard error alone."""
    got, output, error = outcome
    assert (got, output) == (code, "")
    assert error.startswith("kolmogate: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert sentence in error


def start(*arguments, **options):
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "kolmogate", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


LAYER_KEYS = {
    "name",
    "op",
    "weights",
    "macs",
    "bytes",
    "bits_per_weight",
    "instructions",
    "cycles",
    "decode",
    "decode_hidden",
    "utilisation",
}
REPORT_KEYS = {
    "model",
    "target",
    "exact",
    "streamed",
    "device_bytes",
    "sections",
    "weights",
    "live_weights",
    "macs",
    "live_macs",
    "dropped",
    "reordered",
    "cycles",
    "layers",
}


def test_compile_json(files, cli, tmp_path):
    path = tmp_path / "m.kg"
    code, output, error = cli(
        "compile", files.tflite, "-o", path, "--target", "ecp5-25f", "--exact", "--json"
    )
    assert (code, error) == (0, "")
    report = json.loads(output)
    assert set(report) == REPORT_KEYS
    assert (report["model"], report["target"], report["exact"]) == (files.network.name, "ecp5-25f", True)
    assert set(report["sections"]) == {"programs", "constants", "descriptors"}
    assert report["device_bytes"] == sum(report["sections"].values())
    assert all(set(layer) == LAYER_KEYS for layer in report["layers"])
    for key in ("weights", "macs", "cycles"):
        assert report[key] == sum(layer[key] for layer in report["layers"])
    assert 0 < report["live_weights"] <= report["weights"]
    assert 0 < report["live_macs"] <= report["macs"]
    assert json.loads(cli("inspect", path, "--json")[1]) == report


def test_compile_with_loss(files, cli, tmp_path):
    image, export = tmp_path / "m.kg", tmp_path / "t.tflite"
    np.savez(tmp_path / "d.npz", x=np.repeat(files.x, 4, axis=0))
    code, output, error = cli(
        *("compile", files.tflite, "-o", image, "--max-loss", "0.1", "--calibration", tmp_path / "d.npz"),
        *("--export", export, "--json"),
    )
    assert (code, error) == (0, "")
    report = json.loads(output)
    assert set(report) == REPORT_KEYS | {"lossy"}
    assert report["exact"] is False
    assert report["lossy"]["loss"] <= 0.1
    assert (report["lossy"]["inputs"], report["lossy"]["synthetic"]) == (12, False)
    assert report["weights"] == json.loads(cli("inspect", files.image, "--json")[1])["weights"]
    made = [tmp_path / "one.npy", tmp_path / "two.npy"]
    for model, path in zip((image, export), made, strict=True):
        assert cli("run", model, "--input", files.inputs, "--output", path, "--on", "golden")[0] == 0
    assert (np.load(made[0]) == np.load(made[1])).all()
    assert "compressed with loss\n" in cli("inspect", image)[1]


def test_wrong_uses_of_loss_are_refused(files, cli, tmp_path):
    command = ("compile", files.tflite, "-o", tmp_path / "m.kg")
    refused(cli(*command, "--exact", "--max-loss", "0.1"), 2, "--exact allows no loss")
    refused(cli(*command, "--calibration", files.inputs), 2, "add --max-loss")
    refused(cli(*command, "--max-loss", "-1"), 2, "must be a positive number, not -1")
    refused(cli(*command, "--max-loss", "nan"), 2, "must be a positive number, not nan")
    np.save(tmp_path / "wide.npy", files.x[:, :1])
    refused(
        cli(*command, "--max-loss", "1", "--calibration", tmp_path / "wide.npy"), 1, "must have the shape"
    )
    np.save(tmp_path / "long.npy", files.x.astype(np.int64))
    refused(cli(*command, "--max-loss", "1", "--calibration", tmp_path / "long.npy"), 1, "int8 or float32")
    budgets = ("--max-loss", "9", "--calibration", files.inputs, "--max-bytes", "10")
    refused(cli(*command, *budgets), 1, "more than 10: allow more bytes")
    assert not (tmp_path / "m.kg").exists()


def test_compile_prints_a_table(files, cli, tmp_path):
    code, output, error = cli("compile", files.tflite, "-o", tmp_path / "m.kg")
    assert (code, error) == (0, "")
    lines = output.splitlines()
    assert lines[0].split() == [
        "layer",
        "operator",
        "weights",
        "bytes",
        "bits/weight",
        "MACs",
        "cycles",
        "decode",
        "wait",
        "utilisation",
    ]
    assert "bytes for the device" in lines[-2]
    assert lines[-1] == f"wrote {tmp_path / 'm.kg'}"


@pytest.mark.parametrize(("model", "on"), [("image", "machine"), ("image", "golden"), ("tflite", "golden")])
def test_run_gives_the_golden_outputs(model, on, files, cli, tmp_path):
    path = tmp_path / "y.npy"
    arguments = ("run", getattr(files, model), "--input", files.inputs, "--on", on)
    code, output, error = cli(*arguments, "--output", path, "--json")
    assert (code, error) == (0, "")
    result = json.loads(output)
    assert set(result) == {"inputs", "on", "cycles_per_inference", "seconds"}
    assert (result["inputs"], result["on"]) == (3, on)
    assert (result["cycles_per_inference"] is None) == (on == "golden")
    y = np.load(path)
    assert y.dtype == np.int8
    assert (y == files.y).all()

    code, output, error = cli(*arguments)
    assert (code, error) == (0, "")
    first = " ".join(map(str, files.y[0].ravel()[:16]))
    assert output.startswith(f"0: {first}")
    assert f"3 inputs on {on}" in output.splitlines()[-1]


def test_float_inputs_are_quantised_and_may_come_in_npz(files, cli, tmp_path):
    tensor = files.network.tensors[files.network.input]
    real = ((files.x.astype(np.float64) - tensor.zero_point) * tensor.scale).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=real, labels=np.arange(3))
    assert cli("run", files.image, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npy")[0] == 0
    assert (np.load(tmp_path / "y.npy") == files.y).all()


def test_inspect(files, cli):
    code, output, _ = cli("inspect", files.image)
    assert code == 0
    assert output.startswith(f"{files.network.name}, compiled for up5k, exact\n")
    assert "LITERAL" not in output
    code, output, _ = cli("inspect", files.image, "--programs")
    assert code == 0
    assert "LITERAL" in output
    assert output.splitlines()[-1].split()[-1] == "END"
    listing = json.loads(cli("inspect", files.image, "--programs", "--json")[1])["listing"]
    assert listing == output.splitlines()[-len(listing) :]


def test_subprocess(files, tmp_path):
    process = start("run", files.image, "--input", files.inputs, "--json", stdout=subprocess.PIPE)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert json.loads(output)["on"] == "machine"
    process = start("run", tmp_path / "none.kg", "--input", files.inputs, stdout=subprocess.PIPE)
    output, error = process.communicate(timeout=60)
    expected = f"kolmogate: cannot read {tmp_path / 'none.kg'}: No such file or directory; check the path\n"
    assert (process.returncode, output, error) == (1, "", expected)


def test_host_side_never_imports_the_gateware():
    """Whoever only compiles or drives boards need not have Amaranth."""
    code = "import sys, kolmogate.cli; print([name for name in sys.modules if name.startswith('amaranth')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_models_that_cannot_be_used(files, cli, tmp_path):
    output = tmp_path / "m.kg"
    refused(cli("compile", tmp_path / "none.tflite", "-o", output), 1, "none.tflite")
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(b"no model" * 100)
    refused(cli("compile", foreign, "-o", output), 1, "not a TFLite")
    foreign.write_bytes(files.tflite.read_bytes()[:200])
    refused(cli("compile", foreign, "-o", output), 1, "foreign.tflite")
    softmax = tmp_path / "softmax.tflite"
    network = random_network(1, (Conv2D,), 1)
    add_softmax = Softmax("softmax", (network.output,), "softmax", 1.0)
    made = network.tensors[network.output]
    tensors = {
        **network.tensors,
        "softmax": Tensor("softmax", made.shape, 1 / 256, -128),
        "padded": Tensor("padded", (made.shape[0] + 1, *made.shape[1:]), 1 / 256, -128),
    }
    pad = Pad("pad", ("softmax",), "padded", (1, 0, 0, 0))
    operations = (*network.operations, add_softmax, pad)
    save_tflite(Network(tensors, operations, network.input, "padded", "inner"), softmax)
    refused(
        cli("compile", softmax, "-o", output), 1, "SOFTMAX 'softmax' cannot be run exactly on this target"
    )
    assert not output.exists()


def test_images_that_cannot_be_used(files, cli, tmp_path):
    cut = tmp_path / "cut.kg"
    data = files.image.read_bytes()
    cut.write_bytes(data[:-100])
    sentence = f"cut.kg: the image should have {len(data)} bytes, not {len(data) - 100}"
    for on in ("golden", "machine"):
        refused(cli("run", cut, "--input", files.inputs, "--on", on), 1, sentence)
    refused(cli("inspect", cut), 1, sentence)
    refused(cli("inspect", files.tflite), 1, "this is not a Kolmogate image; make one with")
    refused(cli("inspect", tmp_path), 1, "Is a directory")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda x: x[:, :-1], "must have the shape (batch, "),
        (lambda x: x[0], "must have the shape (batch, "),
        (lambda x: x[0, 0, 0, 0], "batch first, not ()"),
        (lambda x: x[:0], "holds no inputs: its batch is empty"),
        (lambda x: x.astype(np.float64), "must be int8 or float32, not float64"),
        (lambda x: x.view(np.uint8), "must be int8 or float32, not uint8"),
        (lambda x: np.where(x == x.max(), np.nan, x).astype(np.float32), "holds NaN or infinity"),
        (lambda x: np.where(x == x.max(), np.inf, x).astype(np.float32), "holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("on", ["golden", "machine"])
def test_inputs_of_the_wrong_kind(damage, sentence, on, files, cli, tmp_path):
    np.save(tmp_path / "x.npy", damage(files.x))
    outcome = cli(
        "run", files.image, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--on", on
    )
    refused(outcome, 1, sentence)
    assert not (tmp_path / "y.npy").exists()


def test_input_files_that_cannot_be_read(files, cli, tmp_path):
    def run(name):
        return cli("run", files.image, "--input", tmp_path / name)

    refused(run("none.npy"), 1, "none.npy: No such file or directory; check the path")
    refused(run("."), 1, "Is a directory; check the path")
    np.savez(tmp_path / "y.npz", y=files.x, z=files.x)
    refused(run("y.npz"), 1, "y.npz has no array named x, it holds 'y', 'z': save the inputs as x")
    np.savez(tmp_path / "empty.npz")
    refused(run("empty.npz"), 1, "it holds nothing")
    # unpickling this would raise, and reading objects at all would run what the file says
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    refused(run("objects.npy"), 1, "is not a sound .npy or .npz file")
    for name, content in (
        ("text.npy", b"1, 2, 3\n"),
        ("nothing.npy", b""),
        ("cut.npy", files.inputs.read_bytes()[:-1]),
        ("header.npy", files.inputs.read_bytes()[:40]),
        ("cut.npz", (tmp_path / "y.npz").read_bytes()[:-30]),
    ):
        (tmp_path / name).write_bytes(content)
        refused(run(name), 1, f"{name} is not a sound .npy or .npz file")


def test_damaged_input_files_are_refused_or_read(files, cli, tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", x=files.x)
    for whole in (files.inputs, tmp_path / "whole.npz"):
        path = tmp_path / f"damaged{whole.suffix}"
        codes = set()
        for seed in range(60):
            rng = np.random.default_rng(seed)
            data = bytearray(whole.read_bytes())
            for position in rng.integers(0, len(data), 2):
                data[position] ^= int(rng.integers(1, 256))
            path.write_bytes(data)
            outcome = cli("run", files.image, "--input", path, "--on", "golden")
            codes.add(outcome[0])
            if outcome[0]:
                refused(outcome, 1, path.name)
        assert 1 in codes


def test_usage_errors(files, cli, tmp_path):
    run = ("run", files.image, "--input", files.inputs)
    refused(
        cli(*run, "--on", "moon"),
        2,
        "cannot run on 'moon': choose golden, machine, rtl, auto or a serial port",
    )
    refused(cli(*run, "--on", "/dev/none"), 4, "there is no port /dev/none (")
    refused(cli(*run, "--on", "/dev/none", "--baud", 9600), 2, "from 115,200 to 3,000,000, not 9,600")
    refused(cli(*run, "--waves", tmp_path / "w.fst"), 2, "waveforms are recorded from the RTL alone")
    refused(cli("run", files.tflite, "--input", files.inputs), 2, "is not compiled: run it with --on golden")
    outcome = cli("compile", files.tflite, "-o", tmp_path / "m.kg", "--target", "moon")
    refused(outcome, 2, "unknown target 'moon': choose one of up5k, ")
    refused(cli("compile", files.tflite), 2, "say what to write: an image with -o, or the front with --front")
    for arguments in (
        [],
        ["fly"],
        ["run", "m.kg"],
        ["inspect", "m.kg", "--faster"],
        ["simulate"],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_outputs_that_cannot_be_written(files, cli, tmp_path):
    """A missing folder is told before anything is run."""
    missing = tmp_path / "missing"
    sentence = f"there is no folder {missing}; make it first"
    refused(cli("compile", files.tflite, "-o", missing / "m.kg"), 1, sentence)
    run = ("run", files.image, "--input", files.inputs)
    refused(cli(*run, "--output", missing / "y.npy"), 1, sentence)
    refused(cli(*run, "--on", "rtl", "--waves", missing / "w.fst"), 1, sentence)
    refused(cli(*run, "--output", tmp_path), 1, "(Is a directory): choose another path")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_came_from(cli, tmp_path):
    code, output, error = cli("inspect", tmp_path / "none.kg", "--debug")
    assert (code, output) == (1, "")
    assert error.startswith("Traceback")
    assert "No such file or directory" in error


def test_memory_that_runs_out(files, cli, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("kolmogate.golden.run", fail)
    outcome = cli("run", files.image, "--input", files.inputs, "--on", "golden")
    refused(outcome, 1, "there is not enough memory; try a smaller model or batch")


@pytest.mark.parametrize("moment", ["kolmogate.cli.save_outputs", "os.replace", "kolmogate.golden.run"])
def test_interruption_leaves_nothing_half_written(moment, files, cli, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    path = tmp_path / "y.npy"
    path.write_bytes(b"old")
    monkeypatch.setattr(moment, interrupt)
    outcome = cli("run", files.image, "--input", files.inputs, "--on", "golden", "--output", path)
    assert outcome == (130, "", "kolmogate: interrupted\n")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_process(files, tmp_path):
    """The process is waiting for its input when the signal comes."""
    pipe = tmp_path / "x.npy"
    os.mkfifo(pipe)
    process = start("run", files.image, "--input", pipe, "--output", tmp_path / "y.npy")
    with pipe.open("wb"):
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "kolmogate: interrupted\n")
    assert list(tmp_path.iterdir()) == [pipe]


def test_reader_that_goes_away(files):
    """As in `kolmogate inspect ... | head`."""
    process = start("inspect", files.image, "--programs", stdout=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(timeout=60), error) == (0, "")
    process.stderr.close()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("model/activation/Relu;model/norm/Fused;model/conv2d/BiasAdd;model/conv2d/Conv2D1", "conv2d"),
        ("model/depthwise_conv2d_3/BiasAdd/ReadVariableOp/resource1", "depthwise_conv2d_3"),
        ("functional_1/dense/BiasAdd", "dense"),
        ("dense/BiasAdd", "dense"),
        ("Identity", "Identity"),
        ("StatefulPartitionedCall:0", "StatefulPartitionedCall:0"),
        ("", ""),
        ("a" * 40, "a" * 26 + ".."),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


@pytest.mark.parametrize(
    "model", ["kws_ref_model", "ad01_int8", "str_ww_ref_model", "vww_96_int8", "pretrainedResnet_quant"]
)
def test_short_names_tell_the_layers_of_public_networks_apart(model, models_folder):
    names = [short_name(o.name) for o in load_tflite(models_folder / f"{model}.tflite").operations]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= NAME_WIDTH
