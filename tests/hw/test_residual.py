"""The residual adder against the golden arithmetic."""

import random
from typing import Any

import numpy as np
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, RESIDUAL_FRACTION, SCALE_OFFSET, Opcode
from kolmogate.machine_arithmetic import add_residual
from kolmogate_hw.residual import DIGIT_BITS, ROWS, ResidualAdder
from kolmogate_sim.memories import random_memory
from kolmogate_sim.streams import drive, simulate, stalls

MEMORY = 1 << 12
BATCHES = 60
SCALES = ("output_scale", "operand_scale")


def random_record(source: random.Random, offset: int) -> dict[str, int]:
    """Scales up to the greatest, in half of the records powers of two, whose sums are full of ties."""

    def scale() -> int:
        if source.randrange(2):
            return 1 << source.randrange(RESIDUAL_FRACTION - 4, RESIDUAL_FRACTION + 3)
        return source.choice(((1 << 27) - 1, source.randrange(1 << 27), source.randrange(1 << 24)))

    largest = source.randrange(3) == 0
    low, high = sorted(source.randrange(-128, 128) for _ in range(2))
    zero_points = [source.choice((-128, 127, source.randrange(-128, 128))) for _ in range(2)]
    if largest:
        zero_points[1] = 0
    return {
        "opcode": Opcode.RESIDUAL,
        "largest": int(largest),
        "offset": offset % (1 << ADDRESS_BITS),
        "output_scale": scale() + SCALE_OFFSET,
        "operand_scale": scale() + SCALE_OFFSET,
        "output_zero_point": zero_points[0],
        "operand_zero_point": zero_points[1],
        "zero_point": source.randrange(-128, 128),
        "minimum": low,
        "maximum": high,
    }


class Layer:
    """Outputs of a layer, what is to be added if anything is, and what should come of it."""

    def __init__(self, config: MachineConfig, source: random.Random, memory: Any, added: bool) -> None:
        lanes, columns = config.requantisers, config.columns
        count = BATCHES * lanes
        self.base = source.randrange(MEMORY // 4) // lanes * lanes
        lowest, highest = -(self.base // columns), (MEMORY - count - self.base) // columns
        offset = source.randrange(lowest, highest) * columns
        self.record = random_record(source, offset) if added else None
        values = [source.choice((-128, 127, source.randrange(-128, 128))) for _ in range(count)]
        self.outputs = np.array(values, np.int8)
        self.expected = self.outputs.astype(np.int64)
        if self.record:
            operands = memory[self.base + offset :][:count].view(np.int8)
            self.expected = add_residual(self.outputs, operands, self.record)


def test_layers_back_to_back(config: MachineConfig, source: random.Random) -> None:
    """Layers with and without an addition, under stalls of the outputs and the memory."""
    dut = ResidualAdder(config)
    lanes = config.requantisers
    memory = random_memory(source, MEMORY)
    layers = [Layer(config, source, memory, added=number % 3 != 2) for number in range(12)]
    finished = 0

    async def send(ctx: Any) -> None:
        pauses = stalls(source)
        for number, layer in enumerate(layers):
            while finished < number:
                await ctx.tick()
            if layer.record:
                ctx.set(dut.start, 1)
                for row in range(ROWS):
                    moved = {name: layer.record[name] >> DIGIT_BITS * row for name in SCALES}
                    ctx.set(dut.row, row)
                    ctx.set(dut.record, layer.record | moved)
                    await ctx.tick()
                ctx.set(dut.start, 0)
                ctx.set(dut.record, random_record(source, 0))
            ctx.set(dut.address, layer.base)
            rows = layer.outputs.view(np.uint8).reshape(-1, lanes).tolist()
            await drive(ctx, dut.i, rows, pauses)

    async def receive(ctx: Any) -> None:
        nonlocal finished
        ctx.set(dut.o.ready, 1)
        for number, layer in enumerate(layers):
            for batch, expected in enumerate(layer.expected.reshape(-1, lanes)):
                valid = False
                while not valid:
                    _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
                got = np.array([int(value) for value in payload], np.uint8).view(np.int8)
                assert got.tolist() == expected.tolist(), f"layer {number}, batch {batch}: {layer.record}"
            ctx.set(dut.done, 1)
            await ctx.tick()
            ctx.set(dut.done, 0)
            finished += 1

    async def move(ctx: Any) -> None:
        async for _, _, accept, address in ctx.tick().sample(dut.accept, dut.address):
            if accept:
                ctx.set(dut.address, address + lanes)

    async def serve(ctx: Any) -> None:
        pauses = stalls(source)
        noise = random.Random(0)
        port = dut.port
        asked = False
        while True:
            waits = ctx.get(port.valid) or next(pauses)
            _, _, request, address, take = await ctx.tick().sample(port.request, port.address, port.take)
            # No answer may be there in the cycle after a request was withdrawn or its answer taken; where
            # to read from is known a cycle after the request.
            answered = asked and request and not take and (ctx.get(port.valid) or not waits)
            asked = request and not take
            ctx.set(port.valid, answered)
            data = int.from_bytes(memory[address:][:lanes].tobytes(), "little")
            ctx.set(port.data, data if answered else noise.getrandbits(8 * lanes))

    simulate(dut, send, receive, cycles=200_000, background=[serve, move])
