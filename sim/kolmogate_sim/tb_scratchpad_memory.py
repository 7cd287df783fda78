"""cocotb bench of the bare scratchpad memory: random writes and reads against a table."""

import random
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from kolmogate.config import configuration

from .bench import parameters
from .streams import seed

ACCESSES = 4000


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def random_accesses(dut: Any) -> None:
    """Masked writes and reads of few addresses, the highest among them, through the port that writes."""
    config = configuration(parameters()["target"])
    source = random.Random(seed())
    columns, port = config.columns, config.scratchpad_ports - 1
    addresses = [
        0,
        1,
        config.scratchpad_words - 1,
        *(source.randrange(config.scratchpad_words) for _ in range(6)),
    ]
    table = {address: bytearray(columns) for address in addresses}
    address, enable = getattr(dut, f"places__{port}"), getattr(dut, f"read_enable__{port}")
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 0
    enable.value = dut.write_mask.value = 0

    async def write(place: int, mask: int, data: bytes) -> None:
        address.value, dut.write_mask.value, enable.value = place, mask, 0
        dut.write_data.value = int.from_bytes(data, "little")
        await FallingEdge(dut.clk)
        dut.write_mask.value = 0
        for lane in range(columns):
            if mask >> lane & 1:
                table[place][lane] = data[lane]

    await FallingEdge(dut.clk)
    for place in table:
        await write(place, (1 << columns) - 1, source.randbytes(columns))
    for _ in range(ACCESSES):
        place = source.choice(addresses)
        if source.randrange(2):
            mask, data = source.getrandbits(columns), source.randbytes(columns)
            await write(place, mask, data)
        else:
            address.value, enable.value = place, 1
            await FallingEdge(dut.clk)
            enable.value = 0
            word = int(getattr(dut, f"read_data__{port}").value)
            assert word == int.from_bytes(table[place], "little"), f"address {place}"
