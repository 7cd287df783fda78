"""The machine model: executes what the device is given, byte for byte as the gateware does.

It sees the scratchpad alone: it decodes the weight program and walks the descriptors that lie there.
Whatever they hold, it ends: with the result or with the device's error.
"""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from .config import MachineConfig
from .errors import DeviceError, InputError, UsageError
from .feeders import Feeders, Starved, is_even, positions, runs
from .isa import (
    ADDRESS_BITS,
    DESCRIPTOR,
    FILL_UNIT,
    INPUT_OFFSET,
    SHIFT_BASE,
    SHIFTS,
    STORED_CONSTANTS,
    ErrorCode,
    Opcode,
    Record,
    counted,
    load_descriptor,
    rows_taken,
    window_taps,
)
from .machine_arithmetic import add_residual, requantise
from .network import Int8Array
from .programs.p0 import Program, ProgramEnd, code_words
from .programs.reader import Reader
from .protocol import PAGE_BYTES, Entry, last_page
from .rings import padded

__all__ = ["Machine"]

Int64Array = npt.NDArray[np.int64]

DESCRIPTOR_CYCLES = 6
"""The least that loading a descriptor takes, so that an endless list of them ends too."""

CHUNK = 1 << 20
"""Bytes of activations gathered side by side; bounds the memory used."""


