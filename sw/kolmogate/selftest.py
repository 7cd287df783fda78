"""The self-test: known answers of a device, a board's or a simulated one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
from tqdm import tqdm

from . import golden
from .arrays import load_inputs
from .compiler import compile
from .config import CONFIGURATIONS, MachineConfig
from .demo import shipped
from .driver import Device
from .errors import DeviceError
from .image import Image
from .isa import INSTRUCTION, P0, ErrorCode
from .protocol import ACCESS, PAGE_BYTES, RUN, Command, Status, identity
from .runtime import Opened
from .schedule import split_tail
from .tflite_import import load_tflite

__all__ = ["Outcome", "selftest"]

_NETWORK_INPUTS = 10
_SINGLE_BYTES = 64
_BLOCK_BYTES = 16 * PAGE_BYTES
_ROUND_TRIPS = 20
_FOREVER = (1 << 32) - 1
_NO_WEIGHTS = INSTRUCTION.pack(op=P0.END).to_bytes(INSTRUCTION.bits // 8, "little")
"""A program that ends at once; the array then waits for weights."""


@dataclass(frozen=True)
class Outcome:
    """What came of a test; ``advice`` says what to try where it failed, and is empty where it passed."""

    test: str
    passed: bool
    detail: str
    advice: str = ""


class _Failure(Exception):
    """A test's answer is wrong: what was seen."""


def selftest(device: Device) -> Iterator[Outcome]:
    """Test the device, one outcome after the other; what was in its scratchpad is lost.

    Ends early where there is no point in going on: the device is none that is known, or has ceased to answer.
    """
    names = [name for name, config in CONFIGURATIONS.items() if identity(config) == device.identity]
    if not names:
        yield Outcome(
            "identify", False, f"it is {_described(device.identity)}, which no configuration is", _FLASH
        )
        return
    config = CONFIGURATIONS[names[0]]
    yield Outcome("identify", True, f"{config.name}: {_described(device.identity)}")
    network = _network(config)
    tests: tuple[tuple[str, Callable[[], str], str], ...] = (
        ("memory", lambda: _memory(device), _TIMING),
        ("network", lambda: _inferences(device, network), _TIMING),
        ("refusals", lambda: _refusals(device), _FLASH),
        ("errors", lambda: _errors(device, network), _FLASH),
        ("link", lambda: _link(device), _LATENCY),
    )
    for name, test, advice in tests:
        try:
            yield Outcome(name, True, test())
        except _Failure as failure:
            yield Outcome(name, False, str(failure), advice)
        except DeviceError as error:
            yield Outcome(name, False, str(error), advice)
            try:
                device.reset()
            except DeviceError:
                return


_FLASH = (
    "flash the bitstream that this release builds for the board: kolmogate build BOARD, kolmogate flash BOARD"
)
_TIMING = (
    "see that the bitstream reached its clock (kolmogate boards), power the board from a port of its own, "
    "and flash it again"
)
_LATENCY = (
    "set the latency timer of the board's USB chip to 1 ms "
    "(/sys/bus/usb-serial/devices/PORT/latency_timer), or leave out USB hubs"
)


def _described(fields: dict[str, int]) -> str:
    return (
        f"{fields['rows']} x {fields['columns']} MACs, {fields['scratchpad_bytes'] >> 10} KB, "
        f"protocol {fields['version']}"
    )


