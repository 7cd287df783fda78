"""cocotb bench of the whole core: random networks, compiled, loaded, run and read back through the host port.

Inputs change at the falling edge and everything is sampled when they have settled, so that nothing depends
on the order in which a simulator handles the events of a rising edge.
"""

import random
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import MachineConfig, configuration
from kolmogate.cycles import cycles
from kolmogate.errors import InputError
from kolmogate.image import Image
from kolmogate.isa import ADDRESS_BITS, ErrorCode
from kolmogate.network import Network, Softmax
from kolmogate.protocol import PAGE_BYTES
from kolmogate.random_network import random_network

from .bench import parameters
from .streams import StreamMonitor, seed, stalls

LENGTH = 3
LARGEST_IMAGE = 4000
"""Bytes; a byte is a cycle of a slow simulator."""


class Bench:
    """The core, and a host that stalls."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.source = random.Random(seed())
        self.monitor = StreamMonitor("host__request")
        self.pauses = stalls(self.source)
        self.answers: list[int] = []

    def port(self, name: str) -> Any:
        return getattr(self.dut, f"host__{name}")

    async def reset(self) -> None:
        Clock(self.dut.clk, 10, "ns").start()
        for name in ("request__valid", "request__payload", "start", "reset", "streamed", "fed"):
            self.port(name).value = 0
        for name in ("descriptors", "code", "literals", "last_page", "limit"):
            self.port(name).value = 0
        self.dut.rst.value = 1
        for _ in range(2):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def cycle(self) -> bool:
        """Let a cycle pass; whether the request at the port is taken at its end."""
        await ReadOnly()
        valid, ready = (int(self.port(f"request__{name}").value) for name in ("valid", "ready"))
        self.monitor.observe(valid, ready, int(self.port("request__payload").value))
        if int(self.port("valid").value):
            self.answers.append(int(self.port("data").value))
        await FallingEdge(self.dut.clk)
        return bool(valid and ready)

    async def request(self, address: int, write: bool = False, data: int = 0) -> None:
        while next(self.pauses):
            await self.cycle()
        self.port("request__valid").value = 1
        self.port("request__payload").value = address | write << ADDRESS_BITS | data << ADDRESS_BITS + 1
        while not await self.cycle():
            pass
        self.port("request__valid").value = 0

    async def write(self, address: int, content: bytes) -> None:
        for place, byte in enumerate(content, address):
            await self.request(place, write=True, data=byte)

    async def read(self, address: int, count: int) -> bytes:
        self.answers.clear()
        for number in range(count):
            await self.request(address + number)
            # The address stays until the byte is here.
            while len(self.answers) == number:
                await self.cycle()
        return bytes(self.answers)

    async def run(self, image: Image, limit: int) -> int:
        """One inference; the cycles it says it took."""
        for name in ("descriptors", "code", "literals"):
            self.port(name).value = image.sections[name].address
        # It is there a cycle before.
        self.port("limit").value = limit
        await self.cycle()
        self.port("last_page").value = image.written_end // PAGE_BYTES - 1
        self.port("start").value = 1
        await self.cycle()
        self.port("start").value = 0
        for _ in range(limit + 10):
            if not int(self.port("busy").value):
                break
            await self.cycle()
        assert not int(self.port("busy").value), "the core went on beyond its cycle limit"
        return int(self.port("cycles").value)


def networks(config: MachineConfig, count: int) -> list[tuple[Network, Image]]:
    """Random networks that the machine runs, small enough for this bench."""
    found = []
    for number in range(seed(), seed() + 10_000):
        network = random_network(number, length=LENGTH)
        if isinstance(network.operations[-1], Softmax):
            continue
        try:
            image = compile(network, config)
        except InputError:
            continue
        moved = image.device_bytes + image.input.layout.size + image.output.layout.size
        if image.layers and moved < LARGEST_IMAGE:
            found.append((network, image))
        if len(found) == count:
            return found
    raise AssertionError("too few random networks fit the bench: look at what the compiler refuses")


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def networks_equal_golden(dut: Any) -> None:
    """Outputs to the byte, on networks one after the other."""
    bench = Bench(dut)
    await bench.reset()
    for network, image in networks(configuration(parameters()["target"]), parameters()["networks"]):
        shape = (2, *image.input.tensor.shape)
        x = np.random.default_rng(seed()).integers(-128, 128, shape).astype(np.int8)
        for section in image.sections.values():
            await bench.write(section.address, section.data)
        expected = golden.run(network, x)
        model = sum(layer.total for layer in cycles(image))
        for one, y in zip(x, expected, strict=True):
            await bench.write(image.input.address, image.pack_input(one))
            await bench.run(image, 2 * model + 1000)
            assert int(dut.host__error.value) == ErrorCode.NONE, f"{network.name} ended in an error"
            region = await bench.read(image.output.address, image.output.layout.size)
            np.testing.assert_array_equal(image.unpack_output(region), y, err_msg=network.name)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def an_inference_ends_at_its_limit(dut: Any) -> None:
    """Stopped at any cycle, the core is ready for the next inference, which is right."""
    bench = Bench(dut)
    await bench.reset()
    ((network, image),) = networks(configuration(parameters()["target"]), 1)
    x = np.random.default_rng(seed()).integers(-128, 128, (1, *image.input.tensor.shape)).astype(np.int8)
    for section in image.sections.values():
        await bench.write(section.address, section.data)
    model = sum(layer.total for layer in cycles(image))
    for limit in sorted(bench.source.randrange(model // 2) for _ in range(parameters()["networks"])):
        await bench.write(image.input.address, image.pack_input(x[0]))
        await bench.run(image, limit)
        assert int(dut.host__error.value) == ErrorCode.TIMEOUT
    await bench.write(image.input.address, image.pack_input(x[0]))
    await bench.run(image, 2 * model + 1000)
    assert int(dut.host__error.value) == ErrorCode.NONE
    region = await bench.read(image.output.address, image.output.layout.size)
    np.testing.assert_array_equal(image.unpack_output(region), golden.run(network, x)[0])
