"""Block RAM with the one promise that no family needs logic around it to keep."""

from amaranth.hdl import Module, Shape, ShapeLike, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .cells import family

__all__ = ["UNDEFINED", "BlockRam"]

UNDEFINED = "undefined"
"""Name of registers whose first value nobody looks at. On the iCE40 memories promise none, and to make up for
that takes a logic cell a bit; synthesis is told."""

SMALL = 2304
"""Bits that logic cells hold, where they can be memory, so that block RAMs are left for the scratchpad."""


class BlockRam(wiring.Component):
    """One write port and one read port with a register.

    What is read from an address in the cycle in which it is written is undefined: the user does not look
    at it.

    Parameters
    ----------
    shape, depth
        As in `amaranth.lib.memory.Memory`.
    granularity : int or None
        Likewise, of the write port.

    Members
    -------
    write : the write port; written data can be read from the next cycle on.
    read_enable, read_address : ask for a row.
    read_data : it is here from the next cycle on, until another one is.
    """

    read_enable: Signal
    read_address: Signal

    def __init__(self, shape: ShapeLike, depth: int, granularity: int | None = None) -> None:
        self.shape = shape
        self.depth = depth
        self._granularity = granularity
        address_bits = Shape.cast(range(depth)).width
        super().__init__(
            {
                "write": Out(
                    memory.WritePort.Signature(addr_width=address_bits, shape=shape, granularity=granularity)
                ),
                "read_enable": In(1),
                "read_address": In(address_bits),
                "read_data": Out(shape),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Tools take the attribute's promise only for a register that they merge into the memory themselves.
        attributes: dict[str, object] = {"no_rw_check": True}
        chip = family(platform)
        if chip and chip.logic_memory and Shape.cast(self.shape).width * self.depth <= SMALL:
            attributes["ram_style"] = "distributed"
        m.submodules.rows = rows = memory.Memory(
            shape=self.shape, depth=self.depth, init=[], attrs=attributes
        )
        write = rows.write_port(granularity=self._granularity)
        read = rows.read_port(domain="comb")
        wiring.connect(m, wiring.flipped(self.write), write)
        m.d.comb += read.addr.eq(self.read_address)
        register = Signal(self.shape, name=UNDEFINED, reset_less=True)
        with m.If(self.read_enable):
            m.d.sync += register.eq(read.data)
        m.d.comb += self.read_data.eq(register)
        return m
