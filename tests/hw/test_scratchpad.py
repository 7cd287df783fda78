"""The scratchpad: every client reads and writes what it asked for, in the order of the grants."""

import dataclasses
import random
from typing import Any

import pytest
from amaranth.hdl import Assert, Module
from amaranth.lib import data
from kolmogate.config import MachineConfig
from kolmogate_hw import scratchpad
from kolmogate_hw.scratchpad import Scratchpad, ScratchpadMemory
from kolmogate_sim.streams import simulate, stalls

CLIENTS = ["outputs", "activations", "code", "fill", "host"]
WRITERS = {"outputs", "fill"}
READERS = [name for name in CLIENTS if name not in WRITERS]


class OnePortMemory(ScratchpadMemory):
    """A memory that cannot read and write in one cycle."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.sync += Assert(~(self.read_enable & self.write_mask.any()), "read and write in one cycle")
        return m


@pytest.mark.parametrize("ports", [1, 2])
def test_clients_share_the_memory(
    config: MachineConfig, ports: int, source: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few words, fought over by every client, each pausing at random."""
    config = dataclasses.replace(config, scratchpad_bytes=8 * config.columns, scratchpad_ports=ports)
    if ports == 1:
        monkeypatch.setattr(scratchpad, "ScratchpadMemory", OnePortMemory)
    dut = Scratchpad(config, CLIENTS, WRITERS)
    memory = [0] * config.scratchpad_words
    cycles = 600

    def client(name: str) -> Any:
        port = getattr(dut, name)
        request = port if name in WRITERS else port.request
        mine = random.Random(source.random())
        pauses = stalls(mine, 0.75)

        def payload() -> Any:
            address = mine.randrange(config.scratchpad_words)
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
        due: list[dict[str, int]] = [{}, {}]
        seen = dict.fromkeys(CLIENTS, 0)
        tick = ctx.tick().sample(*signals, *answers)
        for _ in range(cycles):
            _, _, *values = await tick
            answered = dict(zip(READERS, zip(*[iter(values[len(signals) :])] * 2, strict=True), strict=True))
            asked = dict(zip(CLIENTS, zip(*[iter(values[: len(signals)])] * 3, strict=True), strict=True))
            for name, (valid, word) in answered.items():
                assert valid == (name in due[0]), f"{name} answered at the wrong time"
                if valid:
                    assert word == due[0][name], name
            due = [due[1], {}]
            taken = set()
            # With two ports a read and a write of one cycle meet in the memory: the read is the older.
            for name in sorted(CLIENTS, key=lambda name: name in WRITERS):
                valid, ready, payload = asked[name]
                rivals = [other for other in CLIENTS[: CLIENTS.index(name)] if asked[other][0]]
                if ports == 2:
                    rivals = [other for other in rivals if (other in WRITERS) == (name in WRITERS)]
                assert ready == (not rivals), f"{name}: ready {ready} while {rivals} ask"
                if not valid or not ready:
                    continue
                seen[name] += 1
                taken.add(name in WRITERS)
                if name in WRITERS:
                    write(payload)
                else:
                    due[1][name] = memory[payload]
            if ports == 1:
                assert len(taken) <= 1
        assert min(seen.values()) > 10, seen

    simulate(dut, check, cycles=2 * cycles, background=[client(name) for name in CLIENTS])
