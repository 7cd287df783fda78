"""cocotb bench of the weight decoder: random programs against the golden rows.

Inputs change at the falling edge and everything is sampled when they have settled, so that nothing depends
on the order in which a simulator handles the events of a rising edge.
"""

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
from kolmogate.config import configuration
from kolmogate_hw.ports import ReadPort

from .bench import parameters
from .stimuli import random_program
from .streams import seed, stalls

WATCHDOG_CYCLES = 200_000


class Port:
    """The memory behind one of the decoder's read ports."""

    def __init__(self, dut: Any, name: str, columns: int, latency: int, pauses: Iterator[bool]) -> None:
        self.ports = {
            part: getattr(dut, f"{name}__{part}")
            for part in ("request__valid", "request__ready", "request__payload", "valid", "data")
        }
        self.columns = columns
        self.pauses = pauses
        self.noise = random.Random(seed())
        self.content = b""
        self.base = 0
        self.answers: list[int | None] = [None] * latency

    def load(self, content: bytes, base: int) -> None:
        self.content, self.base = content, base

    def idle(self) -> None:
        for part in ("request__ready", "valid", "data"):
            self.ports[part].value = 0

    def drive(self) -> None:
        """Answer the read that was granted ``latency`` cycles ago; grant or stall the present one."""
        answer = self.answers.pop(0)
        self.ports["valid"].value = answer is not None
        self.ports["data"].value = self.noise.getrandbits(8 * self.columns) if answer is None else answer
        self.ports["request__ready"].value = not next(self.pauses)

    def observe(self) -> None:
        granted = int(self.ports["request__valid"].value) and int(self.ports["request__ready"].value)
        if granted:
            place = (int(self.ports["request__payload"].value) - self.base) * self.columns
            word = self.content[place : place + self.columns] if place >= 0 else b""
            # Around the program lies what lies there.
            self.answers.append(
                int.from_bytes(word, "little") if word else self.noise.getrandbits(8 * self.columns)
            )
        else:
            self.answers.append(None)


@cocotb.test()
async def random_programs(dut: Any) -> None:
    """Programs one after the other, the next started at the end of one or in its midst."""
    config = configuration(parameters()["target"])
    source = random.Random(seed())
    Clock(dut.clk, 10, "ns").start()
    ports = {
        name: Port(dut, f"{port}_port", config.columns, ReadPort(config).latency, stalls(source))
        for name, port in (("code", "code"), ("literals", "literal"), ("coded", "coded"))
    }
    dut.start.value = dut.o__room.value = dut.records__room.value = 0
    dut.streamed.value = dut.limits.value = 0
    dut.rst.value = 1
    for port in ports.values():
        port.idle()
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0

    pauses, record_pauses = stalls(source), stalls(source)
    for _ in range(parameters()["programs"]):
        length, longest = source.randrange(12), source.choice((3, 12, 40))
        # The entropy engine takes its time to start.
        engines = config.entropy_engines * (source.randrange(3) == 0)
        made_for = dataclasses.replace(config, entropy_engines=engines)
        program, weights, groups = random_program(source, made_for, length, longest)
        records = [
            [*row.tolist(), place == len(block) - 1] for block in groups for place, row in enumerate(block)
        ]
        received_records = 0
        # Some programs are abandoned; others are watched a little beyond their end.
        rows = source.randrange(len(weights) + 1) if source.randrange(3) == 0 else len(weights)
        idle = 0 if rows < len(weights) else 50
        received = 0
        for cycle in range(WATCHDOG_CYCLES):
            if received == rows:
                idle -= 1
                if idle < 0:
                    break
            await FallingEdge(dut.clk)
            for name, port in ports.items():
                if cycle == 0:
                    stream = getattr(program, name)
                    if name == "coded":
                        base = ports["literals"].base - len(stream) // config.columns
                    else:
                        base = source.randrange(1 << 12, 1 << 13)
                        getattr(dut, name).value = base
                    port.load(stream, base)
                port.drive()
            dut.start.value = int(cycle == 0)
            dut.o__room.value = int(cycle > 0 and not next(pauses))
            dut.records__room.value = int(cycle > 0 and not next(record_pauses))
            await ReadOnly()
            if cycle == 0:
                # What was under way is abandoned at the end of this cycle.
                for port in ports.values():
                    port.answers.append(port.noise.getrandbits(8 * config.columns))
                rooms = [0, 0]
                continue
            for port in ports.values():
                port.observe()
            before, rooms = rooms, [int(dut.o__room.value), int(dut.records__room.value)]
            o_room, records_room = before if config.fast else rooms
            assert o_room or not int(dut.o__reserve.value)
            assert records_room or not int(dut.records__reserve.value)
            if int(dut.o__write.value):
                payload = int(dut.o__row.value)
                assert received < len(weights), "a row beyond the end of the program"
                got = np.frombuffer(payload.to_bytes(config.columns, "little"), np.int8)
                assert got.tolist() == weights[received].tolist(), f"row {received} of {program}"
                received += 1
            if int(dut.records__write.value):
                payload = int(dut.records__row.value)
                assert received_records < len(records), "a record beyond the end of the program"
                row = payload & (1 << 8 * config.columns) - 1
                got = np.frombuffer(row.to_bytes(config.columns, "little"), np.int8)
                assert [*got.tolist(), bool(payload >> 8 * config.columns)] == records[received_records]
                received_records += 1
        else:
            raise AssertionError("the decoder stopped")
        assert not int(dut.error.value)
