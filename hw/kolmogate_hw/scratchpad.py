"""The scratchpad: one memory for activations, programs and constants, and its arbiter."""

from collections.abc import Sequence
from functools import reduce
from itertools import chain, pairwise
from operator import or_
from typing import Any

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from kolmogate.config import MachineConfig
from kolmogate.isa import WORD_GRAIN
from kolmogate.protocol import PAGE_BYTES

from .cells import ICE40_ULTRAPLUS, family
from .cells.spram import spram_memory
from .ports import ReadPort, UnalignedReadPort, turned, word_address_bits, write_port

__all__ = ["Scratchpad", "ScratchpadMemory", "page_bits"]

_PAGE = PAGE_BYTES.bit_length() - 1


def page_bits(config: MachineConfig) -> int:
    """Width of the number of a page of the scratchpad."""
    return ceil_log2(config.scratchpad_bytes) - _PAGE


class ScratchpadMemory(wiring.Component):
    """The bare memory; reads answer one cycle after `read_enable`.

    Its banks are `isa.WORD_GRAIN` bytes wide, and each has a word address of its own in ``places``, the same
    for words that begin in the first bank, which all do that are written; ``read_data`` are the banks.

    It has ``config.scratchpad_ports`` ports. The last one also writes, with a mask other than 0. What it
    reads then, and what a port reads while another writes the same word, is undefined. On the iCE40
    UltraPlus it is made of SPRAM, which does not read while it writes.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        ports = config.scratchpad_ports
        super().__init__(
            {
                "read_enable": In(1).array(ports),
                "places": In(data.ArrayLayout(word_address_bits(config), config.columns // WORD_GRAIN)).array(
                    ports
                ),
                "read_data": Out(8 * config.columns).array(ports),
                "write_mask": In(config.columns),
                "write_data": In(8 * config.columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        if family(platform) is ICE40_ULTRAPLUS:
            return spram_memory(self)
        m = Module()
        config = self.config
        for bank in range(config.columns // WORD_GRAIN):
            # Block RAM with two ports is only found where nothing is promised of simultaneous accesses.
            m.submodules[f"bank_{bank}"] = words = memory.Memory(
                shape=8 * WORD_GRAIN, depth=config.scratchpad_words, init=[], attrs={"no_rw_check": True}
            )
            span = slice(8 * WORD_GRAIN * bank, 8 * WORD_GRAIN * (bank + 1))
            for port, places in enumerate(self.places):
                # Tools take the promise only for a register that they merge into the memory themselves.
                read = words.read_port(domain="comb")
                register = Signal(8 * WORD_GRAIN, name=f"read_{bank}_{port}", reset_less=True)
                m.d.comb += [read.addr.eq(places[bank]), self.read_data[port][span].eq(register)]
                with m.If(self.read_enable[port]):
                    m.d.sync += register.eq(read.data)
            write = words.write_port(granularity=8)
            m.d.comb += [
                write.en.eq(self.write_mask[WORD_GRAIN * bank : WORD_GRAIN * (bank + 1)]),
                write.addr.eq(self.places[-1][bank]),
                write.data.eq(self.write_data[span]),
            ]
        return m


class Scratchpad(wiring.Component):
    """Fixed-priority arbiters in front of the memory.

    Parameters
    ----------
    config : MachineConfig
    clients : sequence of sequences of str
        Names of the clients of each memory port, highest priority first: each becomes a port of this
        component. A name in ``writers`` is a `write_port`, one in ``unaligned`` an `UnalignedReadPort`, any
        other a `ReadPort`.
    writers : set of str
        All of them clients of the last port.
    unaligned : set of str
    layers : set of str
        Writers that may not go beyond ``last_page``: such a write is granted, but changes nothing, and
        ``refused`` is high in the cycle after its grant.

    Latency: a read granted in cycle t answers in cycle t + 2 (request and memory registers), t + 3 in fast
    machines (what the blocks of the memory give is chosen from, and registered again), an unaligned one that
    has to be turned a cycle after that. Throughput: one transfer a port a cycle.
    """

    def __init__(
        self,
        config: MachineConfig,
        clients: Sequence[Sequence[str]],
        writers: set[str],
        unaligned: set[str],
        layers: set[str],
    ) -> None:
        self.config = config
        self.clients = clients
        self.writers = writers
        self.unaligned = unaligned
        self.layers = layers
        ports = {"last_page": In(page_bits(config)), "refused": Out(1)}
        for name in chain.from_iterable(clients):
            if name in writers:
                ports[name] = In(write_port(config))
            else:
                ports[name] = In(UnalignedReadPort(config) if name in unaligned else ReadPort(config))
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = ScratchpadMemory(self.config)
        banks = self.config.columns // WORD_GRAIN
        bank_bits = banks.bit_length() - 1
        # A layer's write is beyond the last page.
        beyond = Signal()
        # What is granted, the others gated to 0, so that an OR merges them.
        masks: list[Value] = []
        words: list[Value] = []
        # Of layers' writes: the requests, and that one is granted.
        layers: list[Any] = []
        writing: list[Value] = []
        for names, enable, places, read_data in zip(
            self.clients, memory.read_enable, memory.places, memory.read_data, strict=True
        ):
            addresses: list[list[Value]] = [[] for _ in range(banks)]
            enables: list[Value] = []
            # The bank that a word begins in.
            begun: list[Value] = []
            firsts = [Signal(bank_bits, reset_less=True)]
            if self.config.fast:
                chosen = Signal.like(read_data, reset_less=True)
                m.d.sync += chosen.eq(read_data)
                read_data = chosen
                firsts.append(Signal(bank_bits, reset_less=True))
            in_order: Value = read_data
            if turned(self.config):
                firsts.append(first := Signal(bank_bits, reset_less=True))
                in_order = Signal(8 * self.config.columns, reset_less=True)
                stored = Array(read_data.word_select(bank, 8 * WORD_GRAIN) for bank in range(banks))
                m.d.sync += [
                    *(later.eq(sooner) for sooner, later in pairwise(firsts)),
                    in_order.eq(Cat(stored[(first + bank)[:bank_bits]] for bank in range(banks))),
                ]
            # Whether a client of higher priority asks.
            busy: ValueLike = C(0)
            for name in names:
                client = getattr(self, name)
                writes, unaligned = name in self.writers, name in self.unaligned
                port = (UnalignedReadPort if unaligned else ReadPort)(self.config)
                request = client if writes else client.request
                granted = Signal(name=f"{name}_granted")
                m.d.comb += [request.ready.eq(~busy), granted.eq(request.valid & request.ready)]
                busy = busy | request.valid
                asked = client.payload.address if writes else client.request.payload
                if unaligned:
                    begins, word = asked[:bank_bits], asked[bank_bits:]
                    # It goes on in the next banks, from the last in the first of the next word.
                    following = word + 1
                    begun.append(Mux(granted, begins, 0))
                for bank in range(banks):
                    place = Mux(begins > bank, following, word) if unaligned else asked
                    addresses[bank].append(Mux(granted, place, 0))
                if writes:
                    allowed = granted
                    if name in self.layers:
                        layers.append(request)
                        writing.append(granted)
                        allowed = granted & ~beyond
                    masks.append(Mux(allowed, client.payload.mask, 0))
                    words.append(Mux(granted, client.payload.data, 0))
                    continue
                enables.append(granted)
                answered: Value = granted
                for stage in range(port.latency):
                    following = Signal(name=f"{name}_answered_{stage}")
                    m.d.sync += following.eq(answered)
                    answered = following
                m.d.comb += [client.valid.eq(answered), client.data.eq(in_order if unaligned else read_data)]
            if self.config.fast:
                # What nobody looks at may be read, too: an enable would have to reach all blocks.
                m.d.comb += enable.eq(1)
            else:
                m.d.sync += enable.eq(Cat(enables).any())
            m.d.sync += [
                firsts[0].eq(reduce(or_, begun, C(0))),
                *(place.eq(reduce(or_, asked)) for place, asked in zip(places, addresses, strict=True)),
            ]
        lane_bits = self.config.columns.bit_length() - 1
        pages = [request.payload.address[_PAGE - lane_bits :][: len(self.last_page)] for request in layers]
        page = pages[-1]
        for request, sooner in reversed(list(zip(layers, pages, strict=True))[:-1]):
            page = Mux(request.valid, sooner, page)
        m.d.comb += beyond.eq(page > self.last_page)
        m.d.sync += [
            memory.write_mask.eq(reduce(or_, masks)),
            memory.write_data.eq(reduce(or_, words)),
            self.refused.eq(reduce(or_, writing) & beyond),
        ]
        return m
