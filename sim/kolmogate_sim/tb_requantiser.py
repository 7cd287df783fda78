"""cocotb bench of the requantiser: every shift with corners of all else, against the golden arithmetic.

Inputs change at the falling edge and everything is sampled when they have settled, so that nothing depends
on the order in which a simulator handles the events of a rising edge.
"""

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
from kolmogate.config import configuration
from kolmogate.isa import CONSTANTS

from .bench import parameters
from .stimuli import random_batches
from .streams import StreamMonitor, seed, stalls

OUTPUTS = 4000
WATCHDOG_CYCLES = 100_000


@cocotb.test()
async def equals_golden(dut: Any) -> None:
    """Both roundings, three clamps, under random stalls on both sides."""
    config = configuration(parameters()["target"])
    source = random.Random(seed())
    Clock(dut.clk, 10, "ns").start()
    dut.i__valid.value = dut.o__ready.value = 0
    # What is there while nothing is valid is loaded too: it may be anything but undefined.
    dut.i__payload.value = 0
    dut.rst.value = 1
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    monitor = StreamMonitor("o")
    for single_rounding in (0, 1):
        for zero_point, minimum, maximum in ((-128, -128, 127), (127, -100, 20), (3, -3, 90)):
            settings = {
                "single_rounding": single_rounding,
                "zero_point": zero_point,
                "minimum": minimum,
                "maximum": maximum,
            }
            batches = random_batches(source, config, OUTPUTS)
            words = [_pack(config.accumulator_bits, *pair) for pair in _inputs(batches)]
            wanted = batches.expected(**settings)
            for name, value in settings.items():
                getattr(dut, name).value = value & (1 if name == "single_rounding" else 0xFF)
            sent = received = 0
            offering = False
            pauses_i, pauses_o = stalls(source), stalls(source)
            for _ in range(WATCHDOG_CYCLES):
                await FallingEdge(dut.clk)
                if received == len(wanted):
                    break
                offering = sent < len(words) and (offering or not next(pauses_i))
                dut.i__valid.value = offering
                dut.i__payload.value = words[sent] if offering else source.getrandbits(len(dut.i__payload))
                dut.o__ready.value = not next(pauses_o)
                await ReadOnly()
                if offering and int(dut.i__ready.value):
                    sent, offering = sent + 1, False
                valid, ready = int(dut.o__valid.value), int(dut.o__ready.value)
                payload = int(dut.o__payload.value) if valid else 0
                monitor.observe(valid, ready, payload)
                if valid and ready:
                    got = np.frombuffer(payload.to_bytes(config.requantisers, "little"), np.int8)
                    assert got.tolist() == wanted[received].tolist(), (
                        f"{settings}, accumulators {batches.accumulators[received].tolist()},"
                        f" {batches.constants(received)}"
                    )
                    received += 1
            assert received == len(wanted), "the requantiser stopped"


def _inputs(batches: Any) -> Any:
    for k, accumulators in enumerate(batches.accumulators):
        yield accumulators.tolist(), batches.constants(k)


def _pack(accumulator_bits: int, accumulators: list[int], constants: list[dict[str, int]]) -> int:
    """The payload of ``i`` as one vector."""
    word = position = 0
    for value in accumulators:
        word |= (value & (1 << accumulator_bits) - 1) << position
        position += accumulator_bits
    for record in constants:
        word |= CONSTANTS.pack(**record) << position
        position += CONSTANTS.bits
    return word
