"""What the sequencer does while a layer runs."""

from typing import Any

__all__ = ["walk_groups"]


async def walk_groups(ctx: Any, dut: Any, columns: int) -> None:
    """The input of the descriptor that ``dut`` is given moves on with the column groups when it says so."""
    fields = dut.descriptor
    async for _, _, moves, base, left in ctx.tick().sample(dut.next_group, dut.group_base, fields.channels):
        if moves:
            ctx.set(fields.input_base, base)
            ctx.set(fields.channels, (left - columns) % (1 << len(fields.channels)))
