"""Amaranth layouts of the records that `kolmogate.isa` defines."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data
from kolmogate.isa import Record

__all__ = ["struct_layout"]


def struct_layout(record: Record) -> data.StructLayout:
    """The record as a struct whose fields keep their names, widths, signs and order."""
    return data.StructLayout(
        {
            name: signed(width) if name in record.signed else unsigned(width)
            for name, width in record.widths.items()
        }
    )
