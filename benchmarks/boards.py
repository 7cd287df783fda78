"""Inferences a second and energy on each board, on paper: cycles of the RTL by the clock of a build.

    python benchmarks/boards.py

Reads cycles.json (`make bench`) and fmax.json (`make fmax`) beside it, and the networks' inputs and outputs
from the folder that KOLMOGATE_MODELS names; writes boards.md.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import folder, run
from kolmogate import protocol
from kolmogate.bench import ANCHORS
from kolmogate.errors import InputError
from kolmogate.files import write_whole
from kolmogate.protocol import ACCESS, PAGE_BYTES, PROGRESS, RUN
from kolmogate.report import format_table
from kolmogate.tflite_import import load_tflite
from kolmogate_boards.catalogue import find

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Power:
    """A chip's energy, from measurements that others have published.

    Parameters
    ----------
    static_mw : float
        What is drawn without a clock.
    clock_pj, cell_pj, multiplier_pj, memory_pj : float
        In a clock cycle: by the clock itself, by a logic cell (or LUT, or flip-flop), by a multiplier cell
        and by a block of memory that are at work.
    at_work : float
        The part of cells, multipliers and memories that are, in a cycle.
    """

    static_mw: float
    clock_pj: float
    cell_pj: float
    multiplier_pj: float
    memory_pj: float
    at_work: float

    def milliwatts(self, resources: dict[str, list[int]], mhz: float) -> float:
        used = {name: used for name, (used, _) in resources.items()}
        cells = sum(used.get(name, 0) for name in ("logic cells", "LUT", "flip-flops"))
        memories = used.get("block RAM", 0) + used.get("SPRAM", 0)
        active = cells * self.cell_pj + used.get("DSP", 0) * self.multiplier_pj + memories * self.memory_pj
        return self.static_mw + mhz * (self.clock_pj + self.at_work * active) / 1000


# The UP5K's core current, in uA at 1.219 V, as github.com/tinyvision-ai-inc/ice40_power measured it.
_VOLTS = 1.219
_PLL_16, _PLL_48 = 1419 + 138.6, 2573 + 103.6
_CLOCK = (_PLL_48 - _PLL_16) / (48 - 16)
_COUNTER, _IN_CELLS, _IN_DSP = 645, 996, 882
_CELL = (_IN_CELLS - _COUNTER) / (208 - 28) / 12
_DSP = (_IN_DSP - _COUNTER - (72 - 28) * _CELL * 12) / 12
UP5K = Power(
    static_mw=_VOLTS * (_PLL_16 - 16 * _CLOCK) / 1000,
    clock_pj=_VOLTS * _CLOCK,
    cell_pj=_VOLTS * _CELL,
    multiplier_pj=_VOLTS * _DSP,
    memory_pj=_VOLTS * _DSP,
    at_work=1.0,
)


def ecp5(idle_mw: float, microwatts: float) -> Power:
    """From the board's idle power, and that of a flip-flop which changes in each cycle, at 100 MHz."""
    return Power(
        static_mw=idle_mw,
        clock_pj=0.0,
        cell_pj=microwatts / 100,
        multiplier_pj=UP5K.multiplier_pj,
        memory_pj=UP5K.memory_pj,
        at_work=0.25,
    )


POWERS = {
    "iCE40UP5K": UP5K,
    "LFE5U-25F": ecp5(147, 23.0),
    # Not measured: halfway between.
    "LFE5U-45F": ecp5((147 + 202) / 2, (23.0 + 25.1) / 2),
    "LFE5U-85F": ecp5(202, 25.1),
    "LFE5UM5G-85F": ecp5(202, 25.1),
}

OTHERS = (
    ("KWS", "CFU-Playground, UP5K class, 25.19 M cycles, at this clock", lambda mhz: mhz * 1e6 / 25.19e6),
    ("KWS", "fpgaConvNet, Cora-Z7, 55 DSP", lambda mhz: 237.0),
    ("KWS", "fpgaConvNet, Zybo, 60 to 78 DSP", lambda mhz: 465.0),
    ("KWS", "fpgaConvNet, ZedBoard, 188 to 211 DSP", lambda mhz: 3088.0),
    ("ResNet-8", "fpgaConvNet, Zybo, 60 to 78 DSP", lambda mhz: 317.0),
    ("ResNet-8", "fpgaConvNet, ZedBoard, 188 to 211 DSP", lambda mhz: 2431.0),
    ("VWW", "fpgaConvNet, ZC706, 564 DSP", lambda mhz: 1388.0),
    ("KWS", "GAP9 (ASIC, 370 MHz)", lambda mhz: 2103.0),
    ("ResNet-8", "GAP9 (ASIC, 370 MHz)", lambda mhz: 1623.0),
    ("VWW", "GAP9 (ASIC, 370 MHz)", lambda mhz: 889.0),
    ("AD", "GAP9 (ASIC, 370 MHz)", lambda mhz: 5692.0),
)
"""Inferences a second that others have published: results of MLPerf Tiny, and CFU-Playground's paper."""


