"""How small MLPerf Tiny's networks become with loss: writes compression.md and compression.json beside this.

    KOLMOGATE_MODELS=... KOLMOGATE_DATA=... python benchmarks/compression.py

The keyword network is compressed by the 200 inputs of kws_calibration_200.npz in KOLMOGATE_DATA. What they
say of other inputs is told by compressing with 150 of them and judging by the other 50, three times. The
other networks are compressed by synthetic inputs and judged by others drawn alike.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import kolmogate
import numpy as np
from kolmogate import golden
from kolmogate.config import MachineConfig
from kolmogate.errors import InputError
from kolmogate.lossy import compress
from kolmogate.lossy.calibration import synthetic
from kolmogate.lossy.outputs import Outputs
from kolmogate.network import Int8Array, Network
from kolmogate.report import format_table

FOLDER = Path(__file__).parent
CONFIG = kolmogate.configuration("up5k")
SPLITS = 3
HELD_BACK = 50
LOSSES = {
    "pretrainedResnet_quant": (0.1, 0.025),
    "vww_96_int8": (0.1, 0.025),
    # 30 and 40 dB of signal to error.
    "ad01_int8": (1e-3, 1e-4),
}
BYTES = {"kws_ref_model": (9000, 10500)}


def measure(
    name: str, network: Network, given: Int8Array | None, judges: list[Int8Array], **budget: Any
) -> dict[str, Any]:
    """One compression; the losses and the agreement are those on ``judges``, mean over them, if ``given``
    then those that each takes out of it are not looked at."""
    config, larger = CONFIG, False
    try:
        exact = kolmogate.compile(network, config, objective="smallest")
    except InputError:
        config, larger = roomy(config), True
        exact = kolmogate.compile(network, config, objective="smallest")
    made = compress(network, config, calibration=given, objective="smallest", **budget)
    report = made.image.report()
    losses, agreements = [], []
    for x in judges:
        other = made
        if given is not None:
            rest = given[[not (one == x).all(axis=tuple(range(1, x.ndim))).any() for one in given]]
            other = compress(network, config, calibration=rest, objective="smallest", **budget)
        values = golden.run_tensors(network, x)
        moved = golden.run_tensors(other.network, x)
        losses.append(Outputs.of(network, values).loss(moved))
        classes = [one[network.output].reshape(len(x), -1).argmax(axis=1) for one in (values, moved)]
        agreements.append(float((classes[0] == classes[1]).mean()))
    program_bits = sum(layer.bits for layer in made.image.layers)
    print(name, budget, report["device_bytes"], report["lossy"], losses, agreements, flush=True)
    return {
        "model": name,
        "budget": budget,
        "exact_bytes": exact.device_bytes,
        "device_bytes": report["device_bytes"],
        "sections": report["sections"],
        "bits_per_live_weight": round(program_bits / report["live_weights"], 3),
        "larger_scratchpad": larger,
        **report["lossy"],
        "held_back_loss": float(np.mean(losses)),
        "held_back_agreement": float(np.mean(agreements)),
    }


def roomy(config: MachineConfig) -> MachineConfig:
    """The machine with all the scratchpad that addresses reach."""
    return replace(config, scratchpad_bytes=1 << 20)


def main() -> None:
    models, data = (Path(os.environ[name]) for name in ("KOLMOGATE_MODELS", "KOLMOGATE_DATA"))
    results = []
    keywords = np.load(data / "kws_calibration_200.npz")["x"]
    for name, budgets in BYTES.items():
        network = kolmogate.load_tflite(models / f"{name}.tflite")
        orders = [np.random.default_rng(seed).permutation(len(keywords)) for seed in range(SPLITS)]
        judges = [keywords[order[-HELD_BACK:]] for order in orders]
        for size in budgets:
            results.append(measure(name, network, keywords, judges, max_loss=1.0, max_bytes=size))
    for name, losses in LOSSES.items():
        network = kolmogate.load_tflite(models / f"{name}.tflite")
        judge = synthetic(network, np.random.default_rng(1))
        results += [measure(name, network, None, [judge], max_loss=loss) for loss in losses]
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
            f"{one['held_back_loss']:.2g}",
            f"{one['held_back_agreement']:.1%}" if one["measure"] == "KL divergence" else "-",
        )
        for one in results
    ]
    return (
        "# Compression with loss\n\n`python benchmarks/compression.py` gives, for up5k:\n\n"
        f"```text\n{format_table(header, rows)}\n```\n\n"
        "Exact: the smallest image without loss. Held back: on inputs that were not looked at; of the keyword"
        " network the mean over three splits of its 200 inputs, 150 to compress by and 50 to judge by.\n"
        "\\* does not fit without loss, so both are for a larger scratchpad.\n"
    )


if __name__ == "__main__":
    main()
