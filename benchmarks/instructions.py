"""Which instructions earn their place: bytes of the five networks' programs with and without each.

    python benchmarks/instructions.py > benchmarks/instructions.md

Networks come from the folder that KOLMOGATE_MODELS names. "Without" is the same search with the instruction
forbidden. Descriptors are not counted.
"""

import sys

import kolmogate
import numpy as np
from common import folder, run
from kolmogate.compiler import materials
from kolmogate.isa import INSTRUCTION, P0
from kolmogate.programs.p0 import Instruction, execute
from kolmogate.programs.search import NOTHING, Choice, Writer
from tqdm import tqdm

MODELS = {
    "KWS": "kws_ref_model",
    "ResNet-8": "pretrainedResnet_quant",
    "AD": "ad01_int8",
    "VWW": "vww_96_int8",
    "SWW": "str_ww_ref_model",
}

CHOICES = {
    "LITERAL, RECORDS and SEEK alone": Choice(),
    "with CODED weights, no PREDICT": Choice(weights=True, references=NOTHING),
    "with CODED weights and PREDICT": Choice(weights=True),
    "with coded RECORDS too": Choice(records=True, weights=True),
}


def sizes(columns: int, layers: list, choice: Choice, *, streamed: bool = False) -> tuple[int, int, int]:
    """Bytes of a program, those that LOOP saves of them, and the engine's cycles.

    One that is ``streamed`` has no SEEK.
    """
    writer = Writer(columns, streamed=streamed)
    bits = sum(sum(writer.layer(layer, choice)) for layer in layers)
    stored: list[Instruction] = [*writer.instructions, Instruction(P0.END)]
    words = np.array([one.encode() for one in stored], "<u2")
    run = sum(bool(one.rows) for one in execute(words))
    looped = sum(bool(one.rows) for one in stored)
    loops = sum(one.op == P0.LOOP for one in stored)
    return bits // 8, (run - looped - loops) * INSTRUCTION.bits // 8, writer.engine_cycles


def main() -> None:
    models = folder("KOLMOGATE_MODELS")
    config = kolmogate.configuration("up5k")
    table: dict[str, list[str]] = {name: [] for name in CHOICES}
    saved: dict[str, list[str]] = {"what SEEK saves of the first": [], "what LOOP saves of the last": []}
    networks = [kolmogate.load_tflite(models / f"{model}.tflite") for model in MODELS.values()]
    for network in tqdm(networks, file=sys.stderr):
        layers = materials(network, config)
        alone, *_ = sizes(config.columns, layers, Choice())
        for name, choice in CHOICES.items():
            size, loops, cycles = sizes(config.columns, layers, choice)
            table[name].append(f"{size:,} ({cycles / 1e6:.2f})")
        streamed, *_ = sizes(config.columns, layers, Choice(), streamed=True)
        for row, count in zip(saved.values(), (streamed - alone, loops), strict=True):
            row.append(f"{count:,}")
    print("# Which instructions earn their place\n")
    print("Bytes of programs and constants on `up5k`, exact; in brackets millions of engine cycles.")
    print("Made by `benchmarks/instructions.py`.\n")
    print(f"| | {' | '.join(MODELS)} |\n|---|{'--:|' * len(MODELS)}")
    for name, row in {**table, **saved}.items():
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    run(main)
