"""The benchmark: networks on configurations, cycles and what they are spent on, beside published anchors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import golden
from .compiler import compile
from .config import MachineConfig, configuration
from .files import write_whole
from .image import Image
from .network import Conv2D, DepthwiseConv2D, Network, Operation
from .report import format_table, short_name
from .runtime import open as open_device
from .tflite_import import load_tflite

__all__ = ["ANCHORS", "Anchor", "bench", "format_bench", "save_bench"]

INPUTS = 3
DEPTHWISE = "depthwise 3x3"
LARGEST_SCRATCHPAD = 1 << 20
"""Bytes that addresses reach."""


@dataclass(frozen=True)
class Anchor:
    """A network that others have published cycles of.

    Parameters
    ----------
    name : str
        What the benchmark calls it.
    weights : int
        Its weights: a file of another count is another network.
    ethos_u55 : mapping
        Cycles of an inference on Arm's Ethos-U55 by multiply-accumulates a cycle: estimates of Arm's own
        compiler, ethos-u-vela 5.2.0 with ``--optimise Performance`` and memory mode Sram_Only.
    """

    name: str
    weights: int
    ethos_u55: Mapping[int, int]


ANCHORS = {
    "kws_ref_model": Anchor("KWS", 22_016, {32: 264_239, 128: 87_659}),
    "pretrainedResnet_quant": Anchor("ResNet-8", 77_360, {32: 703_122, 128: 184_062}),
    "vww_96_int8": Anchor("VWW", 208_112, {32: 698_696, 128: 204_501}),
    "ad01_int8": Anchor("AD", 264_192, {32: 41_362, 128: 40_929}),
    "str_ww_ref_model": Anchor("SWW", 46_040, {32: 61_051, 128: 28_595}),
}
"""MLPerf Tiny's networks by the names of their files."""


def bench(models: Sequence[Path], targets: Sequence[str], on: str) -> list[dict[str, Any]]:
    """Run every model (a .tflite) on every target, on the ``machine`` model or the ``rtl``.

    Each result holds ``model, target, on, cycles, weights, macs, live_macs, utilisation, device_bytes, exact,
    scratchpad_bytes, layers``: among them whether random inputs gave the golden model's bytes, and for each
    layer its cycles and their split (`kolmogate.cycles.LayerCycles`), predicted or counted on the RTL, and
    whether the model says that its decoding is hidden. A
    network that does not fit gets a scratchpad twice as large as the target's, or twice that and so on.

    Raises `InputError` for a model that cannot be read or run exactly.
    """
    configs = [configuration(target) for target in targets]
    networks = [(path.stem, load_tflite(path)) for path in models]
    pairs = [(name, network, config) for name, network in networks for config in configs]
    bar = tqdm(pairs, desc="bench", delay=2, leave=False, disable=None)
    return [_measure(name, network, config, on) for name, network, config in bar]


def _measure(name: str, network: Network, config: MachineConfig, on: str) -> dict[str, Any]:
    image = _fit(network, config)
    x = np.random.default_rng(0).integers(-128, 128, (INPUTS, *image.input.tensor.shape)).astype(np.int8)
    with open_device(on, image.config) as device:
        loaded = device.load(image)
        predicted = loaded.layers
        y = loaded(x)
    report = image.report()
    windows = {operation.name: _window(operation) for operation in network.operations}
    total = sum(layer.total for layer in loaded.layers)
    return {
        "model": name,
        "target": config.name,
        "on": on,
        "cycles": total,
        "weights": report["weights"],
        "macs": report["macs"],
        "live_macs": report["live_macs"],
        "utilisation": round(report["live_macs"] / (total * config.macs), 4),
        "device_bytes": image.device_bytes,
        "exact": bool((y == golden.run(network, x)).all()),
        "scratchpad_bytes": image.config.scratchpad_bytes,
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "window": windows.get(layer.name),
                "live_macs": layer.live_macs,
                "cycles": spent.total,
                "compute": spent.compute,
                "drain": spent.drain,
                "decode": spent.decode,
                "memory": spent.memory,
                "other": spent.other,
                "decode_hidden": model.hidden,
                "utilisation": spent.utilisation,
            }
            for layer, spent, model in zip(image.layers, loaded.layers, predicted, strict=True)
        ],
    }


def _window(operation: Operation) -> str | None:
    """The size of a convolution's window, as 3x3."""
    if not isinstance(operation, Conv2D | DepthwiseConv2D):
        return None
    return "{}x{}".format(*operation.window.size)


