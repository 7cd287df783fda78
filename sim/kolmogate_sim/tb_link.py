"""cocotb bench of the link: requests, good and damaged, against a model of the core behind it.

Inputs change at the falling edge and everything is sampled when they have settled, so that nothing depends
on the order in which a simulator handles the events of a rising edge.
"""

import random
from collections import deque
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
from kolmogate import protocol
from kolmogate.config import configuration
from kolmogate.isa import ADDRESS_BITS, UNIT, Record
from kolmogate.protocol import Command, Status
from kolmogate.rings import RING_PAGES, RINGS
from kolmogate_hw.rings import PAGES

from .bench import parameters
from .streams import StreamMonitor, seed, stalls

REQUESTS = 30
WATCHDOG_CYCLES = 20_000


class Bench:
    """One link between a host that stalls and a core that stalls."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.source = random.Random(seed())
        self.config = configuration(parameters()["config"])
        self.memory = bytearray(self.source.randbytes(self.config.scratchpad_bytes))
        self.sequence = 0
        self.to_send: deque[int] = deque()
        self.received = bytearray()
        self.reads: deque[tuple[int, int]] = deque()  # cycle and byte of each answer that is due
        self.runs: list[tuple[int, ...]] = []
        self.resets = 0
        self.time = 0
        self.monitors = {name: StreamMonitor(name) for name in ("i", "o", "host__request")}
        self.pauses = {name: stalls(self.source) for name in self.monitors}
        self.offering = False

    def port(self, name: str) -> Any:
        return getattr(self.dut, name)

    async def reset(self) -> None:
        Clock(self.dut.clk, 10, unit="ns").start()
        for name in ("i__valid", "i__payload", "o__ready", "host__request__ready", "host__valid"):
            self.port(name).value = 0
        for name in ("host__data", "host__busy", "host__pages", "host__error", "host__cycles"):
            self.port(name).value = 0
        self.dut.rst.value = 1
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def cycle(self) -> None:
        """Drive one cycle, and take note of the transfers at its end."""
        await FallingEdge(self.dut.clk)
        self.time += 1
        self.offering = bool(self.to_send) and (self.offering or not next(self.pauses["i"]))
        self.dut.i__valid.value = self.offering
        self.dut.i__payload.value = self.to_send[0] if self.offering else self.source.randrange(256)
        self.dut.o__ready.value = not next(self.pauses["o"])
        self.port("host__request__ready").value = not next(self.pauses["host__request"])
        due = bool(self.reads) and self.reads[0][0] <= self.time
        self.port("host__valid").value = due
        self.port("host__data").value = self.reads.popleft()[1] if due else self.source.randrange(256)
        await ReadOnly()
        transfers = {name: self.observe(name) for name in self.monitors}
        if transfers["i"] is not None:
            self.to_send.popleft()
            self.offering = False
        if transfers["o"] is not None:
            self.received.append(transfers["o"])
        if transfers["host__request"] is not None:
            self.access(transfers["host__request"])
        if self.port("host__start").value:
            entry = ("host__descriptors", "host__code", "host__literals", "host__last_page", "host__limit")
            self.runs.append(tuple(int(self.port(name).value) for name in entry))
        self.resets += int(self.port("host__reset").value)

    def observe(self, name: str) -> int | None:
        """The payload that is transferred in this cycle."""
        valid, ready = int(self.port(f"{name}__valid").value), int(self.port(f"{name}__ready").value)
        payload = int(self.port(f"{name}__payload").value) if valid else 0
        self.monitors[name].observe(valid, ready, payload)
        return payload if valid and ready else None

    def access(self, request: int) -> None:
        address, write = request & (1 << ADDRESS_BITS) - 1, request >> ADDRESS_BITS & 1
        assert address < len(self.memory), "an access beyond the scratchpad"
        if write:
            self.memory[address] = request >> ADDRESS_BITS + 1
        else:
            self.reads.append((self.time + self.source.randrange(1, 6), self.memory[address]))

    async def ask(self, frame: bytes) -> bytes:
        """Send a frame; the body of the answer."""
        self.to_send.extend(frame)
        self.received.clear()
        for _ in range(WATCHDOG_CYCLES):
            await self.cycle()
            if self.received.endswith(b"\0"):
                body = protocol.unpack_frame(bytes(self.received[:-1]))
                assert body is not None, "the answer is damaged"
                return body
        raise AssertionError("the link did not answer")

    async def request(self, command: Command, payload: bytes = b"") -> bytes:
        """Make a request that must be granted; the answer's payload."""
        self.sequence = (self.sequence + 1) % 256
        answer = await self.ask(protocol.pack_frame(bytes((self.sequence, command)) + payload))
        assert answer[:2] == bytes((self.sequence, Status.OK))
        return answer[2:]

    async def disturb(self) -> None:
        """Send a damaged frame; nothing must come of it."""
        body = bytes((self.sequence + 1 & 255, Command.WRITE)) + pack(protocol.ACCESS, last=0, address=0)
        frame = bytearray(protocol.pack_frame(body + b"x")[:-1])
        frame[self.source.randrange(len(frame))] ^= 1 << self.source.randrange(8)
        if protocol.unpack_frame(bytes(frame)) is not None:
            return
        self.to_send.extend(frame + b"\0")
        before = bytes(self.memory)
        while self.to_send:
            await self.cycle()
        self.received.clear()
        for _ in range(40):
            await self.cycle()
        assert (self.received, self.memory) == (b"", before), "a damaged frame had an effect"


