"""Running compiled networks: on the machine model, or on a device behind a link."""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .config import MachineConfig
from .container import load_image
from .cycles import cycles, split
from .driver import Device
from .errors import DeviceError, InputError, ToolMissingError, UsageError
from .image import Image
from .machine import Machine
from .network import Int8Array
from .programs.p0 import Program
from .protocol import BAUD, PAGE_BYTES, RUN, Entry
from .rings import RINGS
from .serial_link import SerialLink, usb_ports

if TYPE_CHECKING:
    from kolmogate_sim.device import SimulatedLink

__all__ = ["LoadedNetwork", "Opened", "open", "simulated_link"]

# An inference is given up after this many times the cycles that the model predicts.
_PATIENCE = 4
_LEAST_LIMIT = 100_000
_LARGEST_LIMIT = (1 << RUN.widths["limit"]) - 1


class _Target(Protocol):
    """What both a machine model and a device can do."""

    def require(self, config: MachineConfig) -> None: ...
    def write(self, address: int, content: bytes) -> None: ...
    def read(self, address: int, count: int) -> bytes: ...
    def run(
        self,
        entry: Entry,
        *,
        limit: int,
        bound: int | None = None,
        program: Program | None = None,
    ) -> int | None: ...


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
    compute_seconds : list of float
        The same in seconds of the image's nominal clock; of a streamed image the cycles predicted, as those
        measured are spent waiting for the program.
    moved : int
        Bytes by which it lies lower in the device's memory than the image says, to be beside another.
    link_seconds : list of float
        What each inference took beside: moving input, output and a streamed program, and asking for the end.
    """

    def __init__(self, opened: "Opened", image: Image) -> None:
        self.image = image
        self.moved = 0
        self.cycles: list[int] = []
        self.compute_seconds: list[float] = []
        self.link_seconds: list[float] = []
        self._opened = opened
        self.layers = cycles(image)
        self._predicted = sum(layer.total for layer in self.layers)

    def __call__(self, x: Int8Array) -> Int8Array:
        """The network's int8 outputs (batch, *output shape) for int8 inputs (batch, *input shape).

        Puts the network into the device's memory again if another one, or an error, has displaced it.
        """
        image = self.image
        expected = image.input.tensor.shape
        if x.dtype != np.int8 or x.shape[1:] != expected:
            raise InputError(
                f"the model takes int8 inputs of shape (batch, {', '.join(map(str, expected))}), not "
                f"{x.dtype} of {x.shape}"
            )
        self.cycles, self.compute_seconds, self.link_seconds = [], [], []
        results = np.empty((len(x), *image.result.shape), np.int8)
        with self._opened.resident(self) as target:
            for one, result in _with_progress(list(zip(x, results, strict=True)), "run"):
                result[...] = self._infer(target, one)
        if self._opened.spent is not None and len(x):
            self.layers = split(self._opened.spent(len(image.layers)), image)
        return results

    @property
    def _limit(self) -> int:
        """Cycles after which an inference is given up; a streamed one may wait for every page."""
        limit = max(_LEAST_LIMIT, _PATIENCE * self._predicted)
        if self.image.streamed:
            pages = self.image.device_bytes // PAGE_BYTES + len(RINGS)
            limit += int(pages * self._opened.timeout * self.image.config.clock_hz)
        return min(limit, _LARGEST_LIMIT)

    def _infer(self, target: _Target, x: Int8Array) -> Int8Array:
        image = self.image
        started = self._opened.now()
        target.write(image.input.address, image.pack_input(x))
        program = image.program() if image.streamed else None
        measured = target.run(
            image.entry.lower(self.moved), limit=self._limit, bound=image.written_end, program=program
        )
        region = target.read(image.output.address, image.output.layout.size)
        seconds = self._opened.now() - started
        spent = self._predicted if measured is None else measured
        compute = (self._predicted if image.streamed else spent) / image.config.clock_hz
        self.cycles.append(spent)
        self.compute_seconds.append(compute)
        # The machine model has neither a link nor a clock.
        self.link_seconds.append(0.0 if measured is None else max(0.0, seconds - compute))
        return image.unpack_output(region)


class Opened(AbstractContextManager["Opened"]):
    """An open device; load networks into it. Closes its link at the end of a ``with`` block.

    Networks share the memory of their activations, at its lower end, and as many as fit above are resident
    at once. Any number may be loaded and called in turn: one that had to make room is uploaded again.
    """

    def __init__(self, target: Machine | Device, spent: _Spent | None = None) -> None:
        self._target = target
        self.spent = spent
        # In the order in which they came.
        self._residents: list[LoadedNetwork] = []

    def load(self, image: Image | str | PathLike[str]) -> LoadedNetwork:
        """Put an image, or the one in a file, into the device's memory.

        Raises `DeviceError` if it was compiled for another device, `InputError` if the file is no image.
        """
        if not isinstance(image, Image):
            image = load_image(image)
        self._target.require(image.config)
        network = LoadedNetwork(self, image)
        with self.resident(network):
            return network

    @contextmanager
    def resident(self, network: LoadedNetwork) -> Iterator[_Target]:
        """The device with ``network`` in its memory. After an error nobody knows what is in there."""
        try:
            if network not in self._residents:
                self._make_room(network)
                for address, content in _with_progress(_pieces(network.image), "load"):
                    self._target.write(address - network.moved, content)
                self._residents.append(network)
            yield self._target
        except BaseException:
            self._residents.clear()
            raise

    def _make_room(self, network: LoadedNetwork) -> None:
        """Find ``network`` a place beside those that are resident; the oldest go if there is none."""
        start, end = _span(network.image)
        while True:
            others = [
                (one.image.written_end, *(place - one.moved for place in _span(one.image)))
                for one in self._residents
            ]
            lowest = max([network.image.written_end, *(written for written, _, _ in others)])
            beside = [] if network.image.streamed else [end - other for _, other, _ in others]
            for moved in sorted({0, *beside}):
                clear = all(end - moved <= low or high <= start - moved for _, low, high in others)
                if moved >= 0 and clear and lowest <= min([start - moved, *(low for _, low, _ in others)]):
                    network.moved = moved
                    return
            if not self._residents:
                # An image keeps clear of itself.
                network.moved = 0
                return
            del self._residents[0]

    @property
    def device(self) -> Device:
        """The device behind it. Raises `UsageError` on the machine model, which has none."""
        if not isinstance(self._target, Device):
            raise UsageError("the machine model is no device: choose rtl, auto or a serial port")
        return self._target

    def now(self) -> float:
        """Seconds on the device's clock; they stand still on the machine model."""
        return self._target.now() if isinstance(self._target, Device) else 0.0

    @property
    def timeout(self) -> float:
        """Seconds that an answer of the device may take; none on the machine model."""
        return self._target.timeout if isinstance(self._target, Device) else 0.0

    def close(self) -> None:
        """Close the link; closing twice does nothing."""
        if isinstance(self._target, Device):
            self._target.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open(
    where: str,
    config: MachineConfig | None = None,
    *,
    waves: str | PathLike[str] | None = None,
    baud: int = BAUD,
) -> Opened:
    """A device to run images on.

    Parameters
    ----------
    where : str
        ``machine``, the machine model; ``rtl``, the gateware itself, simulated in this process; the name of
        a serial port; or ``auto``, the one serial port on USB where a device answers.
    config : MachineConfig, optional
        The configuration to simulate. A device at a port tells its own.
    waves : path, optional
        Record all signals of the RTL into this FST file.
    baud : int
        Rate of a serial port.

    Raises `UsageError` for arguments that do not fit together, `ToolMissingError` where the simulator is
    not installed, `DeviceError` if the port cannot be opened or no device answers.
    """
    if waves is not None and where != "rtl":
        raise UsageError("waveforms are recorded from the RTL alone: use --on rtl with --waves")
    if where in ("machine", "rtl"):
        if config is None:
            raise UsageError(
                f"opening {where!r} needs the configuration to simulate: open({where!r}, config)"
            )
        if where == "machine":
            return Opened(Machine(config))
        link = simulated_link(config, waves)
        return Opened(Device(link), link.spent)
    return Opened(_find(baud) if where == "auto" else _at_port(where, baud))


