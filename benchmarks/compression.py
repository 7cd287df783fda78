"""How small MLPerf Tiny's networks become with loss: writes compression.md and compression.json beside this.

    KOLMOGATE_MODELS=... KOLMOGATE_DATA=... python benchmarks/compression.py

The keyword network is compressed by the 200 inputs of kws_calibration_200.npz in KOLMOGATE_DATA. What that
does to other inputs is told by cross-validation: four times it is compressed by 150 of them and judged by the
other 50, so that each is judged once. The other networks are compressed by synthetic inputs and judged by
others drawn alike. Networks named on the command line are measured alone, and nothing is written.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import kolmogate
import numpy as np
from common import folder, run
from kolmogate import golden
from kolmogate.arrays import load_inputs
from kolmogate.config import MachineConfig
from kolmogate.errors import InputError, UsageError
from kolmogate.lossy import Compressed, compress
from kolmogate.lossy.calibration import synthetic
from kolmogate.lossy.outputs import Outputs
from kolmogate.network import Int8Array, Network
from kolmogate.report import format_table

FOLDER = Path(__file__).parent
CONFIG = kolmogate.configuration("up5k")
FOLDS = 4
LOSSES = {
    "pretrainedResnet_quant": (0.1, 0.025),
    "vww_96_int8": (0.1, 0.025),
    # 30 and 40 dB of signal to error.
    "ad01_int8": (1e-3, 1e-4),
}
KEYWORDS = "kws_ref_model"
CALIBRATION = "kws_calibration_200.npz"
BYTES = (9000, 10500)


def measure(name: str, network: Network, given: Int8Array | None, **budget: Any) -> dict[str, Any]:
    """One compression by ``given`` or by synthetic inputs, and what it does to others."""
    config, larger = CONFIG, False
    try:
        exact = kolmogate.compile(network, config, objective="smallest")
    except InputError:
        config, larger = roomy(config), True
        exact = kolmogate.compile(network, config, objective="smallest")

    def made(x: Int8Array | None) -> Compressed:
        return compress(network, config, calibration=x, objective="smallest", **budget)

    whole = made(given)
    if given is None:
        judged = [(whole, synthetic(network, np.random.default_rng(1)))]
    else:
        parts = np.array_split(np.random.default_rng(0).permutation(len(given)), FOLDS)
        judged = [(made(np.delete(given, part, axis=0)), given[part]) for part in parts]
    losses, same = [], []
    for one, x in judged:
        values, moved = (golden.run_tensors(each, x) for each in (network, one.network))
        losses.append(Outputs.of(network, values).loss(moved))
        classes = [each[network.output].reshape(len(x), -1).argmax(axis=1) for each in (values, moved)]
        same += list(classes[0] == classes[1])
    report = whole.image.report()
    program_bits = sum(layer.bits for layer in whole.image.layers)
    result = {
        "model": name,
        "budget": budget,
        "exact_bytes": exact.device_bytes,
        "device_bytes": report["device_bytes"],
        "sections": report["sections"],
        "bits_per_live_weight": round(program_bits / report["live_weights"], 3),
        "larger_scratchpad": larger,
        **report["lossy"],
        "held_back_bytes": [one.image.device_bytes for one, _ in judged],
        "held_back_losses": losses,
        "held_back_inputs": len(same),
        "held_back_agreement": float(np.mean(same)),
    }
    print(json.dumps(result), flush=True)
    return result


def roomy(config: MachineConfig) -> MachineConfig:
    """The machine with all the scratchpad that addresses reach."""
    return replace(config, scratchpad_bytes=1 << 20)


def main() -> None:
    budgets: dict[str, list[dict[str, Any]]] = {
        KEYWORDS: [{"max_loss": 1.0, "max_bytes": size} for size in BYTES],
        **{name: [{"max_loss": loss} for loss in losses] for name, losses in LOSSES.items()},
    }
    names, results = sys.argv[1:], []
    for name in names:
        if name not in budgets:
            raise UsageError(f"unknown network {name!r}: choose from {', '.join(budgets)}")
    models, data = folder("KOLMOGATE_MODELS"), folder("KOLMOGATE_DATA", CALIBRATION)
    for name in names or budgets:
        network = kolmogate.load_tflite(models / f"{name}.tflite")
        given = None
        if name == KEYWORDS:
            given = load_inputs(data / CALIBRATION, network.tensors[network.input])
        results += [measure(name, network, given, **budget) for budget in budgets[name]]
    if not names:
        (FOLDER / "compression.json").write_text(json.dumps(results, indent=1) + "\n")
        (FOLDER / "compression.md").write_text(page(results))


def page(results: list[dict[str, Any]]) -> str:
    """The results as a table, with what its columns are."""
    header = ("network", "exact, bytes", "bytes", "of them programs", "bits a live weight", "measure")
    header += ("loss", "held back", "same class")
    rows = [
        (
            one["model"] + "*" * one["larger_scratchpad"],
            one["exact_bytes"],
            one["device_bytes"],
            one["sections"]["programs"],
            f"{one['bits_per_live_weight']:.2f}",
            one["measure"],
            f"{one['loss']:.2g}",
            f"{np.mean(one['held_back_losses']):.2g}",
            f"{one['held_back_agreement']:.1%}" if one["measure"] == "KL divergence" else "-",
        )
        for one in results
    ]
    return (
        "# Compression with loss\n\n`python benchmarks/compression.py` gives, for up5k:\n\n"
        f"```text\n{format_table(header, rows)}\n```\n\n"
        "Exact: the smallest image without loss. Held back: on inputs that were not looked at; of the keyword"
        " network by cross-validation: four times it is compressed by 150 of its 200 inputs, within the same"
        " bytes, and judged by the other 50.\n"
        "\\* does not fit without loss, so both are for a larger scratchpad.\n"
    )


if __name__ == "__main__":
    run(main)
