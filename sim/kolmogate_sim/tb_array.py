"""cocotb bench of the array: tiles in all modes against numpy, drained while the next is summed.

Everything is driven and sampled at the falling edge, so that it does not depend on the order in which a
simulator handles the events of a rising one.
"""

import random
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from kolmogate.config import MachineConfig, configuration

from .bench import parameters
from .models import random_tile, tile_sums
from .streams import seed, stalls

TILES = 40


def pack(values: npt.NDArray[np.int8]) -> int:
    """Bytes as one vector, the first lowest."""
    return int.from_bytes(values.tobytes(), "little")


class Bench:
    """One array between a source of taps and a drain."""

    def __init__(self, dut: Any, config: MachineConfig) -> None:
        self.dut = dut
        self.config = config
        self.source = random.Random(seed())
        # Whether the shadow registers are free, and the cycles to each capture that is due.
        self.free = True
        self.due: list[int] = []

    async def reset(self) -> None:
        dut = self.dut
        for port in (dut.valid, dut.first, dut.last, dut.shift, dut.word_mode, dut.unit_weights):
            port.value = 0
        dut.bytes.value = dut.words.value = dut.weights.value = 0
        dut.rst.value = 1
        for _ in range(2):
            await FallingEdge(dut.clk)
        dut.rst.value = 0

    def noise(self) -> npt.NDArray[np.int8]:
        shape = self.config.rows, self.config.columns
        return np.frombuffer(self.source.randbytes(self.config.macs), np.int8).reshape(shape)

    async def cycle(self, weights: npt.NDArray[np.int8] | None = None) -> None:
        """The next cycle; it carries the weights of the tap that entered in this one, if any."""
        await FallingEdge(self.dut.clk)
        self.dut.valid.value = 0
        self.dut.weights.value = pack(self.noise()[0] if weights is None else weights)
        self.due = [left - 1 for left in self.due]
        captured = int(self.dut.captured.value)
        assert captured == (0 in self.due), "a tile was captured at the wrong time"
        self.due = [left for left in self.due if left]

    async def feed(self, tiles: list[tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]]) -> None:
        """Enter the taps of ``tiles`` in the array's present mode."""
        dut, pauses = self.dut, stalls(self.source)
        for activations, weights in tiles:
            for tap in range(len(weights)):
                last = tap == len(weights) - 1
                while next(pauses) or (last and not self.free):
                    await self.cycle()
                # The port of the other mode sees noise.
                word_mode = int(dut.word_mode.value)
                dut.words.value = pack(activations[tap] if word_mode else self.noise())
                dut.bytes.value = pack((self.noise() if word_mode else activations[tap])[:, 0])
                dut.valid.value, dut.first.value, dut.last.value = 1, int(tap == 0), int(last)
                if last:
                    self.free = False
                    self.due.append(self.config.capture_latency - 1)
                await self.cycle(weights[tap])
            if self.config.tile_gap:
                await self.cycle()

    async def drain(self, expected: list[npt.NDArray[np.int64]]) -> None:
        """Shift tiles out and compare them."""
        dut, config, pauses = self.dut, self.config, stalls(self.source)
        bits, lanes = config.accumulator_bits, config.requantisers
        for number, tile in enumerate(expected):
            while not int(dut.captured.value):
                await FallingEdge(dut.clk)
            await FallingEdge(dut.clk)
            values: list[int] = []
            while len(values) < config.macs:
                dut.shift.value = 0
                if not next(pauses):
                    word = int(dut.accumulators.value)
                    for lane in range(lanes):
                        value = word >> bits * lane & (1 << bits) - 1
                        values.append(value - (value >> bits - 1 << bits))
                    dut.shift.value = 1
                await FallingEdge(dut.clk)
            dut.shift.value = 0
            np.testing.assert_array_equal(np.reshape(values, tile.shape), tile, err_msg=f"tile {number}")
            self.free = True


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def tiles_back_to_back(dut: Any) -> None:
    """Random tiles in all four modes under random stalls on both sides."""
    bench = Bench(dut, configuration(parameters()["target"]))
    Clock(dut.clk, 10, "ns").start()
    await bench.reset()
    for word_mode in (0, 1):
        for unit_weights in (0, 1):
            dut.word_mode.value, dut.unit_weights.value = word_mode, unit_weights
            tiles = [
                random_tile(
                    bench.source, bench.config, bench.source.choice((1, 2, bench.source.randrange(1, 60)))
                )
                for _ in range(TILES)
            ]
            expected = [tile_sums(*tile, word_mode=word_mode, unit_weights=unit_weights) for tile in tiles]
            draining = cocotb.start_soon(bench.drain(expected))
            await FallingEdge(dut.clk)
            await bench.feed(tiles)
            while not draining.done():
                await bench.cycle()
            await draining
            assert not bench.due
