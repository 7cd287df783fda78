"""What the device executes: layer descriptors, channel constants and weight programs.

This module is the only home of these bit layouts; the compiler, the machine model, the disassembler
and the gateware all derive from it. `docs/machine.md` explains how the fields are used.

Conventions: bits are numbered from the least significant; a record's first field is lowest; bytes in
memory are little-endian. Addresses are byte addresses of `ADDRESS_BITS` bits, and address arithmetic
wraps modulo ``2**ADDRESS_BITS``, so that negative steps are stored as their residue. Fields named
``*_step`` and ``*_wrap`` are such residues.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "ADDRESS_BITS",
    "CONSTANTS",
    "COUNTS",
    "DESCRIPTOR",
    "FILL",
    "FILL_BITS",
    "FILL_UNIT",
    "HISTORY_ROWS",
    "INPUT_OFFSET",
    "INSTRUCTION",
    "NEW_BITS",
    "NO_PREDICTION",
    "P0",
    "RECORDS",
    "RECORD_HEADS",
    "RECORD_WORDS",
    "RESIDUAL",
    "RESIDUAL_FRACTION",
    "SCALE_OFFSET",
    "SEEK_WORDS",
    "SHIFTS",
    "SHIFT_BASE",
    "STORED_CONSTANTS",
    "UNIT",
    "WINDOW_BITS",
    "WITHOUT_ARGUMENT",
    "WORD_GRAIN",
    "WRAP",
    "ErrorCode",
    "Opcode",
    "Record",
    "counted",
    "counts_nothing",
    "load_descriptor",
    "rows_taken",
    "store_constants",
    "store_descriptor",
    "store_descriptors",
    "window_taps",
    "wrap_fields",
    "wrap_of",
]

ADDRESS_BITS = 20

INPUT_OFFSET = 128
"""The array multiplies activations plus this, numbers from 0 to 255: with the zero point of what follows a
RELU, -128, biases are the network's own, small ones, as nothing has to be folded into them."""

WORD_GRAIN = 8
"""Activations are read as C bytes from any multiple of so many bytes on, not as stored words alone."""


