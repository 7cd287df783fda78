"""The demo: the shipped digit classifier from its file to the RTL, checked byte by byte."""

import json
from pathlib import Path

import numpy as np

from . import golden
from .arrays import load_inputs
from .compiler import compile
from .config import configuration
from .errors import DeviceError, InputError
from .report import describe, format_layers
from .runtime import open as open_device
from .tflite_import import load_tflite

__all__ = ["demo", "shipped"]

TARGET = "up5k"


def shipped(name: str) -> Path:
    """A file of the shipped network: in the installed package, or in the repository it was cloned from."""
    package = Path(__file__).parent
    for folder in (package / "shipped", package.parents[1] / "models" / "lenet5"):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"the demo's file {name} is missing: install kolmogate again")


def demo(*, as_json: bool = False) -> None:
    """Compile the shipped network, run it on the simulated RTL and print what came of it.

    Raises `DeviceError` if a single output byte differs from the golden model.
    """
    network = load_tflite(shipped("lenet5.tflite"))
    images = shipped("mnist_test_100.npz")
    x = load_inputs(images, network.tensors[network.input])
    with np.load(images, allow_pickle=False) as arrays:
        labels = arrays["y"]
    config = configuration(TARGET)
    image = compile(network, config, objective="smallest")
    report = describe(image)
    if not as_json:
        sizes = report["sections"]
        print(
            f"{image.model}: {report['weights']:,} weights from {sizes['programs']:,} bytes of programs and "
            f"{sizes['constants']:,} of constants, for {config.name}, exact"
        )
        print(format_layers(report))
        print(f"running {len(x)} test images on the RTL ...", flush=True)
    with open_device("rtl", config) as device:
        loaded = device.load(image)
        y = loaded(x)
    expected = golden.run(network, x)
    wrong = int((y != expected).sum())
    if wrong:
        raise DeviceError(f"{wrong} of {y.size} output bytes of the RTL differ from the golden model")
    correct = int((y.reshape(len(y), -1).argmax(axis=1) == labels).sum())
    cycles = round(sum(loaded.cycles) / len(x))
    result = {
        **report,
        "images": len(x),
        "correct": correct,
        "output_bytes_compared": y.size,
        "cycles_per_inference": cycles,
    }
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"all {y.size:,} output bytes equal the golden model")
    print(f"accuracy               {correct} of {len(x)}")
    print(f"device bytes           {image.device_bytes:,}  (the int8 weights alone: {report['weights']:,})")
    print(
        f"cycles per inference   {cycles:,}  ({config.clock_hz / cycles:,.0f} a second at "
        f"{config.clock_hz / 1e6:.0f} MHz)"
    )
