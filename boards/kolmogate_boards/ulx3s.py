"""ULX3S in its four sizes: ECP5, the USB serial port is the FTDI chip's."""

from .board import Board

__all__ = ["ULX3S"]

_TARGETS = {"12f": "ecp5-25f", "25f": "ecp5-25f", "45f": "ecp5-45f", "85f": "ecp5-85f"}

ULX3S = tuple(
    Board(
        name=f"ulx3s-{size}",
        title=f"ULX3S {size.upper()}",
        target=target,
        platform=f"amaranth_boards.ulx3s:ULX3S_{size.upper()}_Platform",
        clock_hz=80_000_000,
        leds=(("led", 0), ("led", 1)),
        programmer="ulx3s",
        # 94 of the 45F's 108 block RAMs are taken; the electrostatic placer cannot spread them.
        placer="heap" if size == "45f" else "static",
    )
    for size, target in _TARGETS.items()
)
