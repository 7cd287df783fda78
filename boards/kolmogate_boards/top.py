"""The top of a bitstream: clock, serial port, accelerator, LEDs."""

from typing import Any

from amaranth.build import Subsignal
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io, wiring
from kolmogate_hw.device import Device
from kolmogate_hw.uart import Uart

from .board import Board
from .clocks import add_clock

__all__ = ["Top"]


class Top(Elaboratable):
    """The board's accelerator behind its serial port.

    The first LED is on while an inference runs, the second after one that failed.
    """

    def __init__(self, board: Board) -> None:
        self.board = board

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        board = self.board
        add_clock(m, platform, board.clock_hz)
        m.submodules.device = device = Device(board.config)
        m.submodules.uart = uart = Uart(board.clock_hz, board.baud)
        wiring.connect(m, uart.o, device.i)
        wiring.connect(m, device.o, uart.i)

        pins = request(platform, "uart", 0)
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        m.d.comb += [uart.rx.eq(rx.i), tx.o.eq(uart.tx)]
        for index, lit in enumerate((device.busy, device.failed)):
            name, number = board.leds[index]
            led = request(platform, name, number)
            # Of a coloured one, its green part.
            m.submodules[f"led_{index}"] = buffer = io.Buffer("o", getattr(led, "g", led))
            m.d.comb += buffer.o.eq(lit)
        return m


def request(platform: Any, name: str, number: int) -> Any:
    """A resource's bare ports."""
    parts = platform.lookup(name, number).ios
    bare = {part.name: "-" for part in parts} if isinstance(parts[0], Subsignal) else "-"
    return platform.request(name, number, dir=bare)