def pack(layout: Record, **values: int) -> bytes:
    return layout.pack(**values).to_bytes(layout.bits // 8, "little")


@cocotb.test()
async def identifies_itself(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    answer = await bench.request(Command.IDENTIFY)
    assert answer == pack(protocol.IDENTITY, **protocol.identity(bench.config))


@cocotb.test()
async def moves_memory(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    await bench.request(Command.IDENTIFY)
    model = bytearray(bench.memory)
    for _ in range(REQUESTS):
        size = bench.source.choice((1, 2, 255, 256, bench.source.randrange(1, 257)))
        page = bench.source.choice((0, len(model) // 256 - 1, bench.source.randrange(len(model) // 256)))
        address = 256 * page + bench.source.randrange(257 - size)
        access = pack(protocol.ACCESS, last=size - 1, address=address)
        match bench.source.choice(("write", "read", "disturb")):
            case "write":
                content = bench.source.choice((bench.source.randbytes(size), bytes(size), b"\1" * size))
                model[address : address + size] = content
                assert await bench.request(Command.WRITE, access + content) == b""
            case "read":
                assert await bench.request(Command.READ, access) == model[address : address + size]
            case "disturb":
                await bench.disturb()
        assert bench.memory == model


@cocotb.test()
async def starts_and_resets(dut: Any) -> None:
    bench = Bench(dut)
    await bench.reset()
    await bench.request(Command.IDENTIFY)
    size, expected = bench.config.scratchpad_bytes, []
    for number in range(10):
        entry = {name: bench.source.randrange(size // UNIT) for name in ("descriptors", "code", "literals")}
        entry["last_page"] = bench.source.randrange(1 << protocol.PAGE_NUMBER_BITS)
        entry["limit"] = bench.source.randrange(1 << 32)
        await bench.request(Command.RUN, pack(protocol.RUN, **entry))
        addresses = [UNIT * entry[name] for name in ("descriptors", "code", "literals")]
        expected.append((*addresses, entry["last_page"], entry["limit"]))
        assert bench.runs == expected
        # The same again, as after a lost answer.
        bench.sequence -= 1
        await bench.request(Command.RUN, pack(protocol.RUN, **entry))
        assert bench.runs == expected
        progress = {"busy": 0, "error": bench.source.randrange(16), "cycles": bench.source.randrange(1 << 32)}
        pages = {name: bench.source.randrange(RING_PAGES) for name in RINGS}
        await FallingEdge(dut.clk)
        for name, value in progress.items():
            bench.port(f"host__{name}").value = value
        bench.port("host__pages").value = PAGES.const(pages).as_value().value
        assert await bench.request(Command.STATUS) == pack(protocol.PROGRESS, **progress, **pages)
        await bench.request(Command.RESET)
        assert bench.resets == number + 1