def _memory(device: Device) -> str:
    """Random bytes and their complement in the whole scratchpad, then single bytes among others."""
    size = device.identity["scratchpad_bytes"]
    content = np.frombuffer(np.random.default_rng(size).bytes(size), np.uint8)
    with tqdm(
        total=4 * size, desc="memory", unit="B", unit_scale=True, delay=2, leave=False, disable=None
    ) as bar:
        for pattern in (content, ~content):
            for start in range(0, size, _BLOCK_BYTES):
                device.write(start, pattern[start : start + _BLOCK_BYTES].tobytes())
                bar.update(min(_BLOCK_BYTES, size - start))
            seen = b""
            for start in range(0, size, _BLOCK_BYTES):
                seen += device.read(start, min(_BLOCK_BYTES, size - start))
                bar.update(min(_BLOCK_BYTES, size - start))
            _compare(pattern, seen)
    pattern = ~content
    places = np.random.default_rng(1).integers(0, size, _SINGLE_BYTES)
    for place in places.tolist():
        pattern[place] ^= 0xFF
        device.write(place, pattern[place : place + 1].tobytes())
    for place in places.tolist():
        start, stop = max(0, place - PAGE_BYTES // 2), min(size, place + PAGE_BYTES // 2)
        _compare(pattern[start:stop], device.read(start, stop - start), start)
    return f"2 patterns in all {size:,} bytes, {_SINGLE_BYTES} single bytes"


def _compare(expected: np.ndarray, seen: bytes, start: int = 0) -> None:
    got = np.frombuffer(seen, np.uint8)
    wrong = np.flatnonzero(got != expected)
    if len(wrong):
        first = int(wrong[0])
        raise _Failure(
            f"{len(wrong):,} of {len(expected):,} bytes differ, the first at {start + first:#x}: "
            f"{got[first]:#04x}, written was {expected[first]:#04x}"
        )


@dataclass(frozen=True)
class _Network:
    """A network, inputs of it and the outputs of the golden model."""

    image: Image
    x: np.ndarray
    y: np.ndarray


def _network(config: MachineConfig) -> _Network:
    network = load_tflite(shipped("lenet5.tflite"))
    # Without the host's part: SOFTMAX would hide small errors.
    operations, tail = split_tail(network)
    network = replace(network, operations=tuple(operations), output=tail.input)
    x = load_inputs(shipped("mnist_test_100.npz"), network.tensors[network.input])[:_NETWORK_INPUTS]
    return _Network(compile(network, config), x, golden.run(network, x))


def _inferences(device: Device, network: _Network) -> str:
    loaded = Opened(device).load(network.image)
    y = loaded(network.x)
    wrong = int((y != network.y).any(axis=1).sum())
    if wrong:
        raise _Failure(f"{wrong} of {len(y)} digits have other outputs than the golden model")
    cycles = round(sum(loaded.cycles) / len(y))
    return f"{len(y)} digits as the golden model has them, {cycles:,} cycles each"


def _refusals(device: Device) -> str:
    """Requests that may not have an effect, and must be answered."""
    size = device.identity["scratchpad_bytes"]
    before = device.read(0, PAGE_BYTES)

    def access(address: int, count: int) -> bytes:
        return ACCESS.pack(last=count - 1, address=address).to_bytes(ACCESS.bits // 8, "little")

    cases = (
        ("an unknown command", 0xFF, b"", Status.BAD_COMMAND),
        ("a READ without an address", Command.READ, b"", Status.BAD_LENGTH),
        ("a WRITE of fewer bytes than it says", Command.WRITE, access(0, 4) + b"abc", Status.BAD_LENGTH),
        ("a READ beyond the scratchpad", Command.READ, access(size, 1), Status.BAD_ADDRESS),
        ("a WRITE beyond the scratchpad", Command.WRITE, access(size, 1) + b"a", Status.BAD_ADDRESS),
        ("a READ across pages", Command.READ, access(PAGE_BYTES - 1, 2), Status.BAD_ADDRESS),
    )
    for what, command, payload, wanted in cases:
        status = device.attempt(command, payload)
        if status != wanted:
            raise _Failure(f"{what} was answered with {_status(status)} instead of {wanted.name}")
    if device.read(0, PAGE_BYTES) != before:
        raise _Failure("a request that was refused has changed the scratchpad")
    return f"{len(cases)} wrong requests refused, each with its status"


def _status(status: int) -> str:
    return Status(status).name if status in list(Status) else f"status {status}"


def _errors(device: Device, network: _Network) -> str:
    """Inferences that cannot end well, and one that does not end; the next is as if nothing had been."""
    image = network.image
    entry = image.entry
    Opened(device).load(image)
    for wanted, address, damage, limit, bound in (
        (ErrorCode.BAD_DESCRIPTOR, entry.descriptors, b"\xff", _FOREVER, image.written_end),
        (ErrorCode.BAD_DESCRIPTOR, entry.descriptors, b"", _FOREVER, PAGE_BYTES),
        (ErrorCode.TIMEOUT, entry.code, _NO_WEIGHTS, 10_000, image.written_end),
    ):
        before = device.read(address, len(damage))
        device.write(address, damage)
        try:
            device.run(entry, limit=limit, bound=bound)
        except DeviceError as error:
            if error.code != wanted:
                raise
        else:
            raise _Failure(f"a damaged image ended well instead of with {wanted.name}")
        device.write(address, before)
    device.write(entry.code, _NO_WEIGHTS)
    device.start(entry, limit=_FOREVER)
    run = RUN.pack(limit=_FOREVER).to_bytes(RUN.bits // 8, "little")
    status = device.attempt(Command.RUN, run)
    if status != Status.BUSY:
        raise _Failure(f"a second RUN was answered with {_status(status)} instead of BUSY")
    device.reset()
    if device.status().busy:
        raise _Failure("a reset has not ended the inference that was running")
    _inferences(device, network)
    return "damaged images end with BAD_DESCRIPTOR and TIMEOUT, a reset ends an inference; the next is right"


def _link(device: Device) -> str:
    """The time of a question, and of a block each way."""

    def seconds(action: Callable[[], object]) -> float:
        started = device.now()
        action()
        return device.now() - started

    trip = median(seconds(device.status) for _ in range(_ROUND_TRIPS))
    content = bytes(_BLOCK_BYTES)
    there = _BLOCK_BYTES / seconds(lambda: device.write(0, content)) / 1e3
    back = _BLOCK_BYTES / seconds(lambda: device.read(0, _BLOCK_BYTES)) / 1e3
    figures = f"{1e3 * trip:.3g} ms a question, {there:.3g} KB/s to the device, {back:.3g} KB/s back"
    if trip > device.timeout / 2:
        raise _Failure(f"{figures}: after {1e3 * device.timeout:.3g} ms an answer is taken for lost")
    return figures