@dataclass(frozen=True)
class Record:
    """A fixed bit layout.

    Parameters
    ----------
    name : str
        What the record is called in error messages.
    layout : mapping of str to int
        Name and width in bits of each field, lowest first. Names that end in ``!`` are signed.
    """

    name: str
    layout: Mapping[str, int]

    @property
    def widths(self) -> dict[str, int]:
        """Width of each field, lowest field first."""
        return {key.rstrip("!"): width for key, width in self.layout.items()}

    @property
    def signed(self) -> frozenset[str]:
        """Names of the fields that hold two's complement numbers."""
        return frozenset(key.rstrip("!") for key in self.layout if key.endswith("!"))

    @property
    def bits(self) -> int:
        return sum(self.layout.values())

    def pack(self, **values: int) -> int:
        """The record as one integer; fields not given are 0. Raises `ValueError` if one does not fit."""
        signed, word, position = self.signed, 0, 0
        unknown = values.keys() - self.widths.keys()
        if unknown:
            raise ValueError(f"{self.name} has no field {', '.join(sorted(unknown))}")
        for field, width in self.widths.items():
            value = int(values.get(field, 0))
            low, high = (-(1 << width - 1), 1 << width - 1) if field in signed else (0, 1 << width)
            if not low <= value < high:
                raise ValueError(f"{self.name} field {field} must be in [{low}, {high}), not {value}")
            word |= (value & (1 << width) - 1) << position
            position += width
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """The fields of a packed record."""
        signed, values = self.signed, {}
        for field, width in self.widths.items():
            value = word & (1 << width) - 1
            values[field] = value - (1 << width) if field in signed and value >> width - 1 else value
            word >>= width
        return values

    def size(self, alignment: int) -> int:
        """Bytes a stored record takes when each starts on a multiple of ``alignment`` bytes."""
        return -(-self.bits // (8 * alignment)) * alignment


class Opcode(IntEnum):
    """What a descriptor asks the sequencer to do."""

    END = 0
    """The inference is complete."""
    ARRAY = 1
    """Run one layer through the array: convolution, depthwise convolution, dense, average pooling."""
    FILL = 2
    """Write the byte ``zero_point`` to ``y_count`` lines of ``run`` units from ``output_base``, with
    ``output_step`` units between the end of a line and the start of the next, all of them in units of
    `FILL_UNIT` bytes. Runs beside the ARRAY descriptor before it, the next of which waits for both; with one
    scratchpad port it runs alone."""
    RESIDUAL = 3
    """Add a tensor to the outputs of the next ARRAY descriptor (`RESIDUAL`)."""


class ErrorCode(IntEnum):
    """Why the device stopped; latched until the next run or reset."""

    NONE = 0
    BAD_DESCRIPTOR = 1
    """The sequencer met an unknown opcode, or a layer was to write beyond where it may."""
    BAD_PROGRAM = 2
    """A weight program held an unknown instruction."""
    TIMEOUT = 3
    """The inference exceeded the cycle limit given with the run command."""


DESCRIPTOR = Record(
    "descriptor",
    {
        "opcode": 3,
        # Units of `UNIT` bytes that are not stored, as those of the ARRAY descriptor before serve again; only
        # where a scratchpad word is one unit.
        "keeps_window": 1,
        "keeps_image": 1,
        # Activations are taken a word at a time, column c using byte c (depthwise, pooling); otherwise a
        # byte at a time, broadcast along the row. The addresses and steps of the input are then multiples of
        # WORD_GRAIN.
        "word_mode": 1,
        # Each weight row is used for one tile only and freed as it is used, so that filters may be
        # deeper than the column buffer.
        "stream_weights": 1,
        # The window is a single run: its loops, `outer_count` to `inner_step`, are not looked at.
        "single_run": 1,
        # First byte of the window of the first position, channel 0; of the first output.
        "input_base": ADDRESS_BITS,
        "output_base": ADDRESS_BITS,
        # Output channels; column group g covers channels g*columns ... and, in word mode, reads its
        # input words g*columns bytes further on.
        "channels": 12,
        # Taps of a window, outermost loop first: outer_count times inner_count runs of `run` contiguous
        # bytes (byte mode) or one word (word mode, run = columns). From the start of one to that of the next
        # it is inner_step, from the last of the inner loop to the first of the next outer_wrap.
        "run": 14,
        # Output positions in raster order: x_count along a line, y_count lines. Stepping to the next
        # position adds *_step; stepping from the end of a line to the start of the next adds *_wrap, whose
        # multiple of `WRAP` is in the image's unit.
        "input_step!": 12,
        "input_wrap!": 15,
        "output_step!": 12,
        "output_wrap!": 15,
        # The window's unit.
        "outer_count": 10,
        "outer_wrap": ADDRESS_BITS,
        "inner_count": 10,
        # From one position to the next, which is never back.
        "inner_step": 14,
        "spare": 10,
        # The image's unit.
        "x_count": 12,
        "y_count": 12,
        "zero_point!": 8,
        "minimum!": 8,
        "maximum!": 8,
        # The lowest bit of every weight is set, and unless weights are streamed one row serves all taps of a
        # column group: of zeros, it makes all weights 1 (average pooling).
        "unit_weights": 1,
        # Requantise with one rounding (dense layers, pooling) instead of TFLite's two (convolutions).
        "single_rounding": 1,
        # Only where the scratchpad has two ports: lines may be so far apart that wraps have more bits, and
        # the layer may begin when the last tile of the one before is still on its way to memory, as its own
        # first tile is full and reads nothing of that.
        "input_wrap_high!": 5,
        "output_wrap_high!": 5,
        "overlaps": 1,
    },
)
"""One layer, in units of `UNIT` bytes: two of its own, the window's and the image's. Stored at whole
scratchpad words, in order of execution; `RECORDS` are the other kinds of descriptors, which take no more
words than they need."""

WRAP = 1 << DESCRIPTOR.widths["input_wrap"]
"""What wraps are counted in by the fields for their higher bits."""


def wrap_fields(prefix: str, wrap: int) -> dict[str, int]:
    """The fields of an ARRAY descriptor for a wrap of the ``input`` or ``output``."""
    low = (wrap + WRAP // 2) % WRAP - WRAP // 2
    return {f"{prefix}_wrap": low, f"{prefix}_wrap_high": (wrap - low) // WRAP}


def wrap_of(fields: Mapping[str, int], prefix: str) -> int:
    """The wrap that `wrap_fields` made fields of."""
    return fields[f"{prefix}_wrap"] + WRAP * fields.get(f"{prefix}_wrap_high", 0)


UNIT = 8
"""Bytes that an ARRAY descriptor keeps or not."""

_KEPT = {"keeps_window": 2, "keeps_image": 3}
"""The units that are kept if these fields say so."""


FILL_UNIT = 8
"""Bytes that FILL counts in, whatever the word."""

FILL_BITS = ADDRESS_BITS - FILL_UNIT.bit_length() + 1
"""Bits of an address in these units."""

FILL = Record(
    "fill",
    {
        "opcode": 3,
        "y_count": 8,
        "run": 11,
        "output_base": FILL_BITS,
        "output_step": FILL_BITS,
        "zero_point!": 8,
    },
)
"""The lines of a border."""

RESIDUAL = Record(
    "residual",
    {
        "opcode": 3,
        # Keep the larger of the sum and the tensor's byte (max pooling, a tap at a time).
        "largest": 1,
        # The tensor's byte lies so far from the output byte it belongs to; a multiple of the word.
        "offset": ADDRESS_BITS,
        "output_zero_point!": 8,
        "operand_zero_point!": 8,
        "zero_point!": 8,
        "minimum!": 8,
        "maximum!": 8,
        # These move in their register: they lie beside the fields of DESCRIPTOR that do.
        "output_scale": 28,
        "operand_scale": 28,
    },
)
"""A residual addition, in the place of a descriptor: each output ``y`` of the next layer becomes

    clamp(zero_point + ((y' * (output_scale - SCALE_OFFSET) + x' * (operand_scale - SCALE_OFFSET)
          + 2**(RESIDUAL_FRACTION - 1)) >> RESIDUAL_FRACTION), minimum, maximum)

where ``y' = y - output_zero_point`` and ``x' = x - operand_zero_point``, ``x`` being the operand's byte. With
``largest``, ``x'`` is the minimum instead. Both scales must be less than 8.0."""

SCALE_OFFSET = 0x5555555
"""Makes the pairs of bits of a scale stand for the digits -1, 0, 1, 2, which are cheap to multiply with."""

RESIDUAL_FRACTION = 24

RECORDS = {
    Opcode.END: Record("end", {"opcode": 3}),
    Opcode.ARRAY: DESCRIPTOR,
    Opcode.FILL: FILL,
    Opcode.RESIDUAL: RESIDUAL,
}
"""How each kind of descriptor is stored; none is longer than `DESCRIPTOR`."""


def _units(word: int) -> list[int]:
    return [word >> 8 * UNIT * k & (1 << 8 * UNIT) - 1 for k in range(4)]


def store_descriptor(fields: Mapping[str, int], columns: int) -> bytes:
    """A descriptor as it is stored, in whole scratchpad words, without the units that it says it keeps.

    Raises `ValueError` as `Record.pack` does.
    """
    record = RECORDS[Opcode(fields["opcode"])]
    stored = record.pack(**fields).to_bytes(record.size(columns), "little")
    if record is not DESCRIPTOR or columns != UNIT:
        return stored
    kept = [k for name, k in _KEPT.items() if fields.get(name, 0)]
    return b"".join(stored[UNIT * k :][:UNIT] for k in range(4) if k not in kept)


def store_descriptors(descriptors: Iterable[Mapping[str, int]], columns: int) -> bytes:
    """Descriptors as they are stored one after the other; those of ARRAY keep what they can.

    Raises as `store_descriptor` does.
    """
    stored, before = b"", _units(0)
    for fields in descriptors:
        if fields["opcode"] == Opcode.ARRAY:
            single = int(fields["outer_count"] == fields["inner_count"] == 1)
            fields = {**fields, **dict.fromkeys(_KEPT, 0), "single_run": single}
            units = _units(DESCRIPTOR.pack(**fields))
            for name, k in _KEPT.items():
                free = single and name == "keeps_window"
                fields[name] = int(columns == UNIT and (free or units[k] == before[k]))
                before[k] = before[k] if fields[name] else units[k]
        stored += store_descriptor(fields, columns)
    return stored


def load_descriptor(data: bytes, columns: int, before: int = 0) -> tuple[dict[str, int], int, int]:
    """The fields of the descriptor that ``data`` begins with, the bytes that it takes, and what is ``before``
    for the next: the ARRAY descriptor whose units it may keep. That of an earlier inference serves the first.

    What has no opcode of `Opcode` is taken for an ARRAY descriptor that keeps nothing.
    """
    word = int.from_bytes(data[: DESCRIPTOR.size(columns)], "little")
    fields = DESCRIPTOR.unpack(word)
    if fields["opcode"] != Opcode.ARRAY:
        record = RECORDS[Opcode(fields["opcode"])] if fields["opcode"] in RECORDS else DESCRIPTOR
        return record.unpack(word), record.size(columns), before
    size = DESCRIPTOR.size(columns)
    if columns == UNIT:
        units, kept = _units(word), _units(before)
        rest = iter(units[2:])
        for name, k in _KEPT.items():
            units[k] = kept[k] if fields[name] else next(rest)
            size -= UNIT * fields[name]
        word = sum(unit << 8 * UNIT * k for k, unit in enumerate(units))
        fields = DESCRIPTOR.unpack(word)
    if fields["single_run"]:
        fields |= {"outer_count": 1, "outer_wrap": 0, "inner_count": 1, "inner_step": 0}
    return fields, size, word


COUNTS = {
    Opcode.END: (),
    Opcode.ARRAY: ("x_count", "y_count", "outer_count", "inner_count", "run", "channels"),
    Opcode.FILL: ("y_count", "run"),
    Opcode.RESIDUAL: (),
}
"""Fields of each kind of descriptor that are never 0 in an image; `counted` says what becomes of one."""


def counts_nothing(fields: Mapping[str, int]) -> bool:
    """Whether a descriptor with these ``fields`` and a known opcode has such a field."""
    return any(fields[name] == 0 for name in COUNTS[Opcode(fields["opcode"])])


def counted(fields: Mapping[str, int], columns: int) -> dict[str, int]:
    """The ``fields`` of a descriptor with the counts that the device comes to.

    Its counters end where they are equal to the field, so that a 0 is one more than the largest number. It
    has a group of channels if there are none, and what a run of no bytes gives depends on where it begins
    (`kolmogate.feeders`): that one stays as it is.
    """
    opcode = Opcode(fields["opcode"])
    result = dict(fields)
    for name in COUNTS[opcode]:
        if result[name] == 0 and (opcode, name) != (Opcode.ARRAY, "run"):
            result[name] = columns if name == "channels" else 1 << RECORDS[opcode].widths[name]
    return result


def window_taps(fields: Mapping[str, int]) -> int:
    """Taps of a window of an ARRAY descriptor with these ``fields``: weights that a column needs for it."""
    return fields["outer_count"] * fields["inner_count"] * (1 if fields["word_mode"] else fields["run"])


def rows_taken(fields: Mapping[str, int], taps: int) -> int:
    """Rows of weights that a column group of an ARRAY descriptor takes for a tile of so many taps."""
    return 1 if fields["unit_weights"] and not fields["stream_weights"] else taps


CONSTANTS = Record("constants", {"bias!": 26, "multiplier": 31, "shift": 6})
"""Requantisation of one output channel: with ``a = accumulator + bias``, of one bit more than an accumulator,
which is the sum of weights times activations plus `INPUT_OFFSET`,

    y = clamp(zero_point + ((a * multiplier + 2**(shift-1) + nudge) >> shift), minimum, maximum)

where ``nudge`` is ``+2**30`` for ``a >= 0`` and ``-2**30`` otherwise if the layer rounds twice and
``shift >= 32``, else 0; ``shift`` is in `SHIFTS` and ``>>`` rounds towards minus infinity."""

STORED_CONSTANTS = Record(
    "stored constants",
    {"low": 8, "fraction!": 22, "sign": 2, "bias_low": 16, "bias_middle": 8, "shift": 6, "bias_high": 2},
)
"""`CONSTANTS` as a program makes them, 8 bytes a channel that are small numbers where they can be, for that
is what the entropy coder finds cheap. ``low`` are the lowest 8 bits of the multiplier in reverse, so that
trailing zeros make it small; ``fraction`` those above but the highest, less ``1 << 21``, which is to say
with the upper one inverted; ``sign`` repeats its sign where the multiplier's highest bit is 1, as it mostly
is, and the opposite where it is 0. ``bias_middle`` are bits 16 to 23 of the bias, inverted each where bit 15
is 1. ``shift`` is less by `SHIFT_BASE`, ``bias_high`` are bits 24 and 25 of the bias, inverted each where bit
23, or the sign of the stored shift, is 1 and the other is not."""

SHIFT_BASE = 38
RECORD_HEADS = 4
"""The last of as many bytes are the multiplier's highest bits, and the shift: where channels are in the order
of their scales, these are like the record's before."""


def store_constants(bias: int, multiplier: int, shift: int) -> int:
    """Pack `STORED_CONSTANTS`."""
    CONSTANTS.pack(bias=bias, multiplier=multiplier, shift=shift)
    fraction, stored_shift = (multiplier >> 8) % (1 << 22) - (1 << 21), (shift - SHIFT_BASE) % 64
    inverted = (bias >> 23 & 1) ^ (stored_shift >> 5)
    return STORED_CONSTANTS.pack(
        low=int(f"{multiplier & 255:08b}"[::-1], 2),
        fraction=fraction,
        sign=3 if (fraction < 0) == (multiplier >> 30) else 0,
        bias_low=bias & (1 << 16) - 1,
        bias_middle=(bias >> 16 & 255) ^ (255 * (bias >> 15 & 1)),
        shift=stored_shift,
        bias_high=(bias >> 24 & 3) ^ (3 * inverted),
    )


SHIFTS = range(24, 59)
"""Shifts that the requantisers take. Smaller ones belong to scales of 128 and more, where next to every
output is clamped; larger ones leave nothing, as ``|a * multiplier|`` is less than ``2**57``. The device takes
the formula for any: a smaller shift is to it ``24 + shift % 8``."""


class P0(IntEnum):
    """Operations of the weight programs. All lanes run in lockstep; a *row* is one byte a lane."""

    GENERATE = 0
    """``n`` rows computed from ``argument`` new bits a weight, one of `NEW_BITS`: each weight is a hash of a
    window, the next `WINDOW_BITS` of the lane's literals, the first of them highest, and ``argument`` of them
    are passed. Without new bits the windows change by themselves (`kolmogate.programs.generate`). What the
    last window saw and did not pass comes next in the literals: another GENERATE goes on with it, SKIP passes
    it."""
    LITERAL = 1
    """``n`` rows of ``argument + 1``-bit two's complement numbers, read from the literal stream, the sign
    first and then from the least significant bit up."""
    SEEK = 2
    """Literals go on at word ``SEEK_WORDS * (count + 1024 * argument)`` behind the first, with its lowest
    bits: in a loop, a filter deeper than the column buffer is made again for each tile. No rows."""
    CODED = 3
    """``n`` rows from the entropy engine, which makes ``argument + 1`` eighths of the columns; the others
    are zeros."""
    RECORDS = 4
    """``n`` rows that hold the `STORED_CONSTANTS` of a column group, C/8 channels a row, at most 8. By
    ``argument``: 0 literals of 8 bits, 1 from the entropy engine without prediction, 2 from the entropy
    engine as differences to the row above."""
    PREDICT = 5
    """From here on the entropy engine adds to each number ``1 / 2**shift`` of an earlier one of the same
    instruction, none if ``shift`` is `NO_PREDICTION`: of the same column ``count`` rows back, of the column
    to the left if ``count`` is 0. ``argument`` is ``2 * shift`` plus which of two such terms is set. No
    rows."""
    LOOP = 6
    """Run the ``argument + 1`` instructions before this one ``n`` times more. One loop at a time."""
    END = 7
    """End of the program."""
    SKIP = 8
    """``n`` bits of each lane's literals are passed. No rows."""
    ZERO = 9
    """``n`` rows of zeros."""


WITHOUT_ARGUMENT = {P0.SKIP: 6, P0.ZERO: 7}
"""Operations that take no argument and have no number of their own: they are stored as GENERATE with these
arguments."""

INSTRUCTION = Record("instruction", {"count": 10, "argument": 3, "op": 3})
"""An instruction, 16 bits: ``n = count + 1``.

A program is three streams. *Code*: instructions, packed into scratchpad words, first one lowest.
*Literals*: scratchpad words whose byte i belongs to lane i, which reads it from its lowest bit
up; bits left over by one instruction are the first of the next. *Coded*: the entropy engine's bits, bytes
from their most significant bit down, each byte one address below the one before.

Code starts at the word address given when an inference starts, literals at another, and the coded bytes
just below the literals. All run through all layers in order: column group by column group, its records
and then its weights, tap by tap. Columns beyond a layer's last channel have weights like any other (the
compiler stores zeros)."""

NEW_BITS = range(6)
"""New bits a row that GENERATE takes."""

WINDOW_BITS = 12
"""Bits that a generated weight depends on."""

SEEK_WORDS = 2
"""Words of literals that SEEK counts in, so that it reaches all of the largest scratchpad."""

NO_PREDICTION = 3

HISTORY_ROWS = 256
"""Rows of an instruction that the entropy engine remembers: PREDICT reaches less far back than this."""

RECORD_WORDS = 8
"""Rows that the records of a column group take at most."""
