"""The interfaces between the parts of the core."""

from amaranth.hdl import ShapeLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.isa import ADDRESS_BITS, WORD_GRAIN
from kolmogate.protocol import PAGE_NUMBER_BITS

from .rings import PAGES

__all__ = [
    "ACTIVITY",
    "BatchPort",
    "HostPort",
    "ReadPort",
    "RowPort",
    "UnalignedReadPort",
    "turned",
    "word_address_bits",
    "write_port",
]

ACTIVITY = data.StructLayout({"busy": 1, "end_layer": 1, "compute": 1, "drain": 1, "decode": 1, "memory": 1})
"""What the core does in a cycle, for a simulation to count; nothing of it is built where nobody looks.

``busy`` during an inference, ``end_layer`` in the last cycle of a layer. At most one of the others, which
`kolmogate.cycles.LayerCycles` explains.
"""


def word_address_bits(config: MachineConfig) -> int:
    """Width of a scratchpad word address."""
    return ADDRESS_BITS - (config.columns.bit_length() - 1)


class ReadPort(wiring.Signature):
    """A client's read access to the scratchpad.

    ``request`` carries word addresses; a transfer on it is a granted read, and its word appears on
    ``data`` with ``valid`` high exactly ``latency`` cycles later: 2, in fast machines 3, as they register
    what comes out of the memory's blocks. There is no back-pressure on the answer: a client asks only for
    what it has room for.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.latency = config.read_latency
        super().__init__(
            {
                "request": Out(stream.Signature(word_address_bits(config))),
                "valid": In(1),
                "data": In(8 * config.columns),
            }
        )


class RowPort(wiring.Signature):
    """Rows that set out for a buffer, which keeps room for them, so that they need not wait on their way.

    While ``room`` is high, one more may set out, in fast machines in the next cycle; ``reserve`` says that it
    does, with the last of several where room is kept for all of them together. ``row`` arrives with
    ``write``, in the order of setting out.
    """

    def __init__(self, config: MachineConfig, shape: ShapeLike) -> None:
        self.ahead = config.fast
        super().__init__({"room": In(1), "reserve": Out(1), "write": Out(1), "row": Out(shape)})


class BatchPort(wiring.Signature):
    """Read access to Q bytes at a time, at a multiple of Q, one after the other.

    ``request``, and from its second cycle on the byte ``address``, are held until the bytes, which are on
    ``data`` while ``valid`` is high, are taken with ``take``; ``valid`` comes a cycle after the scratchpad's
    answer. A request that is withdrawn instead is not answered, if the next comes later than that.
    """

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(
            {
                "request": Out(1),
                "address": Out(ADDRESS_BITS),
                "take": Out(1),
                "valid": In(1),
                "data": In(8 * config.requantisers),
            }
        )


def turned(config: MachineConfig) -> bool:
    """Whether a word may begin in the middle of a stored one, and is turned to begin with its first byte."""
    return config.columns > WORD_GRAIN


class UnalignedReadPort(wiring.Signature):
    """As `ReadPort`, for words that begin at any multiple of `isa.WORD_GRAIN` bytes, which is what
    ``request`` counts in.

    Where that makes a difference (`turned`), the answer comes a cycle later.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.latency = ReadPort(config).latency + turned(config)
        super().__init__(
            {
                "request": Out(stream.Signature(ADDRESS_BITS - (WORD_GRAIN.bit_length() - 1))),
                "valid": In(1),
                "data": In(8 * config.columns),
            }
        )


class HostPort(wiring.Signature):
    """What the link asks of the core, seen from the link.

    ``request`` moves one byte of scratchpad; a read is answered by ``data`` with ``valid`` high, in order,
    some cycles later, and the link has room for every answer it asked for. ``start`` is high for one cycle
    with the three base addresses, the cycle limit, which must be there a cycle before, too, the last page
    that layers may write to and whether the program is ``streamed``; ``busy`` is high from the next cycle
    until the inference has ended. ``fed`` is high in the cycle of the request that completes a page of a
    ring; ``pages`` are those that the readers of the rings are in. ``error`` and ``cycles`` keep the last
    inference's outcome. ``reset`` returns the core to its state after power-up; the scratchpad keeps its
    contents.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(
                    stream.Signature(data.StructLayout({"address": ADDRESS_BITS, "write": 1, "data": 8}))
                ),
                "valid": In(1),
                "data": In(8),
                "start": Out(1),
                "descriptors": Out(ADDRESS_BITS),
                "code": Out(ADDRESS_BITS),
                "literals": Out(ADDRESS_BITS),
                "limit": Out(32),
                "last_page": Out(PAGE_NUMBER_BITS),
                "streamed": Out(1),
                "fed": Out(1),
                "pages": In(PAGES),
                "reset": Out(1),
                "busy": In(1),
                "error": In(4),
                "cycles": In(32),
            }
        )


def write_port(config: MachineConfig) -> stream.Signature:
    """A client's write access to the scratchpad: a stream of words with a mask of the bytes to write."""
    return stream.Signature(
        data.StructLayout(
            {"address": word_address_bits(config), "mask": config.columns, "data": 8 * config.columns}
        )
    )