def simulated_link(config: MachineConfig, waves: str | PathLike[str] | None = None) -> "SimulatedLink":
    """A link to the gateware of ``config``, simulated in this process."""
    # The gateware is imported here alone: whoever only compiles or drives boards need not have it.
    try:
        from kolmogate_hw.device import Device as Gateware
        from kolmogate_sim.device import SimulatedLink
    except ImportError as error:
        raise ToolMissingError(
            f"the RTL simulation needs {error.name}: install it with `pip install 'kolmogate[sim]'`"
        ) from None
    return SimulatedLink(Gateware(config), config.clock_hz, Path(waves) if waves else None)


def _at_port(port: str, baud: int) -> Device:
    link = SerialLink(port, baud)
    try:
        return Device(link)
    except BaseException:
        link.close()
        raise


def _find(baud: int) -> Device:
    """The one device that answers at a serial port on USB."""
    ports = usb_ports()
    if not ports:
        raise DeviceError(
            "no serial port is on USB: plug the board in, check that its cable carries data, or name the port"
        )
    found, failures = {}, []
    for port in ports:
        try:
            found[port] = _at_port(port, baud)
        except DeviceError as error:
            failures.append(f"{port}: {error}")
    if len(found) == 1:
        return next(iter(found.values()))
    for device in found.values():
        device.close()
    if found:
        raise UsageError(f"devices answer at {' and '.join(found)}: name the one to use")
    raise DeviceError(f"no device answers at {baud:,} baud ({'; '.join(failures)})")


def _span(image: Image) -> tuple[int, int]:
    """The first and the past-the-end address of what stays in the device, rings included."""
    sections = image.sections.values()
    start = min(section.address for section in sections)
    if image.streamed:
        return start, image.config.scratchpad_bytes
    return start, max(section.address + len(section.data) for section in sections)


def _pieces(image: Image) -> list[tuple[int, bytes]]:
    """The bytes of the image that stay in the device, page by page, with their addresses."""
    return [
        (section.address + start, section.data[start : start + PAGE_BYTES])
        for name, section in image.sections.items()
        if not (image.streamed and name in RINGS)
        for start in range(0, len(section.data), PAGE_BYTES)
    ]


Item = TypeVar("Item")


def _with_progress(items: Collection[Item], label: str) -> Iterable[Item]:
    """``items`` under a progress bar that shows itself when they take over two seconds."""
    bar: Iterable[Item] = tqdm(items, desc=label, delay=2, leave=False, disable=None)
    return bar