def _fit(network: Network, config: MachineConfig) -> Image:
    """The image, for a configuration with more scratchpad if a program of literals does not fit."""
    fastest, larger = compile(network, config, objective="fastest"), 2 * config.scratchpad_bytes
    if (fastest.streamed or fastest.sections["coded"].data) and larger <= LARGEST_SCRATCHPAD:
        return _fit(network, replace(config, scratchpad_bytes=larger))
    return compile(network, config)


def format_bench(results: Sequence[Mapping[str, Any]]) -> str:
    """The results of `bench` as tables: all of them, then the layers of each."""
    header = (
        *("model", "target", "MACs a cycle", "cycles", "utilisation", DEPTHWISE, "lowest", "bytes", "exact"),
        *("U55-32 cycles", "U55-128 cycles"),
    )
    parts = [format_table(header, [_row(result) for result in results])]
    parts.append(f"{DEPTHWISE}: utilisation of those layers taken together, and of that with the lowest")
    if any(_anchor(result) for result in results):
        parts.append(
            "U55-n: Arm Ethos-U55 with n MACs a cycle, the estimate of its own compiler (ethos-u-vela 5.2.0,"
            " weights on chip)"
        )
    larger = [result for result in results if _is_larger(result)]
    if larger:
        notes = {
            f"{result['model']} on {result['target']} with {result['scratchpad_bytes'] >> 10} KiB"
            for result in larger
        }
        parts.append(f"* does not fit; simulated with a larger scratchpad: {', '.join(sorted(notes))}")
    parts.append(
        "The layers' cycles: those in which a tap was taken (compute), that waited for the shadow registers"
        " (drain),\nfor weights (decode) or for activations (memory), and the layer's beginning and end"
        " (other). Hidden: the compiler says that the array hides the decoding of the layer's weights."
    )
    for result in results:
        parts.append(f"{result['model']} on {result['target']}, {result['on']}\n{_layers(result)}")
    return "\n\n".join(parts)


def save_bench(results: Sequence[Mapping[str, Any]], path: Path, command: str) -> None:
    """Write the results to ``path``.json, and their tables to ``path``.md with the command that gave them."""
    write_whole(path.with_suffix(".json"), (json.dumps(results, indent=1) + "\n").encode())
    page = f"# Benchmark\n\n`{command}` gives:\n\n```text\n{format_bench(results)}\n```\n"
    write_whole(path.with_suffix(".md"), page.encode())


def _row(result: Mapping[str, Any]) -> tuple[object, ...]:
    anchor = _anchor(result)
    return (
        anchor.name if anchor else result["model"],
        result["target"] + "*" * _is_larger(result),
        configuration(result["target"]).macs,
        result["cycles"],
        f"{result['utilisation']:.0%}",
        *_depthwise_utilisation(result),
        result["device_bytes"],
        "yes" if result["exact"] else "NO",
        *(anchor.ethos_u55[macs] if anchor else "-" for macs in (32, 128)),
    )


def _depthwise_utilisation(result: Mapping[str, Any]) -> tuple[str, str]:
    """Of the depthwise layers with windows of 3x3, taken together, and the lowest of them."""
    layers = [
        layer for layer in result["layers"] if (layer["op"], layer["window"]) == (DepthwiseConv2D.kind, "3x3")
    ]
    if not layers:
        return "-", "-"
    macs, cycles = (sum(layer[key] for layer in layers) for key in ("live_macs", "cycles"))
    together = macs / (cycles * configuration(result["target"]).macs)
    return f"{together:.0%}", f"{min(layer['utilisation'] for layer in layers):.0%}"


def _anchor(result: Mapping[str, Any]) -> Anchor | None:
    anchor = ANCHORS.get(result["model"])
    return anchor if anchor and anchor.weights == result["weights"] else None


def _is_larger(result: Mapping[str, Any]) -> bool:
    return bool(result["scratchpad_bytes"] != configuration(result["target"]).scratchpad_bytes)


def _layers(result: Mapping[str, Any]) -> str:
    spent = ("cycles", "compute", "drain", "decode", "memory", "other")
    rows = [
        (
            short_name(layer["name"]),
            f"{layer['op']} {layer['window'] or ''}".strip(),
            *(layer[key] for key in spent),
            "yes" if layer["decode_hidden"] else "no",
            f"{layer['utilisation']:.0%}",
        )
        for layer in result["layers"]
    ]
    totals = [sum(layer[key] for layer in result["layers"]) for key in spent]
    rows.append(("all", "", *totals, "", f"{result['utilisation']:.0%}"))
    return format_table(("layer", "operator", *spent, "hidden", "utilisation"), rows)
