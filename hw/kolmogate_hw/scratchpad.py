"""The scratchpad: one memory for activations, programs and constants, and its arbiter."""

from collections.abc import Sequence

from amaranth.hdl import C, Module, Signal, ValueLike
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from kolmogate.config import MachineConfig

from .ports import ReadPort, word_address_bits, write_port

__all__ = ["Scratchpad", "ScratchpadMemory"]


class ScratchpadMemory(wiring.Component):
    """The bare memory; reads answer one cycle after `read_enable`.

    It has ``config.scratchpad_ports`` ports. The last one also writes: with a mask other than 0 it writes and
    must not read. What a port reads while the other writes the same word is undefined. This is the portable
    form; boards replace it by their vendor's cells.
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
        m = Module()
        config = self.config
        # Block RAM with two ports is only found where nothing is promised of simultaneous accesses.
        m.submodules.memory = words = memory.Memory(
            shape=8 * config.columns, depth=config.scratchpad_words, init=[], attrs={"no_rw_check": True}
        )
        for enable, address, read_data in zip(self.read_enable, self.address, self.read_data, strict=True):
            read = words.read_port()
            m.d.comb += [read.en.eq(enable), read.addr.eq(address), read_data.eq(read.data)]
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
        m.d.sync += memory.write_mask.eq(0)
        for names, enable, address, read_data in zip(
            self.clients, memory.read_enable, memory.address, memory.read_data, strict=True
        ):
            m.d.sync += enable.eq(0)
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
                    with m.If(granted):
                        m.d.sync += [
                            memory.write_mask.eq(client.payload.mask),
                            address.eq(client.payload.address),
                            memory.write_data.eq(client.payload.data),
                        ]
                else:
                    with m.If(granted):
                        m.d.sync += [enable.eq(1), address.eq(client.request.payload)]
                    requested = Signal(name=f"{name}_requested")
                    m.d.sync += [requested.eq(granted), client.valid.eq(requested)]
                    m.d.comb += client.data.eq(read_data)
        return m
