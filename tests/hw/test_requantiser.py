"""The requantiser: equal to the golden arithmetic on every corner, however its streams are stalled."""

import random
from typing import Any

import numpy as np
import pytest
from kolmogate.config import MachineConfig
from kolmogate.isa import SHIFTS
from kolmogate.machine_arithmetic import requantiser_interval
from kolmogate_hw.requantiser import Requantiser
from kolmogate_sim.stimuli import Batches, random_batches
from kolmogate_sim.streams import collect, drive, simulate, stalls

# (Q, digit bits)
FORMS = [(1, 8), (2, 8), (1, 16), (2, 16), (8, 16), (1, 32), (4, 32)]


def machine(lanes: int, digit_bits: int, accumulator_bits: int = 26) -> MachineConfig:
    return MachineConfig("test", 1, 8, lanes, digit_bits, 1 << 10, 1, 16, 1_000_000, accumulator_bits)


def run(
    config: MachineConfig,
    batches: Batches,
    settings: dict[str, int],
    source: random.Random,
    probability: float | None,
) -> int:
    """Requantise batches, stalled as `stalls` says; the cycles from the first output to the last."""
    dut = Requantiser(config)
    wanted = batches.expected(**settings)
    cycle = 0
    times = []

    def payloads() -> Any:
        for k in range(len(wanted)):
            yield {"accumulators": batches.accumulators[k].tolist(), "constants": batches.constants(k)}

    async def feed(ctx: Any) -> None:
        for name, value in settings.items():
            ctx.set(getattr(dut, name), value)
        await drive(ctx, dut.i, payloads(), stalls(source, probability))

    async def check(ctx: Any) -> None:
        async for payload in collect(ctx, dut.o, stalls(source, probability)):
            k = len(times)
            got = np.array(list(payload)).astype(np.uint8).view(np.int8)
            assert got.tolist() == wanted[k].tolist(), (
                f"batch {k}: accumulators {batches.accumulators[k].tolist()}, {batches.constants(k)}"
            )
            times.append(cycle)
            if len(times) == len(wanted):
                return

    async def clock(ctx: Any) -> None:
        nonlocal cycle
        async for _ in ctx.tick():
            cycle += 1

    simulate(dut, feed, check, cycles=1000 + 200 * len(wanted), background=[clock])
    return times[-1] - times[0]


@pytest.mark.parametrize(("lanes", "digit_bits"), FORMS)
@pytest.mark.parametrize("single_rounding", [0, 1])
def test_equals_golden(lanes: int, digit_bits: int, single_rounding: int, source: random.Random) -> None:
    config = machine(lanes, digit_bits)
    for zero_point, minimum, maximum in [(-128, -128, 127), (127, -100, 20), (3, 3, 3)]:
        settings = {
            "single_rounding": single_rounding,
            "zero_point": zero_point,
            "minimum": minimum,
            "maximum": maximum,
        }
        run(config, random_batches(source, config, 100), settings, source, None)


@pytest.mark.parametrize(("lanes", "digit_bits"), FORMS)
def test_nothing_is_left_of_what_was_not_valid(lanes: int, digit_bits: int, source: random.Random) -> None:
    """A multiplier that is all ones stays at ``i`` until one of 0 comes."""
    config = machine(lanes, digit_bits)
    multiplier = np.zeros((40, lanes), np.int64)
    multiplier[::2] = (1 << 31) - 1
    largest = np.full_like(multiplier, (1 << 25) - 1)
    batches = Batches(largest, np.zeros_like(multiplier), multiplier, np.full_like(multiplier, SHIFTS[0]))
    settings = {"single_rounding": 0, "zero_point": 0, "minimum": -128, "maximum": 127}
    run(config, batches, settings, source, 0.5)


@pytest.mark.parametrize(("lanes", "digit_bits"), FORMS)
def test_throughput(lanes: int, digit_bits: int, source: random.Random) -> None:
    """Without stalls a batch leaves at every interval that the cycle model counts on."""
    config = machine(lanes, digit_bits, accumulator_bits=20)
    settings = {"single_rounding": 0, "zero_point": -1, "minimum": -128, "maximum": 127}
    spent = run(config, random_batches(source, config, 20 * lanes), settings, source, 0.0)
    assert spent == 19 * requantiser_interval(config)
