"""The far end of scratchpad ports, for components that are simulated without the scratchpad."""

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from kolmogate.isa import ADDRESS_BITS

__all__ = ["random_memory", "serve_reads", "serve_writes"]

Memory = npt.NDArray[np.uint8]


def random_memory(source: random.Random, size: int) -> Memory:
    """Random bytes, shape (size,)."""
    return np.frombuffer(source.randbytes(size), np.uint8).copy()


async def serve_reads(ctx: Any, port: Any, memory: Memory, pauses: Iterator[bool]) -> None:
    """Answer a `ReadPort` or an `UnalignedReadPort` for ever: a background test bench.

    Grants are withheld as ``pauses`` says; the word stored at the time of the grant is given when the port
    promises it, and noise at all other times. A request beyond ``memory`` is an `AssertionError`.
    """
    noise = random.Random(0)
    bits = len(port.data)
    columns = bits // 8
    grain = 1 << ADDRESS_BITS - len(port.request.payload)
    waiting: deque[int | None] = deque([None] * (port.signature.latency - 1))
    while True:
        ctx.set(port.request.ready, not next(pauses))
        _, _, granted, word = await ctx.tick().sample(
            port.request.valid & port.request.ready, port.request.payload
        )
        answer = waiting.popleft()
        ctx.set(port.valid, answer is not None)
        ctx.set(port.data, noise.getrandbits(bits) if answer is None else answer)
        if granted:
            assert word * grain + columns <= len(memory), f"read at {word * grain} beyond the memory"
            waiting.append(int.from_bytes(memory[word * grain :][:columns].tobytes(), "little"))
        else:
            waiting.append(None)


async def serve_writes(
    ctx: Any, port: Any, memory: Memory, pauses: Iterator[bool], log: list[int] | None = None
) -> None:
    """Accept the words of a `write_port` for ever: a background test bench.

    The word address of each write is appended to ``log``.
    """
    while True:
        ctx.set(port.ready, not next(pauses))
        _, _, granted, payload = await ctx.tick().sample(port.valid & port.ready, port.payload)
        if granted:
            columns = len(port.payload.mask)
            assert (payload.address + 1) * columns <= len(memory), (
                f"write of word {payload.address} beyond the memory"
            )
            enabled = np.array([payload.mask >> byte & 1 for byte in range(columns)], bool)
            word = np.frombuffer(int(payload.data).to_bytes(columns, "little"), np.uint8)
            memory[payload.address * columns :][:columns][enabled] = word[enabled]
            if log is not None:
                log.append(payload.address)
