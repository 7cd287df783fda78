"""Icepi Zero: ECP5, the USB serial port is the FTDI chip's."""

from .board import Board

__all__ = ["ICEPI_ZERO"]

ICEPI_ZERO = Board(
    name="icepi-zero",
    title="Icepi Zero v1.3",
    target="ecp5-25f",
    platform="amaranth_boards.icepi_zero:IcepiZero1_3Platform",
    clock_hz=80_000_000,
    leds=(("led", 0), ("led", 1)),
    programmer="icepi-zero",
)
