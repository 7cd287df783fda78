"""ECPIX-5 85F: ECP5, the USB serial port is the FTDI chip's second channel."""

from .board import Board

__all__ = ["ECPIX5_85F"]

ECPIX5_85F = Board(
    name="ecpix5-85f",
    title="LambdaConcept ECPIX-5 85F",
    target="ecp5-85f",
    platform="amaranth_boards.ecpix5:ECPIX585Platform",
    clock_hz=80_000_000,
    leds=(("rgb_led", 0), ("rgb_led", 1)),
    programmer="ecpix5",
)
