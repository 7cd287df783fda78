"""iCESugar: iCE40UP5K, the debugger on it shows a serial port and a drive to copy bitstreams to."""

from .board import Board

__all__ = ["ICESUGAR"]

ICESUGAR = Board(
    name="icesugar",
    title="iCESugar v1.5",
    target="up5k-small",
    platform="amaranth_boards.icesugar:ICESugarPlatform",
    clock_hz=36_000_000,
    leds=(("led_g", 0), ("led_r", 0)),
    programmer=None,
    # The debugger's serial port is not made for more.
    baud=115_200,
)
