"""The driver: a device at the other end of a byte link, real or simulated."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

from tqdm import tqdm

from .config import MachineConfig
from .errors import DeviceError, UsageError
from .isa import UNIT, ErrorCode
from .link import Link
from .programs.p0 import Program
from .protocol import (
    ACCESS,
    IDENTITY,
    PAGE_BYTES,
    PROGRESS,
    RUN,
    VERSION,
    Command,
    Entry,
    FrameReader,
    Status,
    identity,
    last_page,
    pack_frame,
)
from .rings import RING_BYTES, RINGS, Feed, feeds, padded

__all__ = ["Device", "Progress"]

_TRIES = 5
_PATIENCE_SECONDS = 1.0

_ADVICE = {
    ErrorCode.BAD_DESCRIPTOR: "the image in its memory is damaged; load it again",
    ErrorCode.BAD_PROGRAM: "the image in its memory is damaged; load it again",
    ErrorCode.TIMEOUT: "raise the cycle limit, or load the image again",
}


@dataclass(frozen=True)
class Progress:
    """What the device says of its inference; ``error`` and ``cycles`` are final once it is not busy.

    ``pages`` are those that the readers of a streamed program are in, by stream.
    """

    busy: bool
    error: int
    cycles: int
    pages: Mapping[str, int] = field(default_factory=dict, compare=False)


class Device:
    """A device that answers the protocol.

    Opening it ends whatever an earlier user left running. Every request is repeated until it is answered, a
    few times; then the device is given up. A request that is given up or interrupted leaves a connection
    that the next request opens anew.

    Parameters
    ----------
    link : Link
        Open link to the device. The device owns it and closes it.

    Attributes
    ----------
    identity : dict of str to int
        What the device is: `IDENTITY`'s fields.

    Raises `DeviceError` when the device does not answer or speaks another version of the protocol. Any
    method raises it when the device stops answering or refuses a request.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._sequence = 0
        self._connected = False
        # An inference may still run that was to be ended.
        self._abandoned = False
        # An answer that still waits for an earlier user of the link is not for us.
        link.read(0)
        answer = self._request(Command.IDENTIFY)
        if answer[:1] != bytes((VERSION,)) or len(answer) != IDENTITY.bits // 8:
            version = answer[0] if answer else "unknown"
            raise DeviceError(
                f"the device speaks protocol version {version} and this driver version {VERSION}: "
                "program the device with the bitstream of this release"
            )
        self.identity = IDENTITY.unpack(int.from_bytes(answer, "little"))
        self.reset()

    def require(self, config: MachineConfig) -> None:
        """Raise `DeviceError` unless the device can run what was compiled for ``config``."""
        differences = [
            f"{name} {self.identity[name]} instead of {value}"
            for name, value in identity(config).items()
            if self.identity[name] != value
        ]
        if differences:
            raise DeviceError(
                f"the image was compiled for {config.name} and the device has {', '.join(differences)}: "
                "compile it for this device"
            )

    def write(self, address: int, content: bytes) -> None:
        """Write ``content`` to the scratchpad from byte ``address`` on."""
        for start, stop in self._pages(address, len(content)):
            access = _payload(ACCESS.pack(last=stop - start - 1, address=start), ACCESS.bits)
            self._request(Command.WRITE, access + content[start - address : stop - address])

    def read(self, address: int, count: int) -> bytes:
        """``count`` bytes of scratchpad from byte ``address`` on."""
        content = b""
        for start, stop in self._pages(address, count):
            access = _payload(ACCESS.pack(last=stop - start - 1, address=start), ACCESS.bits)
            answer = self._request(Command.READ, access)
            if len(answer) != stop - start:
                raise _unexpected(Command.READ)
            content += answer
        return content

    def start(
        self,
        entry: Entry,
        *,
        limit: int,
        bound: int | None = None,
        streamed: bool = False,
    ) -> None:
        """Start an inference that may take ``limit`` cycles.

        Layers may not write from ``bound`` on, a multiple of `PAGE_BYTES`; None: they may write everywhere.
        """
        run = RUN.pack(
            descriptors=entry.descriptors // UNIT,
            code=entry.code // UNIT,
            literals=entry.literals // UNIT,
            limit=limit,
            last_page=last_page(bound, self.identity["scratchpad_bytes"]),
            streamed=streamed,
        )
        self._request(Command.RUN, _payload(run, RUN.bits))

    def status(self) -> Progress:
        """How far the inference is."""
        return _progress(Command.STATUS, self._request(Command.STATUS))

    def feed(self, address: int, content: bytes) -> Progress:
        """Write ``content`` into a page of a ring, whose reader may then go on to the page's end."""
        access = _payload(ACCESS.pack(last=len(content) - 1, address=address), ACCESS.bits)
        return _progress(Command.FEED, self._request(Command.FEED, access + content))

    def wait(self, seconds: float) -> int:
        """Wait until the inference has ended; returns the cycles it took.

        Raises `DeviceError` when it ended in an error, or makes no progress for ``seconds``: the device's own
        cycle limit bounds one that does.
        """
        waited, pause = 0.0, 10e-6
        reached, since = -1, 0.0
        while (progress := self.status()).busy:
            if progress.cycles != reached:
                reached, since = progress.cycles, waited
            elif waited - since >= seconds:
                raise DeviceError(f"the device makes no progress, still busy after {waited:.3g} s: reset it")
            # Growing pauses: late by a few per cent at most, and few questions about a long inference.
            self._link.read(pause)
            waited += pause
            pause = min(max(pause, waited / 32), 10e-3)
        if progress.error != ErrorCode.NONE:
            known = progress.error in _ADVICE
            name = ErrorCode(progress.error).name if known else f"error {progress.error}"
            advice = _ADVICE[ErrorCode(progress.error)] if known else "reset it and load the image again"
            raise DeviceError(
                f"the device stopped after {progress.cycles} cycles with {name}: {advice}", progress.error
            )
        return progress.cycles

    def run(
        self,
        entry: Entry,
        *,
        limit: int,
        bound: int | None = None,
        program: Program | None = None,
    ) -> int:
        """`start` an inference and `wait` for its end; returns the cycles it took.

        A ``program`` is streamed: the entry's ``code`` and ``literals`` are then rings. An inference whose
        end is not waited for, because of an error or an interrupt, is ended by `reset`.
        """
        if self._abandoned:
            self.reset()
        try:
            self.start(entry, limit=limit, bound=bound, streamed=program is not None)
            if program is not None:
                addresses = {
                    "coded": entry.literals - RING_BYTES,
                    "literals": entry.literals,
                    "code": entry.code,
                }
                self._stream(feeds(padded(program, self.identity["columns"]), addresses))
            return self.wait(_PATIENCE_SECONDS)
        except BaseException:
            self._abandoned = True
            with suppress(DeviceError):
                self.reset()
            raise

    def reset(self) -> None:
        """End whatever runs; the scratchpad keeps its contents."""
        self._request(Command.RESET)
        self._abandoned = False

    def attempt(self, command: int, payload: bytes) -> int:
        """Send any request, a wrong one too; returns the status that the device answers with."""
        return self._exchange(command, payload)[0]

    def now(self) -> float:
        """Seconds on the link's clock."""
        return self._link.now()

    @property
    def timeout(self) -> float:
        """Seconds of silence after which an answer is taken for lost."""
        return self._link.timeout

    def close(self) -> None:
        """Close the link."""
        self._link.close()

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self, streams: list[Feed]) -> None:
        """Feed a program to the inference that runs, as fast as it is taken, until one of them has ended."""
        size = PAGE_BYTES * sum(stream.left for stream in streams)
        bar = tqdm(total=size, desc="stream", unit="B", unit_scale=True, delay=2, leave=False, disable=None)
        with bar:
            progress = self.status()
            while progress.busy and any(stream.left for stream in streams):
                pages = progress.pages
                waiting = [stream for stream in streams if stream.has_room(pages[stream.name])]
                if not waiting:
                    progress = self.status()
                    continue
                # The one that its reader needs soonest.
                address, content = min(waiting, key=lambda one: one.ahead(pages[one.name])).take()
                progress = self.feed(address, content)
                bar.update(len(content))

    def _pages(self, address: int, count: int) -> list[tuple[int, int]]:
        """The first and the past-the-end address of each access that moves these bytes."""
        size = self.identity["scratchpad_bytes"]
        if address < 0 or count < 0 or address + count > size:
            raise UsageError(
                f"bytes {address} to {address + count} are not in the device's scratchpad of {size} bytes"
            )
        stops = range((address // PAGE_BYTES + 1) * PAGE_BYTES, address + count, PAGE_BYTES)
        edges = [address, *stops, address + count]
        return list(pairwise(edges)) if count else []

    def _request(self, command: Command, payload: bytes = b"") -> bytes:
        """Send a request until it is answered; returns the answer's payload."""
        status, content = self._exchange(command, payload)
        if status != Status.OK:
            raise _refusal(command, status)
        return content

    def _exchange(self, command: int, payload: bytes) -> tuple[int, bytes]:
        """Send a request until it is answered; returns the answer's status and payload."""
        if not self._connected and command != Command.IDENTIFY:
            self._request(Command.IDENTIFY)
        # Until the answer is here, nobody knows which sequence number the device expects next.
        self._connected = False
        self._sequence = (self._sequence + 1) % 256
        frame = pack_frame(bytes((self._sequence, command)) + payload)
        for _ in range(_TRIES):
            # The zero ends whatever noise the device may have received before.
            self._link.write(b"\0" + frame)
            answer = self._answer()
            if answer is not None:
                self._connected = True
                return answer[1], answer[2:]
        name = Command(command).name if command in list(Command) else f"command {command}"
        raise DeviceError(
            f"the device did not answer {name} in {_TRIES} tries: check that it is connected, "
            "powered and programmed"
        )

    def _answer(self) -> bytes | None:
        """The body of the answer to the last request; `None` if it does not come."""
        # A new reader for each try: half an answer of the one before must not spoil this one.
        frames = FrameReader()
        # Bounded by bytes too, so that endless noise is not waited for.
        patience = 16 * PAGE_BYTES
        while patience > 0 and (received := self._link.read(self._link.timeout)):
            patience -= len(received)
            for body in frames.feed(received):
                if len(body) >= 2 and body[0] == self._sequence:
                    return body
        return None


def _payload(word: int, bits: int) -> bytes:
    return word.to_bytes(bits // 8, "little")


def _progress(command: Command, answer: bytes) -> Progress:
    if len(answer) != PROGRESS.bits // 8:
        raise _unexpected(command)
    fields = PROGRESS.unpack(int.from_bytes(answer, "little"))
    pages = {name: fields[name] for name in RINGS}
    return Progress(bool(fields["busy"]), fields["error"], fields["cycles"], pages)


def _refusal(command: Command, status: int) -> DeviceError:
    if status == Status.BUSY:
        return DeviceError("the device is busy with an inference: wait for its end or reset it")
    name = Status(status).name if status in Status.__members__.values() else f"status {status}"
    return DeviceError(f"the device refused {command.name} with {name}: the image does not fit this device")


def _unexpected(command: Command) -> DeviceError:
    return DeviceError(f"the device's answer to {command.name} has the wrong length: reset the device")
