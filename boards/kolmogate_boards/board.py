"""What a board is."""

import importlib
from dataclasses import dataclass
from typing import Any

from kolmogate.config import MachineConfig, configuration
from kolmogate.errors import ToolMissingError

__all__ = ["INSTALL", "Board"]

INSTALL = "pip install 'kolmogate[boards]'"


@dataclass(frozen=True)
class Board:
    """A board and the accelerator it carries.

    Parameters
    ----------
    name, title : str
        On the command line and for people.
    target : str
        Name of the `MachineConfig`.
    platform : str
        Module and class of the Amaranth platform, with a colon between.
    clock_hz : int
        Clock of the accelerator, made by the PLL from the platform's default clock.
    leds : tuple of str
        Resources, with a number where there are several, of the LEDs that show "running" and "error".
    programmer : str or None
        What openFPGALoader calls the board; `None` if it is flashed by copying a file.
    link : str
        Where the serial port is.
    baud : int
    placer : str
        nextpnr's. The electrostatic one leaves shorter wires than HeAP, its default, and on the UP5K only
        what it places can be routed; but it may not come to an end.
    """

    name: str
    title: str
    target: str
    platform: str
    clock_hz: int
    leds: tuple[tuple[str, int], tuple[str, int]]
    programmer: str | None
    link: str = "USB serial port of the board"
    baud: int = 1_000_000
    placer: str = "static"

    @property
    def config(self) -> MachineConfig:
        return configuration(self.target)

    def create_platform(self) -> Any:
        """An instance of the platform; raises `ToolMissingError` without Amaranth's board definitions."""
        module, name = self.platform.split(":")
        try:
            return getattr(importlib.import_module(module), name)()
        except ModuleNotFoundError as error:
            raise ToolMissingError(
                f"building for a board needs {error.name}, which is not installed: run {INSTALL}"
            ) from None