class Machine:
    """One device: a scratchpad and what runs on it; to the host it looks like `kolmogate.driver.Device`.

    ``memory`` is the scratchpad, uint8, zeros at first.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.memory = np.zeros(config.scratchpad_bytes, np.uint8)
        # The descriptor whose units the next may keep, from one inference to the next.
        self._kept = 0
        # Where layers may not write from on.
        self._bound = config.scratchpad_bytes

    def require(self, config: MachineConfig) -> None:
        """Raise `DeviceError` unless this machine is what an image was compiled for."""
        if config != self.config:
            raise DeviceError(
                f"the image was compiled for {config.name!r} and this machine is {self.config.name!r}:"
                " compile it for this target"
            )

    def write(self, address: int, content: bytes) -> None:
        """Host access: put bytes into the scratchpad. Raises `UsageError` outside it."""
        self._check_span(address, len(content))
        self.memory[address : address + len(content)] = np.frombuffer(content, np.uint8)

    def read(self, address: int, count: int) -> bytes:
        """Host access: bytes of the scratchpad. Raises `UsageError` outside it."""
        self._check_span(address, count)
        return self.memory[address : address + count].tobytes()

    def _check_span(self, address: int, count: int) -> None:
        size = len(self.memory)
        if min(address, count) < 0 or address + count > size:
            raise UsageError(
                f"bytes {address} to {address + count} are not in the machine's scratchpad of {size} bytes"
            )

    def run(
        self,
        entry: Entry,
        *,
        limit: int,
        bound: int | None = None,
        program: Program | None = None,
    ) -> None:
        """One inference from ``entry`` on.

        Layers may not write from ``bound`` on, a multiple of `PAGE_BYTES`; None: they may write everywhere. A
        ``program`` is streamed, whole and in time; the rings are then not looked at.

        Raises `DeviceError` with the `ErrorCode` that the device would report; ``limit`` is
        held against a lower bound of the cycles. Of a program that lies where layers may write, and that they
        write over, what was there at first is read here.
        """
        self._bound = PAGE_BYTES * (last_page(bound, len(self.memory)) + 1)
        # Addresses of words: the device does not look at the bits below.
        descriptors, code, literals = (
            address // self.config.columns * self.config.columns
            for address in (entry.descriptors, entry.code, entry.literals)
        )
        # A copy: the program that runs is the one that was there.
        words, memory = np.roll(self.memory, -code).view("<u2"), self.memory.copy()
        if program is not None:
            fed = padded(program, self.config.columns)
            words, literals = code_words(fed), len(fed.coded)
            memory = np.frombuffer(fed.coded + fed.literals, np.uint8)
        reader = Reader(
            words,
            memory,
            literals,
            self.config.columns,
            entropy_engine=self.config.entropy_engines > 0,
            streamed=program is not None,
            generator=self.config.generator,
            depth=self.config.column_buffer_depth,
            cycles=limit,
        )
        # The soonest that all so far is done, that the last layer had begun, and that its fills are done: of
        # those that run beside it one writes from when the descriptor behind its own has been read.
        cycles = begun = filled = 0
        fill = None
        residual = None
        feeders = Feeders(self.config)
        while True:
            data = self.memory[self._wrap(descriptors + np.arange(DESCRIPTOR.size(self.config.columns)))]
            fields, size, self._kept = load_descriptor(data.tobytes(), self.config.columns, self._kept)
            if fill is not None:
                self._fill(fill)
                fill = None
            if fields["opcode"] not in self._opcodes:
                raise DeviceError(
                    f"there is no descriptor opcode {fields['opcode']}", ErrorCode.BAD_DESCRIPTOR
                )
            fields = counted(fields, self.config.columns)
            if fields["opcode"] == Opcode.ARRAY and self.config.scratchpad_ports == 1:
                fields |= {"input_wrap_high": 0, "output_wrap_high": 0}
            least = self._least_cycles(fields)
            if self.config.scratchpad_ports == 1:
                cycles += DESCRIPTOR_CYCLES + least
            elif fields["opcode"] == Opcode.FILL:
                filled = max(begun, filled) + DESCRIPTOR_CYCLES + least
            else:
                # Descriptors are loaded, and layers may begin, while one is at work.
                begun = max(cycles, filled)
                cycles = begun + max(least, 1)
            if (soonest := max(cycles, filled)) > limit:
                # A layer that takes too long may still come to a write that ends it sooner.
                fields = self._until_refused(fields, limit - soonest + least)
                if not fields:
                    raise _timeout(limit)
            if fields["opcode"] == Opcode.END:
                return
            if fields["opcode"] == Opcode.FILL and self.config.scratchpad_ports == 1:
                self._fill(fields)
            elif fields["opcode"] == Opcode.FILL:
                fill = fields
            elif fields["opcode"] == Opcode.RESIDUAL:
                residual = fields
            else:
                try:
                    if is_even(fields, self.config.columns) and feeders.empty:
                        self._run_layer(fields, reader, residual)
                    else:
                        self._run_uneven_layer(fields, reader, residual, feeders, limit)
                except (ProgramEnd, Starved) as error:
                    # The device would wait for more until its time is up.
                    raise _timeout(limit, str(error)) from None
                except InputError as error:
                    raise DeviceError(str(error), ErrorCode.BAD_PROGRAM) from None
                residual = None
            descriptors += size

    def _wrap(self, addresses: Int64Array) -> Int64Array:
        """Byte addresses as the memory sees them."""
        return (addresses & (1 << ADDRESS_BITS) - 1) % len(self.memory)

    @property
    def _opcodes(self) -> list[Opcode]:
        """The descriptors that this machine knows."""
        return [one for one in Opcode if one != Opcode.RESIDUAL or self.config.residual_adder]

    def _least_cycles(self, fields: dict[str, int]) -> int:
        """A lower bound of the cycles of a descriptor."""
        config = self.config
        if fields["opcode"] == Opcode.FILL:
            return fields["y_count"] * -(-fields["run"] * FILL_UNIT // config.columns)
        if fields["opcode"] != Opcode.ARRAY:
            return 0
        tiles = -(-fields["x_count"] * fields["y_count"] // config.rows)
        groups = -(-fields["channels"] // config.columns)
        # A run without taps takes a visit.
        return groups * tiles * max(window_taps(fields), fields["outer_count"] * fields["inner_count"])

    def _until_refused(self, fields: dict[str, int], spare: int) -> dict[str, int]:
        """A layer or fill that takes more than ``spare`` cycles, cut off behind those; nothing if no write to
        where it may not is among what is left."""
        if spare < 0 or fields["opcode"] not in (Opcode.ARRAY, Opcode.FILL):
            return {}
        if fields["opcode"] == Opcode.FILL:
            lines = spare // self._least_cycles(fields | {"y_count": 1}) + 1
            cut = fields | {"y_count": min(fields["y_count"], lines)}
            written = self._lines(cut)
        else:
            rows, columns = self.config.rows, self.config.columns
            # Outputs are written behind their tile, each of which takes this long.
            tiles = spare // self._least_cycles(fields | {"x_count": 1, "y_count": 1, "channels": 1})
            if tiles == 0:
                return {}
            count = min(fields["x_count"] * fields["y_count"], tiles * rows)
            x_count = min(fields["x_count"], count)
            groups = tiles // -(-count // rows) + 1
            cut = fields | {
                "x_count": x_count,
                "y_count": -(-count // x_count),
                "channels": min(fields["channels"], groups * columns),
            }
            channels, outputs = np.arange(cut["channels"]), positions(cut, "output")
            written = (self._places(outputs, channels[g : g + columns]) for g in channels[::columns])
        return cut if any(self._is_refused(addresses) for addresses in written) else {}

    def _is_refused(self, addresses: Int64Array) -> bool:
        """Whether layers may not write to one of these addresses."""
        return bool((self._wrap(addresses) >= self._bound).any())

    def _check_writes(self, addresses: Int64Array) -> None:
        """Raise what ends an inference whose layers are to write where they may not."""
        if self._is_refused(addresses):
            raise DeviceError(
                f"a layer writes from byte {self._bound} on, which belongs to programs",
                ErrorCode.BAD_DESCRIPTOR,
            )

    def _lines(self, fields: dict[str, int]) -> Iterator[Int64Array]:
        """The addresses of each line of a FILL."""
        base, step, run = (fields[name] * FILL_UNIT for name in ("output_base", "output_step", "run"))
        for line in range(fields["y_count"]):
            yield base + line * (run + step) + np.arange(run)

    def _fill(self, fields: dict[str, int]) -> None:
        for line in self._lines(fields):
            self._check_writes(line)
            self.memory[self._wrap(line)] = fields["zero_point"] & 0xFF

    def _run_layer(self, fields: dict[str, int], reader: Reader, residual: dict[str, int] | None) -> None:
        config, depth, channels = self.config, window_taps(fields), fields["channels"]
        taken = rows_taken(fields, depth)
        count = fields["x_count"] * fields["y_count"]
        groups = -(-channels // config.columns)
        # Passes over positions that take their own weights: one, or one a tile.
        passes = [slice(0, count)]
        if fields["stream_weights"]:
            passes = [slice(p, min(p + config.rows, count)) for p in range(0, count, config.rows)]
        self._check_depth(fields, taken)
        weights = np.empty((groups, len(passes), depth, config.columns), np.int8)
        packed = np.zeros((groups, config.columns, STORED_CONSTANTS.bits // 8), np.uint8)
        windows, outputs = positions(fields, "input"), positions(fields, "output")
        for group in range(groups):
            ready = 0
            try:
                packed[group] = self._records(reader)
                for index, span in enumerate(passes):
                    weights[group, index] = reader.weights(taken) | fields["unit_weights"]
                    ready = span.stop
            except ProgramEnd:
                # What comes before the end is written.
                first = group * config.columns
                self._check_writes(self._places(outputs, np.arange(first)))
                self._check_writes(
                    self._places(outputs[:ready], np.arange(first, channels)[: config.columns])
                )
                raise
        constants = _constants(packed.reshape(-1, packed.shape[-1])[:channels])
        for index, span in enumerate(passes):
            for part in _chunks(span, depth * config.columns):
                accumulators = self._accumulate(fields, windows[part], weights[:, index])
                self._finish(fields, accumulators[:, :channels], constants, outputs[part], residual)

    def _run_uneven_layer(
        self,
        fields: dict[str, int],
        reader: Reader,
        residual: dict[str, int] | None,
        feeders: Feeders,
        limit: int,
    ) -> None:
        """A layer whose tiles may have different numbers of taps."""
        rows, columns, channels = self.config.rows, self.config.columns, fields["channels"]
        outputs = positions(fields, "output")
        tiles = feeders.tiles(fields, self.memory, limit)
        taps = "trc,tc->rc" if fields["word_mode"] else "tr,tc->rc"
        for first_channel in range(0, channels, columns):
            constants = _constants(self._records(reader)[: channels - first_channel])
            weights = np.zeros((0, columns), np.int8)
            for first in range(0, len(outputs), rows):
                activations = next(tiles)
                depth = len(activations)
                taken = rows_taken(fields, depth)
                self._check_depth(fields, taken)
                weights = np.concatenate([weights, reader.weights(max(taken - len(weights), 0))])
                factors = np.broadcast_to(weights[:taken] | fields["unit_weights"], (depth, columns))
                sums = np.einsum(taps, activations ^ INPUT_OFFSET, factors, dtype=np.int64)
                accumulators = _wrapped(sums, self.config.accumulator_bits)[:, : len(constants["bias"])]
                part = outputs[first : first + rows]
                self._finish(fields, accumulators[: len(part)], constants, part + first_channel, residual)
                if fields["stream_weights"] or first + rows >= len(outputs):
                    # The next group begins where this tile has ended, even if an earlier one went further.
                    reader.give_back(weights[taken:])
                    weights = weights[:0]
        # What the fetcher still asks for is left over for the next layer.
        with suppress(Starved):
            next(tiles)

    def _check_depth(self, fields: dict[str, int], rows: int) -> None:
        """Whether the column buffers hold what they have to."""
        if rows > self.config.column_buffer_depth and not fields["stream_weights"]:
            raise Starved("a filter is deeper than the column buffer")

    def _records(self, reader: Reader) -> npt.NDArray[np.uint8]:
        """The `STORED_CONSTANTS` of a column group, (columns, 8)."""
        packed = np.zeros((self.config.columns, STORED_CONSTANTS.bits // 8), np.uint8)
        rows = reader.records().view(np.uint8).reshape(-1, packed.shape[1])
        packed[: len(rows)] = rows
        return packed

    def _finish(
        self,
        fields: dict[str, int],
        accumulators: Int64Array,
        constants: dict[str, Int64Array],
        outputs: Int64Array,
        residual: dict[str, int] | None,
    ) -> None:
        """From sums (positions, channels) to bytes at ``outputs`` (positions,)."""
        y = requantise(
            _wrapped(accumulators + constants["bias"], self.config.accumulator_bits + 1),
            0,
            constants["multiplier"],
            constants["shift"],
            single_rounding=bool(fields["single_rounding"]),
        )
        y += fields["zero_point"]
        minimum, maximum = fields["minimum"], fields["maximum"]
        y = np.where(y > maximum, maximum, np.where(y < minimum, minimum, y))
        places = self._places(outputs, np.arange(y.shape[1]))
        if residual is not None:
            columns = self.config.columns
            operands = (places // columns + residual["offset"] // columns) * columns + places % columns
            y = add_residual(y, self.memory.view(np.int8)[self._wrap(operands)], residual)
        self._check_writes(places)
        self.memory[self._wrap(places)] = y.astype(np.int8).view(np.uint8)

    def _places(self, outputs: Int64Array, channels: Int64Array) -> Int64Array:
        """Addresses of outputs, (positions, channels): batches of Q go to multiples of Q bytes."""
        lanes = self.config.requantisers
        batches = outputs[:, np.newaxis] + channels // lanes * lanes
        return batches // lanes * lanes + channels % lanes

    def _accumulate(self, fields: dict[str, int], windows: Int64Array, weights: Int8Array) -> Int64Array:
        """Sums of products, (positions, channels): windows (positions,), weights (groups, taps, columns).

        An int8 number plus `INPUT_OFFSET` is its byte with the other highest bit.
        """
        columns = self.config.columns
        groups = len(weights)
        offsets = runs(fields)
        if fields["word_mode"]:
            visited = windows[:, np.newaxis] + offsets
            bytes_ = self._wrap(visited[..., np.newaxis] + np.arange(columns))
            sums = [
                np.einsum(
                    "ptc,tc->pc",
                    self.memory[self._wrap(bytes_ + group * columns)] ^ INPUT_OFFSET,
                    weights[group],
                    dtype=np.int64,
                )
                for group in range(groups)
            ]
            total = np.concatenate(sums, axis=1)
        else:
            visited = windows[:, np.newaxis] + (offsets[:, np.newaxis] + np.arange(fields["run"])).ravel()
            activations = (self.memory[self._wrap(visited)] ^ INPUT_OFFSET).astype(np.float64)
            # Sums of such products are exact in double precision.
            by_tap = weights.transpose(1, 0, 2).reshape(-1, groups * columns)
            total = (activations @ by_tap.astype(np.float64)).astype(np.int64)
        return _wrapped(total, self.config.accumulator_bits)


def _timeout(limit: int, why: str = "") -> DeviceError:
    return DeviceError(
        f"the inference takes more than its limit of {limit} cycles{f' ({why})' if why else ''}: raise the"
        " limit, or compile the image again",
        ErrorCode.TIMEOUT,
    )


def _wrapped(values: Int64Array, bits: int) -> Int64Array:
    """Values as registers of so many bits hold them."""
    half = 1 << bits - 1
    return ((values + half) & (2 * half - 1)) - half


def _chunks(span: slice, bytes_each: int) -> Iterator[slice]:
    """``span`` cut so that gathering stays within bounded memory."""
    step = max(1, CHUNK // bytes_each)
    for start in range(span.start, span.stop, step):
        yield slice(start, min(start + step, span.stop))


def _constants(packed: npt.NDArray[np.uint8]) -> dict[str, Int64Array]:
    """The constants of channels, from `STORED_CONSTANTS` (channels, 8)."""
    stored = _unpack_all(STORED_CONSTANTS, packed)
    middle = stored["bias_middle"] ^ (255 * (stored["bias_low"] >> 15))
    inverted = (middle >> 7) ^ (stored["shift"] >> 5)
    bias = ((stored["bias_high"] ^ (3 * inverted)) << 24) | (middle << 16) | stored["bias_low"]
    highest = 1 ^ (stored["sign"] & 1) ^ (stored["fraction"] < 0)
    shift = (stored["shift"] + SHIFT_BASE) % 64
    low = np.packbits(np.unpackbits(packed[:, :1], axis=1), axis=1, bitorder="little")[:, 0]
    return {
        "bias": bias - ((bias >> 25) << 26),
        "multiplier": (highest << 30) + ((stored["fraction"] + (1 << 21)) << 8) + low,
        "shift": np.where(shift < SHIFTS[0], SHIFTS[0] + shift % 8, shift),
    }


def _unpack_all(record: Record, packed: npt.NDArray[np.uint8]) -> dict[str, Int64Array]:
    """`Record.unpack` of many records of 8 bytes: (count, 8) to the fields' values (count,)."""
    words = np.ascontiguousarray(packed).view("<u8").ravel()
    values, position = {}, 0
    for field, width in record.widths.items():
        # Up to the top of the word and down again: that extends the sign where there is one.
        raised = words << np.uint64(64 - position - width)
        signed = raised.view(np.int64) if field in record.signed else raised
        values[field] = (signed >> (64 - width)).astype(np.int64)
        position += width
    return values
