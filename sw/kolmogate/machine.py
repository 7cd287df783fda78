"""The machine model: executes what the device is given, byte for byte as the gateware does.

It sees the scratchpad alone: it decodes the weight program and walks the descriptors that lie there.
Whatever they hold, it ends: with the result or with the device's error.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .config import MachineConfig
from .errors import DeviceError, InputError, UsageError
from .isa import (
    ADDRESS_BITS,
    DESCRIPTOR,
    FILL_UNIT,
    SHIFT_BASE,
    SHIFTS,
    STORED_CONSTANTS,
    WORD_GRAIN,
    ErrorCode,
    Opcode,
    Record,
    counts_nothing,
    load_descriptor,
    window_taps,
)
from .machine_arithmetic import add_residual, requantise
from .network import Int8Array
from .programs.p0 import Program, ProgramEnd, code_words
from .programs.reader import Reader
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
        self, *, descriptors: int, code: int, literals: int, limit: int, program: Program | None = None
    ) -> None:
        """One inference from the byte addresses of the first descriptor and of the two program streams.

        A ``program`` is streamed, whole and in time; the rings are then not looked at.

        Raises `DeviceError` with the `ErrorCode` that the device would report; ``limit`` is
        held against a lower bound of the cycles. A count of 0 and a shift out of range count as
        BAD_DESCRIPTOR here; the device defines no outcome for them, nor for a layer that writes over what
        it or the program still reads.
        """
        # Addresses of words: the device does not look at the bits below.
        descriptors, code, literals = (
            address // self.config.columns * self.config.columns for address in (descriptors, code, literals)
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
        # The soonest that all so far is done, and the fill that may run beside it.
        cycles = filled = 0
        residual = None
        while True:
            data = self.memory[self._wrap(descriptors + np.arange(DESCRIPTOR.size(self.config.columns)))]
            fields, size = load_descriptor(data.tobytes(), self.config.columns)
            cycles += DESCRIPTOR_CYCLES
            if fields["opcode"] == Opcode.END:
                cycles = max(cycles, filled)
            elif fields["opcode"] == Opcode.FILL:
                cycles = max(cycles, filled)
                filled = cycles + self._least_cycles(fields)
                if self.config.scratchpad_ports == 1:
                    cycles = filled
            else:
                cycles += self._least_cycles(fields)
                if fields["opcode"] == Opcode.ARRAY:
                    cycles = max(cycles, filled)
            if cycles > limit:
                raise DeviceError(
                    f"the inference takes more than its limit of {limit} cycles: raise the limit, or"
                    " compile the image again",
                    ErrorCode.TIMEOUT,
                )
            if fields["opcode"] == Opcode.END:
                return
            if fields["opcode"] == Opcode.FILL:
                self._fill(fields)
            elif fields["opcode"] == Opcode.RESIDUAL:
                residual = fields
            else:
                self._run_layer(fields, reader, residual)
                residual = None
            descriptors += size

    def _wrap(self, addresses: Int64Array) -> Int64Array:
        """Byte addresses as the memory sees them."""
        return (addresses & (1 << ADDRESS_BITS) - 1) % len(self.memory)

    def _least_cycles(self, fields: dict[str, int]) -> int:
        """A lower bound of the cycles of a descriptor; raises `DeviceError` if it makes no sense."""
        config = self.config
        if fields["opcode"] == Opcode.FILL:
            cycles = fields["y_count"] * -(-fields["run"] // config.columns)
        elif fields["opcode"] == Opcode.ARRAY:
            tiles = -(-fields["x_count"] * fields["y_count"] // config.rows)
            groups = -(-fields["channels"] // config.columns)
            cycles = groups * tiles * window_taps(fields)
        elif fields["opcode"] == Opcode.RESIDUAL:
            cycles = 0
        else:
            raise DeviceError(f"there is no descriptor opcode {fields['opcode']}", ErrorCode.BAD_DESCRIPTOR)
        if counts_nothing(fields):
            raise DeviceError("a descriptor counts nothing", ErrorCode.BAD_DESCRIPTOR)
        return cycles

    def _fill(self, fields: dict[str, int]) -> None:
        base, step, run = (
            fields[name] // FILL_UNIT * FILL_UNIT for name in ("output_base", "output_step", "run")
        )
        for line in base + np.arange(fields["y_count"]) * (run + step):
            self.memory[self._wrap(line + np.arange(run))] = fields["zero_point"] & 0xFF

    def _run_layer(self, fields: dict[str, int], reader: Reader, residual: dict[str, int] | None) -> None:
        config, depth, channels = self.config, window_taps(fields), fields["channels"]
        positions = fields["x_count"] * fields["y_count"]
        groups = -(-channels // config.columns)
        # Passes over positions that take their own weights: one, or one a tile.
        passes = [slice(0, positions)]
        if fields["stream_weights"]:
            passes = [slice(p, min(p + config.rows, positions)) for p in range(0, positions, config.rows)]
        if depth > config.column_buffer_depth and not (fields["stream_weights"] or fields["unit_weights"]):
            raise DeviceError("a filter is deeper than the column buffer", ErrorCode.TIMEOUT)
        weights = np.ones((groups, len(passes), depth, config.columns), np.int8)
        packed = np.zeros((groups, config.columns, STORED_CONSTANTS.bits // 8), np.uint8)
        try:
            for group in range(groups):
                block = reader.records().view(np.uint8).reshape(-1, STORED_CONSTANTS.bits // 8)
                packed[group, : len(block)] = block
                if not fields["unit_weights"]:
                    weights[group] = reader.weights(weights[group].size // config.columns).reshape(
                        weights[group].shape
                    )
        except ProgramEnd as error:
            # The device would wait for more until its time is up.
            raise DeviceError(str(error), ErrorCode.TIMEOUT) from None
        except InputError as error:
            raise DeviceError(str(error), ErrorCode.BAD_PROGRAM) from None
        constants = _constants(packed.reshape(-1, packed.shape[-1])[:channels])
        if not np.isin(constants["shift"], SHIFTS).all():
            raise DeviceError("a channel's shift is out of range", ErrorCode.BAD_DESCRIPTOR)
        windows, outputs = _positions(fields, "input"), _positions(fields, "output")
        for index, span in enumerate(passes):
            for part in _chunks(span, depth * config.columns):
                accumulators = self._accumulate(fields, windows[part], weights[:, index])
                y = requantise(
                    _wrapped(accumulators[:, :channels] + constants["bias"], config.accumulator_bits + 1),
                    0,
                    constants["multiplier"],
                    constants["shift"],
                    single_rounding=bool(fields["single_rounding"]),
                )
                y = np.clip(y + fields["zero_point"], fields["minimum"], fields["maximum"])
                places = outputs[part, np.newaxis] + np.arange(channels)
                if residual is not None:
                    operands = self.memory.view(np.int8)[self._wrap(places + residual["offset"])]
                    y = add_residual(y, operands, residual)
                self.memory[self._wrap(places)] = y.astype(np.int8).view(np.uint8)

    def _accumulate(self, fields: dict[str, int], windows: Int64Array, weights: Int8Array) -> Int64Array:
        """Sums of products, (positions, channels): windows (positions,), weights (groups, taps, columns)."""
        columns = self.config.columns
        groups = len(weights)
        outer_step = fields["outer_wrap"] + (fields["inner_count"] - 1) * fields["inner_step"]
        outer = np.arange(fields["outer_count"]) * outer_step
        inner = np.arange(fields["inner_count"]) * fields["inner_step"]
        runs = (outer[:, np.newaxis] + inner).ravel()
        if fields["word_mode"]:
            visited = (windows[:, np.newaxis] + runs) // WORD_GRAIN * WORD_GRAIN
            bytes_ = self._wrap(visited[..., np.newaxis] + np.arange(columns))
            sums = [
                np.einsum(
                    "ptc,tc->pc",
                    self.memory.view(np.int8)[self._wrap(bytes_ + group * columns)],
                    weights[group],
                    dtype=np.int64,
                )
                for group in range(groups)
            ]
            total = np.concatenate(sums, axis=1)
        else:
            visited = windows[:, np.newaxis] + (runs[:, np.newaxis] + np.arange(fields["run"])).ravel()
            activations = self.memory.view(np.int8)[self._wrap(visited)].astype(np.float64)
            # Sums of int8 products are exact in double precision.
            by_tap = weights.transpose(1, 0, 2).reshape(-1, groups * columns)
            total = (activations @ by_tap.astype(np.float64)).astype(np.int64)
        return _wrapped(total, self.config.accumulator_bits)


def _wrapped(values: Int64Array, bits: int) -> Int64Array:
    """Values as registers of so many bits hold them."""
    half = 1 << bits - 1
    return ((values + half) & (2 * half - 1)) - half


def _positions(fields: dict[str, int], prefix: str) -> Int64Array:
    """Address of each output position, in raster order, in the input or the output."""
    step, wrap, x_count = fields[f"{prefix}_step"], fields[f"{prefix}_wrap"], fields["x_count"]
    y, x = np.divmod(np.arange(x_count * fields["y_count"]), x_count)
    return fields[f"{prefix}_base"] + x * step + y * ((x_count - 1) * step + wrap)


def _chunks(span: slice, bytes_each: int) -> Iterator[slice]:
    """``span`` cut so that gathering stays within bounded memory."""
    step = max(1, CHUNK // bytes_each)
    for start in range(span.start, span.stop, step):
        yield slice(start, min(start + step, span.stop))


def _constants(packed: npt.NDArray[np.uint8]) -> dict[str, Int64Array]:
    """The constants of channels, from `STORED_CONSTANTS` (channels, 8)."""
    stored = _unpack_all(STORED_CONSTANTS, packed)
    inverted = (stored["bias_low"] >> 23) ^ (stored["shift"] >> 5)
    bias = ((stored["bias_high"] ^ (3 * inverted)) << 24) | stored["bias_low"]
    highest = 1 ^ (stored["sign"] & 1) ^ (stored["fraction"] < 0)
    low = np.packbits(np.unpackbits(packed[:, :1], axis=1), axis=1, bitorder="little")[:, 0]
    return {
        "bias": bias - ((bias >> 25) << 26),
        "multiplier": (highest << 30) + ((stored["fraction"] + (1 << 21)) << 8) + low,
        "shift": (stored["shift"] + SHIFT_BASE) % 64,
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
