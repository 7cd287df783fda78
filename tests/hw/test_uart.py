"""The serial port, against a line that is sampled and driven bit by bit."""

import random
from typing import Any

import pytest
from kolmogate.errors import UsageError
from kolmogate_hw.uart import Uart
from kolmogate_sim.streams import collect, drive, simulate, stalls

CLOCK = 36_000_000


@pytest.mark.parametrize("baud", [3_000_000, 1_000_000, 115_200])
def test_sends(baud: int, source: random.Random) -> None:
    dut = Uart(CLOCK, baud)
    cycles = CLOCK / baud
    expected = list(source.randbytes(8))
    received: list[int] = []

    async def feed(ctx: Any) -> None:
        await drive(ctx, dut.i, expected, stalls(source))

    async def listen(ctx: Any) -> None:
        while len(received) < len(expected):
            while ctx.get(dut.tx):
                await ctx.tick()
            # From the middle of the start bit on, by the line's own clock.
            spent, bits = 0, []
            for index in range(10):
                while spent < (index + 0.5) * cycles:
                    await ctx.tick()
                    spent += 1
                bits.append(ctx.get(dut.tx))
            assert (bits[0], bits[9]) == (0, 1)
            received.append(sum(bit << k for k, bit in enumerate(bits[1:9])))
        assert received == expected

    simulate(dut, feed, listen, cycles=int(200 * cycles) + 1000)


@pytest.mark.parametrize("baud", [3_000_000, 1_000_000, 115_200])
@pytest.mark.parametrize("skew", [-0.02, 0, 0.02])
def test_receives(baud: int, skew: float, source: random.Random) -> None:
    """Bytes back to back or apart, from a sender whose clock is off, with pulses of noise between."""
    dut = Uart(CLOCK, baud)
    cycles = CLOCK / baud * (1 + skew)
    expected = list(source.randbytes(12))

    async def send(ctx: Any) -> None:
        pauses = stalls(source)
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(20)
        clock, time = 0, 0.0
        for byte in expected:
            if next(pauses):
                ctx.set(dut.rx, 0)
                await ctx.tick()
                ctx.set(dut.rx, 1)
                await ctx.tick().repeat(int(2 * cycles))
            for index in range(10):
                ctx.set(dut.rx, (byte << 1 | 0x200) >> index & 1)
                time += cycles
                while clock < time:
                    await ctx.tick()
                    clock += 1

    async def take(ctx: Any) -> None:
        got: list[int] = []
        async for byte in collect(ctx, dut.o, stalls(source, 0.3)):
            got.append(byte)
            if len(got) == len(expected):
                break
        assert got == expected

    simulate(dut, send, take, cycles=int(300 * cycles) + 2000)


def test_drops_bytes_without_stop_bit(source: random.Random) -> None:
    dut = Uart(CLOCK, 3_000_000)

    async def bench(ctx: Any) -> None:
        ctx.set(dut.o.ready, 1)
        ctx.set(dut.rx, 0)
        await ctx.tick().repeat(12 * 10)
        ctx.set(dut.rx, 1)
        for _ in range(12 * 20):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()

    simulate(dut, bench, cycles=1000)


def test_refuses_impossible_rates() -> None:
    for clock, baud in ((12_000_000, 3_000_000), (36_000_000, 3_450_000)):
        with pytest.raises(UsageError, match=f"a clock of {clock} Hz cannot make {baud} baud"):
            Uart(clock, baud)
