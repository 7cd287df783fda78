"""The scratchpad: one memory for activations, programs and constants, and its arbiter."""

from collections.abc import Sequence
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

    It has ``config.scratchpad_ports`` ports. The last one also writes: with a mask other than 0 it writes and
    must not read. What a port reads while the other writes the same word is undefined. On the iCE40 UltraPlus
    it is made of SPRAM.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        ports = config.scratchpad_ports
        super().__init__(
            {
                "read_enable": In(1).array(ports),
                "address": In(word_address_bits(config)).array(ports),
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
        # Block RAM with two ports is only found where nothing is promised of simultaneous accesses.
        m.submodules.memory = words = memory.Memory(
            shape=8 * config.columns, depth=config.scratchpad_words, init=[], attrs={"no_rw_check": True}
        )
        for enable, address, read_data in zip(self.read_enable, self.address, self.read_data, strict=True):
            # Tools take the promise only for a register that they merge into the memory themselves.
            read = words.read_port(domain="comb")
            register = Signal.like(read_data, reset_less=True)
            m.d.comb += [read.addr.eq(address), read_data.eq(register)]
            with m.If(enable):
                m.d.sync += register.eq(read.data)
        write = words.write_port(granularity=8)
        m.d.comb += [
            write.en.eq(self.write_mask),
            write.addr.eq(self.address[-1]),
            write.data.eq(self.write_data),
        ]
        return m


class Scratchpad(wiring.Component):
    """Fixed-priority arbiters in front of the memory.

    Parameters
    ----------
    config : MachineConfig
    clients : sequence of sequences of str
        Names of the clients of each memory port, highest priority first: each becomes a port of this
        component. A name in ``writers`` is a `write_port`, any other a `ReadPort`.
    writers : set of str
        All of them clients of the last port.

    Latency: a read granted in cycle t answers in cycle t + 2 (request and memory registers).
    Throughput: one transfer a port a cycle.
    """

    def __init__(self, config: MachineConfig, clients: Sequence[Sequence[str]], writers: set[str]) -> None:
        self.config = config
        self.clients = clients
        self.writers = writers
        super().__init__(
            {
                name: In(write_port(config)) if name in writers else In(ReadPort(config))
                for names in clients
                for name in names
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = ScratchpadMemory(self.config)
        # What is granted, the others gated to 0, so that an OR merges them.
        masks: list[Value] = []
        words: list[Value] = []
        for names, enable, address, read_data in zip(
            self.clients, memory.read_enable, memory.address, memory.read_data, strict=True
        ):
            addresses: list[Value] = []
            enables: list[Value] = []
            # Whether a client of higher priority asks.
            busy: ValueLike = C(0)
            for name in names:
                client = getattr(self, name)
                writes = name in self.writers
                request = client if writes else client.request
                granted = Signal(name=f"{name}_granted")
                m.d.comb += [request.ready.eq(~busy), granted.eq(request.valid & request.ready)]
                busy = busy | request.valid
                if writes:
                    addresses.append(Mux(granted, client.payload.address, 0))
                    masks.append(Mux(granted, client.payload.mask, 0))
                    words.append(Mux(granted, client.payload.data, 0))
                else:
                    addresses.append(Mux(granted, client.request.payload, 0))
                    enables.append(granted)
                    requested = Signal(name=f"{name}_requested")
                    m.d.sync += [requested.eq(granted), client.valid.eq(requested)]
                    m.d.comb += client.data.eq(read_data)
            m.d.sync += [enable.eq(Cat(enables).any()), address.eq(reduce(or_, addresses))]
        m.d.sync += [memory.write_mask.eq(reduce(or_, masks)), memory.write_data.eq(reduce(or_, words))]
        return m
