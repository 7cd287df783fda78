"""What streaming costs: the time of an inference on the RTL by the size of its program and the link's rate.

    python benchmarks/streaming.py > benchmarks/streaming.md

The network is AD of MLPerf Tiny, in the folder that KOLMOGATE_MODELS names. It takes some minutes.
"""

import sys

import kolmogate
import numpy as np
from common import folder, run
from kolmogate import golden
from kolmogate.cycles import cycles
from kolmogate.driver import Device
from kolmogate.runtime import Opened, simulated_link
from tqdm import tqdm

TARGET = "up5k"
PACES = {"as fast as the gateware takes it": 1, "10 Mbaud": 36}
"""Cycles that a byte takes of a serial port, 10 bits, at the target's 36 MHz."""


def main() -> None:
    models = folder("KOLMOGATE_MODELS")
    config = kolmogate.configuration(TARGET)
    network = kolmogate.load_tflite(models / "ad01_int8.tflite")
    fastest, smallest = (
        kolmogate.compile(network, config, objective=objective, streamed=True)
        for objective in ("fastest", "smallest")
    )
    between = kolmogate.compile(
        network, config, streamed=True, max_bytes=(fastest.device_bytes + smallest.device_bytes) // 2
    )
    images = {"literals": fastest, "part of it coded": between, "coded": smallest}
    x = np.random.default_rng(0).integers(-128, 128, (1, *fastest.input.tensor.shape)).astype(np.int8)
    expected = golden.run(network, x)
    print("# Streaming\n")
    print(f"AD on the RTL of `{TARGET}`, its program streamed through rings of 1 KB; every output exact.")
    print("Milliseconds an inference at 36 MHz; in brackets the part of that of the literals.")
    print("Made by `benchmarks/streaming.py`.\n")
    print("| program | bytes | computing alone |", *(f" {name} |" for name in PACES), sep="")
    print("|---|--:|--:|", *("--:|" for _ in PACES), sep="")
    first: dict[str, float] = {}
    for name, image in tqdm(images.items(), file=sys.stderr):
        size, computing = image.device_bytes, sum(layer.total for layer in cycles(image))
        cells = [f"{size:,} ({size / fastest.device_bytes:.2f})", f"{1e3 * computing / config.clock_hz:.1f}"]
        for rate, pace in PACES.items():
            with simulated_link(config) as link:
                link.pace(pace)
                loaded = Opened(Device(link)).load(image)
                if not (loaded(x) == expected).all():
                    sys.exit(f"the output of {name} at {rate} is wrong")
            milliseconds = 1e3 * loaded.cycles[0] / config.clock_hz
            first.setdefault(rate, milliseconds)
            cells.append(f"{milliseconds:.1f} ({milliseconds / first[rate]:.2f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    run(main)
