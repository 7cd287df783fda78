"""Running compiled networks: on the machine model, or on a device behind a link."""

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .config import MachineConfig
from .cycles import cycles, split
from .driver import Device
from .errors import InputError, ToolMissingError, UsageError
from .image import Image
from .machine import Machine
from .network import Int8Array

__all__ = ["LoadedNetwork", "Opened", "open"]

# An inference is given up after this many times the cycles that the model predicts.
_PATIENCE = 4
_LEAST_LIMIT = 100_000


class _Target(Protocol):
    """What both a machine model and a device can do."""

    def require(self, config: MachineConfig) -> None: ...
    def write(self, address: int, content: bytes) -> None: ...
    def read(self, address: int, count: int) -> bytes: ...
    def run(self, *, descriptors: int, code: int, literals: int, limit: int) -> int | None: ...


_Spent = Callable[[int], npt.NDArray[np.void]]
"""What so many layers of the last inference spent their cycles on, see `cycles.split`."""


class LoadedNetwork:
    """A network in a device's memory; call it with a batch.

    Attributes
    ----------
    cycles : list of int
        Cycles of each inference of the last call: measured on a device, predicted on the machine model.
    layers : list of LayerCycles
        Cycles of each layer: predicted, and on the RTL, after a call, those counted in its last inference.
    """

    def __init__(self, target: _Target, image: Image, spent: _Spent | None = None) -> None:
        self.image = image
        self.cycles: list[int] = []
        self._target = target
        self._spent = spent
        self.layers = cycles(image)
        self._predicted = sum(layer.total for layer in self.layers)
        target.require(image.config)
        for section in _with_progress(image.sections.values(), "load"):
            target.write(section.address, section.data)

    def __call__(self, x: Int8Array) -> Int8Array:
        """The network's int8 outputs (batch, *output shape) for int8 inputs (batch, *input shape)."""
        image, target = self.image, self._target
        expected = image.input.tensor.shape
        if x.dtype != np.int8 or x.shape[1:] != expected:
            raise InputError(
                f"the model takes int8 inputs of shape (batch, {', '.join(map(str, expected))}), not "
                f"{x.dtype} of {x.shape}"
            )
        self.cycles = []
        results = np.empty((len(x), *image.result.shape), np.int8)
        for one, result in _with_progress(list(zip(x, results, strict=True)), "run"):
            target.write(image.input.address, image.pack_input(one))
            measured = target.run(
                descriptors=image.sections["descriptors"].address,
                code=image.sections["code"].address,
                literals=image.sections["literals"].address,
                limit=max(_LEAST_LIMIT, _PATIENCE * self._predicted),
            )
            self.cycles.append(self._predicted if measured is None else measured)
            region = target.read(image.output.address, image.output.layout.size)
            result[...] = image.unpack_output(region)
        if self._spent is not None and len(x):
            self.layers = split(self._spent(len(image.layers)), image)
        return results


class Opened(AbstractContextManager["Opened"]):
    """An open device; load networks into it. Closes its link at the end of a ``with`` block."""

    def __init__(self, target: Machine | Device, spent: _Spent | None = None) -> None:
        self._target = target
        self._spent = spent

    def load(self, image: Image) -> LoadedNetwork:
        """Put ``image`` into the device's memory; raises `DeviceError` if it was compiled for another."""
        return LoadedNetwork(self._target, image, self._spent)

    def close(self) -> None:
        """Close the link; closing twice does nothing."""
        if isinstance(self._target, Device):
            self._target.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(where: str, config: MachineConfig, *, waves: str | PathLike[str] | None = None) -> Opened:
    """A device to run images on.

    Parameters
    ----------
    where : str
        ``machine``, the machine model; or ``rtl``, the gateware itself, simulated in this process.
    config : MachineConfig
        The configuration to simulate.
    waves : path, optional
        Record all signals of the RTL into this FST file.

    Raises `UsageError` for another place, `ToolMissingError` where the simulator is not installed.
    """
    if waves is not None and where != "rtl":
        raise UsageError("waveforms are recorded from the RTL alone: use --on rtl with --waves")
    if where == "machine":
        return Opened(Machine(config))
    if where == "rtl":
        return _simulate(config, waves)
    raise UsageError(f"cannot run on {where!r}: choose golden, machine or rtl")


def _simulate(config: MachineConfig, waves: str | PathLike[str] | None) -> Opened:
    # The gateware is imported here alone: whoever only compiles or drives boards need not have it.
    try:
        from kolmogate_hw.device import Device as Gateware
        from kolmogate_sim.device import SimulatedLink
    except ImportError as error:
        raise ToolMissingError(
            f"the RTL simulation needs {error.name}: install it with `pip install 'kolmogate[sim]'`"
        ) from None
    link = SimulatedLink(Gateware(config), config.clock_hz, Path(waves) if waves else None)
    return Opened(Device(link), link.spent)


Item = TypeVar("Item")


def _with_progress(items: Collection[Item], label: str) -> Iterable[Item]:
    """``items`` under a progress bar that shows itself when they take over two seconds."""
    bar: Iterable[Item] = tqdm(items, desc=label, delay=2, leave=False, disable=None)
    return bar
