"""The scratchpad: every client reads and writes what it asked for, in the order of the grants."""

import dataclasses
import random
from typing import Any

import pytest
from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import data
from kolmogate.config import MachineConfig
from kolmogate.isa import WORD_GRAIN
from kolmogate.protocol import PAGE_BYTES
from kolmogate_hw import scratchpad
from kolmogate_hw.scratchpad import Scratchpad, ScratchpadMemory
from kolmogate_sim.streams import simulate, stalls

PORTS = {
    1: [["outputs", "activations", "code", "fill", "host"]],
    2: [["activations", "code"], ["outputs", "host", "fill"]],
}
CLIENTS = PORTS[1][0]
WRITERS = {"outputs", "fill"}
LAYERS = {"fill"}
UNALIGNED = {"activations"}
READERS = [name for name in CLIENTS if name not in WRITERS]


class StrictMemory(ScratchpadMemory):
    """A memory whose last port cannot read and write in one cycle; in fast machines it tries, in vain."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        writes, wrote = self.write_mask.any(), Signal()
        m.d.sync += wrote.eq(writes)
        if self.config.fast:
            with m.If(wrote):
                m.d.comb += self.read_data[-1].eq(-1)
        else:
            m.d.sync += Assert(~(self.read_enable[-1] & writes), "read and write in one cycle")
        return m


@pytest.mark.parametrize("ports", [1, 2])
def test_clients_share_the_memory(
    config: MachineConfig, ports: int, source: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few words, fought over by every client, each pausing at random; layers may write to half of them."""
    size = 2 * PAGE_BYTES
    config = dataclasses.replace(config, rows=4, scratchpad_bytes=size, scratchpad_ports=ports)
    monkeypatch.setattr(scratchpad, "ScratchpadMemory", StrictMemory)
    dut = Scratchpad(config, PORTS[ports], WRITERS, UNALIGNED, LAYERS)
    latency = {name: getattr(dut, name).signature.latency for name in READERS}
    grain = config.columns // WORD_GRAIN
    memory = [0] * config.scratchpad_words
    cycles = 600

    def client(name: str) -> Any:
        port = getattr(dut, name)
        request = port if name in WRITERS else port.request
        mine = random.Random(source.random())
        pauses = stalls(mine, 0.75)

        def payload() -> Any:
            address = mine.randrange(4) + mine.randrange(2) * (config.scratchpad_words - 4)
            if name in UNALIGNED:
                return grain * address - mine.randrange(grain if address else 1)
            if name not in WRITERS:
                return address
            bits = 8 * config.columns
            mask = mine.getrandbits(config.columns)
            return {"address": address, "mask": mask, "data": mine.getrandbits(bits)}

        async def run(ctx: Any) -> None:
            while True:
                while next(pauses):
                    await ctx.tick()
                ctx.set(request.payload, payload())
                ctx.set(request.valid, 1)
                while not (await ctx.tick().sample(request.ready))[-1]:
                    pass
                ctx.set(request.valid, 0)

        return run

    def write(payload: data.Const) -> None:
        for byte in range(config.columns):
            if payload.mask >> byte & 1:
                field = 0xFF << 8 * byte
                memory[payload.address] = memory[payload.address] & ~field | payload.data & field

    async def check(ctx: Any) -> None:
        """Every grant went to the highest client that asked; every answer is right and in time."""
        requests = [getattr(dut, name) if name in WRITERS else getattr(dut, name).request for name in CLIENTS]
        signals = [
            signal for request in requests for signal in (request.valid, request.ready, request.payload)
        ]
        answers = [
            signal for name in READERS for signal in (getattr(dut, name).valid, getattr(dut, name).data)
        ]
        due: list[dict[str, int | None]] = [{} for _ in range(max(latency.values()))]
        seen = dict.fromkeys(CLIENTS, 0)
        refused = 0
        ctx.set(dut.last_page, 0)
        tick = ctx.tick().sample(dut.refused, *signals, *answers)
        for _ in range(cycles):
            _, _, refusal, *values = await tick
            assert refusal == refused
            refused = 0
            answered = dict(zip(READERS, zip(*[iter(values[len(signals) :])] * 2, strict=True), strict=True))
            asked = dict(zip(CLIENTS, zip(*[iter(values[: len(signals)])] * 3, strict=True), strict=True))
            for name, (valid, word) in answered.items():
                assert valid == (name in due[0]), f"{name} answered at the wrong time"
                if valid and due[0][name] is not None:
                    assert word == due[0][name], name
            due = [*due[1:], {}]
            written = None
            # A read and a write of one cycle meet in the memory: the read is the older. What it reads of a
            # word that is being written is undefined, so nothing is expected of it.
            for name in sorted(CLIENTS, key=lambda name: name not in WRITERS):
                valid, ready, payload = asked[name]
                (clients,) = [names for names in PORTS[ports] if name in names]
                rivals = [other for other in clients[: clients.index(name)] if asked[other][0]]
                assert ready == (not rivals), f"{name}: ready {ready} while {rivals} ask"
                if not valid or not ready:
                    continue
                seen[name] += 1
                if name in LAYERS and payload.address * config.columns >= PAGE_BYTES:
                    refused = 1
                elif name in WRITERS:
                    written = payload
                else:
                    first, skip = divmod(payload, grain) if name in UNALIGNED else (payload, 0)
                    read = {first, first + (skip > 0)}
                    both = memory[first] | memory[max(read)] << 8 * config.columns
                    word = both >> 8 * WORD_GRAIN * skip & (1 << 8 * config.columns) - 1
                    clash = written is not None and written.address in read
                    due[latency[name] - 1][name] = None if clash else word
            if written is not None:
                write(written)
        assert min(seen.values()) > 10, seen

    simulate(dut, check, cycles=2 * cycles, background=[client(name) for name in CLIENTS])
