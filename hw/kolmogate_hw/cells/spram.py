"""The scratchpad in SPRAM, the large single-port memories of the iCE40 UltraPlus."""

from typing import Any

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal
from kolmogate.config import MachineConfig
from kolmogate.errors import UsageError

__all__ = ["WORDS", "spram_memory"]

WORDS = 1 << 14
"""Words of 16 bits in an SB_SPRAM256KA."""

_BITS = 16


def spram_memory(memory: Any) -> Module:
    """What a `kolmogate_hw.scratchpad.ScratchpadMemory` elaborates to: cells side by side.

    Raises `UsageError` if its configuration has two ports or more words than a cell.
    """
    config: MachineConfig = memory.config
    if config.scratchpad_ports != 1 or config.scratchpad_words > WORDS:
        raise UsageError(
            f"configuration {config.name}: SPRAM has one port and {WORDS} words, "
            f"not {config.scratchpad_ports} and {config.scratchpad_words}"
        )
    m = Module()
    address = Signal(range(WORDS))
    m.d.comb += address.eq(memory.places[0][0])
    for index in range(8 * config.columns // _BITS):
        span = slice(_BITS * index, _BITS * (index + 1))
        # A mask bit stands for four bits.
        low, high = memory.write_mask[2 * index], memory.write_mask[2 * index + 1]
        m.submodules[f"cell_{index}"] = Instance(
            "SB_SPRAM256KA",
            i_CLOCK=ClockSignal(),
            i_CHIPSELECT=Const(1, 1),
            i_WREN=~memory.read_enable[0],
            i_MASKWREN=Cat(low, low, high, high),
            i_ADDRESS=address,
            i_DATAIN=memory.write_data[span],
            o_DATAOUT=memory.read_data[0][span],
            i_STANDBY=Const(0, 1),
            i_SLEEP=Const(0, 1),
            i_POWEROFF=Const(1, 1),
        )
    return m
