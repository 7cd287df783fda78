"""The scratchpad: one memory for activations, programs and constants, and its arbiter."""

from functools import reduce
from operator import or_

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig

from .cells import ICE40_ULTRAPLUS, family
from .cells.spram import spram_memory
from .ports import ReadPort, word_address_bits, write_port

__all__ = ["Scratchpad", "ScratchpadMemory"]


class ScratchpadMemory(wiring.Component):
    """The bare memory; reads answer one cycle after `read_enable`.

    With one port (``config.scratchpad_ports``) a write cycle must not read, and the addresses are one. On the iCE40 UltraPlus it is made
    of SPRAM.
    """

    read_enable: Signal
    read_address: Signal
    read_data: Signal
    write_mask: Signal
    write_address: Signal
    write_data: Signal

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        bits = word_address_bits(config)
        super().__init__(
            {
                "read_enable": In(1),
                "read_address": In(bits),
                "read_data": Out(8 * config.columns),
                "write_mask": In(config.columns),
                "write_address": In(bits),
                "write_data": In(8 * config.columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        if family(platform) is ICE40_ULTRAPLUS:
            return spram_memory(self)
        m = Module()
        config = self.config
        m.submodules.memory = words = memory.Memory(
            shape=8 * config.columns, depth=config.scratchpad_words, init=[]
        )
        read = words.read_port()
        write = words.write_port(granularity=8)
        m.d.comb += [
            read.en.eq(self.read_enable),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data),
            write.en.eq(self.write_mask),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
        ]
        return m


class Scratchpad(wiring.Component):
    """Fixed-priority arbiter in front of the memory.

    Parameters
    ----------
    config : MachineConfig
    clients : list of str
        Names of the clients, highest priority first: each becomes a port of this component. A name in
        ``writers`` is a `write_port`, any other a `ReadPort`. With two scratchpad ports readers and
        writers are arbitrated apart; with one they share every cycle.
    writers : set of str

    Latency: a read granted in cycle t answers in cycle t + 2 (request and memory registers).
    Throughput: one transfer a port a cycle.
    """

    def __init__(self, config: MachineConfig, clients: list[str], writers: set[str]) -> None:
        self.config = config
        self.clients = clients
        self.writers = writers
        super().__init__(
            {name: In(write_port(config)) if name in writers else In(ReadPort(config)) for name in clients}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.memory = memory = ScratchpadMemory(config)

        # Whether a client of higher priority asks for the write port (True) or the read port (False).
        busy: dict[bool, ValueLike] = {True: C(0), False: C(0)}
        # What is granted, port by port: the others are gated to 0, so that an OR merges them.
        addresses: dict[bool, list[Value]] = {True: [], False: []}
        masks, words, enables = [], [], []
        for name in self.clients:
            client = getattr(self, name)
            writes = name in self.writers
            request = client if writes else client.request
            granted = Signal(name=f"{name}_granted")
            higher = busy[writes] if config.scratchpad_ports == 2 else busy[True] | busy[False]
            m.d.comb += [request.ready.eq(~higher), granted.eq(request.valid & request.ready)]
            busy[writes] = busy[writes] | request.valid
            if writes:
                addresses[True].append(gated(granted, client.payload.address))
                masks.append(gated(granted, client.payload.mask))
                words.append(gated(granted, client.payload.data))
            else:
                addresses[False].append(gated(granted, client.request.payload))
                enables.append(granted)
                requested = Signal(name=f"{name}_requested")
                m.d.sync += [requested.eq(granted), client.valid.eq(requested)]
                m.d.comb += client.data.eq(memory.read_data)
        if config.scratchpad_ports == 1:
            addresses = dict.fromkeys(addresses, addresses[False] + addresses[True])
        m.d.sync += [
            memory.read_enable.eq(Cat(enables).any()),
            memory.read_address.eq(merged(addresses[False])),
            memory.write_mask.eq(merged(masks)),
            memory.write_address.eq(merged(addresses[True])),
            memory.write_data.eq(merged(words)),
        ]
        return m


def gated(enable: Value, value: Value) -> Value:
    """The value, or 0."""
    return Mux(enable, value, 0)


def merged(values: list[Value]) -> Value:
    """The OR of values of which one at most is not 0."""
    return reduce(or_, values, C(0))
