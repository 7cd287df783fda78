"""iCEBreaker: iCE40UP5K, the USB serial port is the FTDI chip's second channel."""

from .board import Board

__all__ = ["ICEBREAKER"]

ICEBREAKER = Board(
    name="icebreaker",
    title="iCEBreaker v1.0",
    target="up5k-small",
    platform="amaranth_boards.icebreaker:ICEBreakerPlatform",
    clock_hz=36_000_000,
    leds=(("led_g", 0), ("led_r", 0)),
    programmer="ice40_generic",
)