def link_bytes(inputs: int, outputs: int) -> int:
    """Bytes on the link for an inference: input, start, a question for its end, output; all answered."""

    def frames(request: int, answer: int) -> int:
        # Sequence number and command, or status, in front; the zero that ends noise before a request.
        return 1 + sum(len(protocol.pack_frame(bytes([1]) * (2 + size))) for size in (request, answer))

    access = ACCESS.bits // 8
    total = frames(RUN.bits // 8, 0) + frames(0, PROGRESS.bits // 8)
    for size, written in ((inputs, True), (outputs, False)):
        for start in range(0, size, PAGE_BYTES):
            page = min(PAGE_BYTES, size - start)
            total += frames(access + page, 0) if written else frames(access, page)
    return total


def main() -> None:
    models = folder("KOLMOGATE_MODELS")
    benched = results("cycles.json", "make bench")
    built = [one for one in results("fmax.json", "make fmax").values() if "failed" not in one]
    sizes = {}
    for model in ANCHORS:
        network = load_tflite(models / f"{model}.tflite")
        sizes[model] = [math.prod(network.tensors[name].shape) for name in (network.input, network.output)]
    write_whole(HERE / "boards.md", text(benched, built, sizes).encode())


def results(name: str, command: str) -> Any:
    """What another benchmark wrote; raises `InputError` if it has not been run."""
    try:
        return json.loads((HERE / name).read_text())
    except (OSError, ValueError):
        raise InputError(f"there are no results in {HERE / name}: run {command} first") from None


def text(benched: list[dict[str, Any]], built: list[dict[str, Any]], sizes: dict[str, list[int]]) -> str:
    rows, notes, compared = [], [], []
    for board in built:
        power, fmax = POWERS[board["device"]], max(board["fmax_mhz"])
        milliwatts = power.milliwatts(board["resources"], fmax)
        measured = [one for one in benched if one["target"] == board["target"]]
        if not measured:
            notes.append(f"`{board['board']}`: cycles.json has no cycles of {board['target']}.")
        for one in measured:
            seconds = one["cycles"] / fmax / 1e6
            link = 10 * link_bytes(*sizes[one["model"]]) / find(board["board"]).baud
            fits = one["scratchpad_bytes"] <= find(board["board"]).config.scratchpad_bytes
            name = ANCHORS[one["model"]].name
            rows.append(
                [
                    board["board"],
                    name + "*" * (not fits),
                    one["cycles"],
                    f"{fmax:.1f}",
                    f"{1e3 * seconds:.2f}",
                    f"{1 / seconds:,.0f}",
                    f"{1e3 * link:.1f}",
                    f"{milliwatts:.0f}",
                    f"{milliwatts * seconds:.3f}",
                    f"{one['live_macs'] / seconds / milliwatts / 1e6:.1f}",
                ]
            )
            compared += [
                [board["board"], name, f"{1 / seconds:,.0f}", f"{rate(fmax):,.1f}", other]
                for network, other, rate in OTHERS
                if network == name and ("UP5K" in other) <= (board["device"] == "iCE40UP5K")
            ]
    header = ["board", "network", "cycles", "MHz", "ms", "a second", "link ms", "mW", "mJ", "GMAC/s/W"]
    return _TEXT.format(
        table=format_table(header, rows),
        notes="".join(f"\n{note}\n" for note in notes),
        compared=format_table(["board", "network", "a second", "theirs", "who"], compared),
        volts=_VOLTS,
        power=UP5K,
    )


_TEXT = """# Boards: time and energy of an inference

`python benchmarks/boards.py` makes this of `cycles.json`, cycles counted on the RTL, and `fmax.json`, the
fastest seed of each build. No board was measured.

```text
{table}
```

ms: cycles by the clock. link ms: what input, output and their protocol take beside at the board's baud rate,
without the latency of a USB port. mW and mJ: the estimate below. GMAC/s/W: multiply-accumulates with live
weights. * does not fit the board's scratchpad: cycles of a larger one.
{notes}
## Beside others

```text
{compared}
```

fpgaConvNet (one bitstream a network, vendor tools) and GAP9: results of MLPerf Tiny. CFU-Playground: cycles
of its paper at the board's clock. [`cycles.md`](cycles.md) has Arm's Ethos-U55.

## The estimate of energy

Power is what is drawn without a clock, and for each megahertz the energy of the cells in use. It is known to
a factor of about two.

- iCE40UP5K: currents measured by [ice40_power](https://github.com/tinyvision-ai-inc/ice40_power), core at
  {volts} V, differences of its rows: {power.static_mw:.2f} mW with the PLL at rest, {power.clock_pj:.0f} pJ a
  cycle for PLL and clock tree, {power.cell_pj:.2f} pJ for a logic cell of a multiplier at work (every cell is
  taken to be as busy as that), {power.multiplier_pj:.1f} pJ for a DSP cell. Memories are not among them: a
  block RAM or SPRAM counts as a DSP cell. MARLANN, which fills the same chip, reports 15 GMAC/s/W.
- ECP5: [fpga-reg-power](https://github.com/targeted/fpga-reg-power) measured boards at their USB plug:
  147 mW (25F) and 202 mW (85F) idle, and 23.0 and 25.1 uW for a flip-flop that changes in each cycle at
  100 MHz; a 45F is taken to lie halfway. LUTs and flip-flops count alike, and a quarter of them changes in a
  cycle: Lattice's advice for estimates is 15 to 25%. DSP and block RAM cost what they do on the iCE40, a chip
  of the same 40 nm.
"""


if __name__ == "__main__":
    run(main)
