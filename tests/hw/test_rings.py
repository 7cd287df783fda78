"""The rings of a streamed program: limits as the host's feeds have them, and what a page is."""

import random

import pytest
from kolmogate.config import CONFIGURATIONS, MachineConfig
from kolmogate.programs.p0 import Program
from kolmogate.protocol import PAGE_BYTES
from kolmogate.rings import RING_BYTES, RING_PAGES, RINGS, feeds, padded, ring_addresses
from kolmogate_hw.rings import Rings
from kolmogate_sim.streams import simulate


def random_streams(source: random.Random) -> Program:
    return Program(*(source.randbytes(8 * source.randrange(400)) for _ in range(3)))


def test_limits_follow_what_is_fed(source: random.Random) -> None:
    """Each is the page that its stream is fed next."""
    dut = Rings()

    async def run(ctx) -> None:
        for _ in range(20):
            streamed = source.randrange(2)
            ctx.set(dut.start, 1)
            ctx.set(dut.stream, streamed)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.stream, source.randrange(2))
            streams = feeds(padded(random_streams(source), 8), dict.fromkeys(RINGS, 0))
            for _ in range(30):
                for stream in streams:
                    # A reader in this page would wait.
                    assert stream.ahead(ctx.get(dut.limits[stream.name])) == 0
                assert ctx.get(dut.streamed) == streamed
                stream = source.choice([stream for stream in streams if stream.left] or [None])
                if stream is None:
                    break
                address, _ = stream.take()
                ctx.set(dut.page, address // PAGE_BYTES)
                ctx.set(dut.ring, RINGS[stream.name])
                # Of a page that is repeated nothing is seen.
                for fed in (1, source.randrange(2), 0):
                    ctx.set(dut.fed, fed)
                    await ctx.tick()

    simulate(dut, run, cycles=5_000)


def test_what_is_fed_is_the_stream(source: random.Random) -> None:
    """Page after page through its ring, the coded one downwards, and no page before its time."""
    for _ in range(20):
        program = random_streams(source)
        whole = padded(program, 8)
        for stream in feeds(whole, dict.fromkeys(RINGS, RING_BYTES)):
            expected, found = getattr(whole, stream.name), b""
            page = RING_PAGES - 1 if stream.name == "coded" else 0
            assert stream.ahead(page) == 0
            sent = 0
            while stream.left:
                if not stream.has_room(page):
                    # The reader goes on.
                    assert stream.ahead(page) == RING_PAGES - 2
                    page = (page + (-1 if stream.name == "coded" else 1)) % RING_PAGES
                    continue
                address, content = stream.take()
                place = RING_PAGES - 1 - sent % RING_PAGES if stream.name == "coded" else sent % RING_PAGES
                assert address == RING_BYTES + place * PAGE_BYTES
                found = content + found if stream.name == "coded" else found + content
                sent += 1
            assert found == expected
            original = getattr(program, stream.name)
            assert original in (expected[: len(original)], expected[len(expected) - len(original) :])
            assert len(expected) >= len(original) + 16


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=lambda config: config.name)
def test_rings_lie_in_their_quarters(config: MachineConfig) -> None:
    addresses = ring_addresses(config)
    for name, ring in RINGS.items():
        assert addresses[name] // RING_BYTES % (len(RINGS) + 1) == ring
        assert 0 <= addresses[name] <= config.scratchpad_bytes - RING_BYTES
    assert addresses["coded"] + RING_BYTES == addresses["literals"]
