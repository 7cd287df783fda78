"""The requantiser: equal to the golden arithmetic on every corner, however its streams are stalled."""

import random
from typing import Any

import numpy as np
import pytest
from kolmogate.config import MachineConfig
from kolmogate.isa import SHIFTS
from kolmogate.machine_arithmetic import requantise, requantiser_interval
from kolmogate_hw.requantiser import Requantiser
from kolmogate_sim.streams import collect, drive, seed, simulate, stalls

FORMS = [(1, 8), (2, 8), (1, 16), (2, 16), (8, 16), (1, 32), (4, 32)]


def machine(lanes: int, digit_bits: int, accumulator_bits: int = 26) -> MachineConfig:
    return MachineConfig("test", 1, 8, lanes, digit_bits, 1 << 10, 1, 16, 1_000_000, accumulator_bits)


def corners(source: random.Random, config: MachineConfig, batches: int) -> dict[str, np.ndarray]:
    """Accumulators and constants, (batches, Q), of which most are corners."""
    edge = 1 << config.accumulator_bits - 1
    pick = {
        "accumulators": lambda: source.choice(
            [0, 1, -1, 2, -2, edge - 1, -edge, source.randrange(-edge, edge), source.randrange(-999, 999)]
        ),
        "bias": lambda: source.choice(
            [0, 0, 1, -1, (1 << 25) - 1, -(1 << 25), source.randrange(-5000, 5000)]
        ),
        "multiplier": lambda: source.choice(
            [0, 1, 1 << 30, (1 << 31) - 1, 0x55555555, 0x2AAAAAAA, 3 << 29]
            + [source.randrange(1 << 30, 1 << 31)] * 6
        ),
        "shift": lambda: source.choice(SHIFTS),
    }
    return {
        name: np.array([[value() for _ in range(config.requantisers)] for _ in range(batches)])
        for name, value in pick.items()
    }


def halves(source: random.Random, config: MachineConfig, values: dict[str, np.ndarray]) -> None:
    """Move half of the accumulators to where the product is next to a half of an output step."""
    for place in np.ndindex(values["shift"].shape):
        multiplier, shift, bias = (int(values[name][place]) for name in ("multiplier", "shift", "bias"))
        if not multiplier or source.random() < 0.5:
            continue
        step = source.randrange(-300, 300)
        nearest = ((2 * step + 1) << shift - 1) // multiplier - bias + source.randrange(-1, 2)
        if abs(nearest) < 1 << config.accumulator_bits - 1:
            values["accumulators"][place] = nearest


def run(
    config: MachineConfig, source: random.Random, batches: int, settings: dict[str, int], stalled: bool
) -> int:
    """Requantise random batches; the cycles it took."""
    dut = Requantiser(config)
    values = corners(source, config, batches)
    halves(source, config, values)
    wanted = requantise(
        *(values[name] for name in ("accumulators", "bias", "multiplier", "shift")),
        single_rounding=bool(settings["single_rounding"]),
    )
    wanted = np.clip(wanted + settings["zero_point"], settings["minimum"], settings["maximum"])
    probability = None if stalled else 0.0
    spent = 0

    def payloads() -> Any:
        for k in range(batches):
            yield {
                "accumulators": values["accumulators"][k].tolist(),
                "constants": [
                    {name: int(values[name][k, q]) for name in ("bias", "multiplier", "shift")}
                    for q in range(config.requantisers)
                ],
            }

    async def feed(ctx: Any) -> None:
        for name, value in settings.items():
            ctx.set(getattr(dut, name), value)
        await drive(ctx, dut.i, payloads(), stalls(source, probability))

    async def check(ctx: Any) -> None:
        received = 0
        async for payload in collect(ctx, dut.o, stalls(source, probability)):
            got = np.array(list(payload)).astype(np.uint8).view(np.int8)
            assert got.tolist() == wanted[received].tolist(), (
                f"batch {received}: { {name: value[received].tolist() for name, value in values.items()} }"
            )
            received += 1
            if received == batches:
                return

    async def clock(ctx: Any) -> None:
        nonlocal spent
        async for _ in ctx.tick():
            spent += 1

    simulate(dut, feed, check, cycles=1000 + 200 * batches, background=[clock])
    return spent


@pytest.mark.parametrize(("lanes", "digit_bits"), FORMS)
@pytest.mark.parametrize("single_rounding", [0, 1])
def test_equals_golden(lanes: int, digit_bits: int, single_rounding: int) -> None:
    source = random.Random(f"{seed()} {lanes} {digit_bits} {single_rounding}")
    batches = 160 // lanes
    for zero_point, minimum, maximum in [(-128, -128, 127), (127, -100, 20), (3, 3, 3)]:
        settings = {
            "single_rounding": single_rounding,
            "zero_point": zero_point,
            "minimum": minimum,
            "maximum": maximum,
        }
        run(machine(lanes, digit_bits), source, batches, settings, stalled=True)


@pytest.mark.parametrize(("lanes", "digit_bits"), FORMS)
def test_throughput(lanes: int, digit_bits: int) -> None:
    """Batches leave at the interval that the cycle model counts on, without a stall."""
    settings = {"single_rounding": 0, "zero_point": -1, "minimum": -128, "maximum": 127}
    config = machine(lanes, digit_bits, accumulator_bits=20)
    few, many = (
        run(config, random.Random(seed()), batches, settings, stalled=False) for batches in (20, 120)
    )
    assert many - few == 100 * requantiser_interval(config)
