"""Rings that the streams of a program flow through: how far each is filled, and how readers keep inside."""

from amaranth.hdl import C, Cat, Module, Signal, Value, ValueLike, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig
from kolmogate.protocol import PAGE_BYTES
from kolmogate.rings import RING_BYTES, RING_PAGES, RINGS

__all__ = ["PAGES", "RING_MEMBERS", "Ring", "Rings", "reader_page"]

PAGES = data.StructLayout(dict.fromkeys(RINGS, range(RING_PAGES)))
"""A page of each ring."""

RING_MEMBERS = {"streamed": In(1), "limit": In(range(RING_PAGES)), "page": Out(range(RING_PAGES))}
"""Ports of a reader: `Ring`'s parameters, and its `reader_page`."""

_PAGE = PAGE_BYTES.bit_length() - 1
_RING = RING_BYTES.bit_length() - 1


def reader_page(config: MachineConfig, address: Value) -> Value:
    """The page of its ring that a word address is in."""
    lane_bits = config.columns.bit_length() - 1
    return address[_PAGE - lane_bits : _RING - lane_bits]


class Ring:
    """What a reader needs to know of its ring.

    Parameters
    ----------
    config : MachineConfig
    streamed : value
        The program is streamed.
    limit : value
        The page that is fed next, not to be entered.
    """

    def __init__(self, config: MachineConfig, streamed: Value, limit: Value) -> None:
        self._config = config
        self._streamed = streamed
        self._limit = limit

    def waits(self, address: Value) -> Value:
        """Whether the word at ``address`` is not there yet."""
        return self._streamed & (reader_page(self._config, address) == self._limit)

    def advance(self, place: Value, by: ValueLike, low: int) -> Value:
        """``place`` and a signed number, inside its ring; ``low`` bits of it are below the word address."""
        bits = _RING - (self._config.columns.bit_length() - 1) + low
        # One carry chain, in which a bit between the two parts passes the carry on or keeps it.
        whole = Value.cast(by) | C(0, signed(bits + 1))
        above = (whole[-1] & ~self._streamed).replicate(len(place) - bits)
        total = Cat(place[:bits], ~self._streamed, place[bits:]) + Cat(whole[:bits], C(0, 1), above)
        return Cat(total[:bits], total[bits + 1 : len(place) + 1])


class Rings(wiring.Component):
    """Keeps what the host has fed.

    Members
    -------
    start, stream : an inference begins, with all rings empty; whether its program is streamed.
    fed, page, ring : a page has been written to the ring.
    streamed, limits : `Ring`'s, from the cycle after.
    """

    start: Signal
    stream: Signal
    fed: Signal
    page: Signal
    ring: Signal
    streamed: Signal
    limits: data.View

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "stream": In(1),
                "fed": In(1),
                "page": In(range(RING_PAGES)),
                "ring": In(range(len(RINGS) + 1)),
                "streamed": Out(1),
                "limits": Out(PAGES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, ring in RINGS.items():
            limit, descends = self.limits[name], name == "coded"
            with m.If(self.fed & (self.ring == ring)):
                m.d.sync += limit.eq(self.page + (-1 if descends else 1))
            with m.If(self.start):
                m.d.sync += limit.eq(-1 if descends else 0)
        with m.If(self.start):
            m.d.sync += self.streamed.eq(self.stream)
        return m
