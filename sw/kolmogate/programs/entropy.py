"""P1, the entropy code of weight programs: an adaptive binary range coder and its model of the numbers.

The model, which coder and decoder keep alike:

- A number is coded as its *residual*, the difference, modulo 256, from a prediction (`isa.P0.PREDICT`).
  Records that follow records, with nothing else coded in between, see those as the rows before theirs; the
  second term of their prediction counts for the bytes of `isa.RECORD_HEADS` only.
- Its magnitude u (``~r`` for a negative residual r) is expected to be like those before it in its column,
  whose running mean gives one of 8 classes, an octave each. The mean moves by 1/16 of the error, by a
  quarter for records. The class says how many low bits, k, are noise:
  they and the sign are stored plain. What remains, ``u >> k``, is coded: a quarter of it in unary, the rest
  in two binary decisions. In classes without noise the sign of a small number is coded too.
- In the lowest classes a decision comes first: whether r is 0. Where it is, that was all.
- Each decision has a context, by class and place, whose probability adapts ever slower: first by a quarter
  of the error, at last by 1/128. Records are few: theirs go on adapting by 1/32. Bytes of a record are
  unlike each other, so that its last one, the shift, has contexts of its own.

The coder keeps a 9-bit range and multiplies its upper 4 bits with a 10-bit probability. Plain bits are not
coded: they stand in the stream where the decoder comes by.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ..isa import HISTORY_ROWS, NO_PREDICTION, RECORD_HEADS

__all__ = ["CONTEXTS", "Coder", "Decoder", "Reference"]

Int8Array = npt.NDArray[np.int8]

CLASS_CONTEXTS = 64
KIND_CONTEXTS = 8 * CLASS_CONTEXTS
CONTEXTS = 2 * KIND_CONTEXTS
SIGNS, ZEROS, MEANS = 32, 36, 48
"""Addresses of contexts: first those of weights, then those of records. Within a class: unary decision i at
4 i, the two after h at 4 h + 1 and, with the first of them added, 4 h + 2; signs of small magnitudes at
SIGNS; whether a number is not 0 at ZEROS. Those of the last byte of a record have the bit SHIFT_CONTEXTS
inverted, where there is room as it is small. The engine keeps the running means of 8 columns a class at
MEANS."""
SHIFT_CONTEXTS = 8
ZERO_CLASSES = 2
"""Classes, the lowest, in which numbers may be just 0."""

PROBABILITY_BITS = 12
EVEN = 1 << PROBABILITY_BITS - 1
"""Contexts start here."""
LIMITS = (32, 4064)
"""What probabilities of a 1 tend to, after 0s and after 1s: they leave both outcomes a part of the range."""
FIRST_MEAN = 1 << PROBABILITY_BITS - 8
"""The running means of the columns' magnitudes, which have as many bits, 5 of them behind the point, start
here: they rise in a few numbers but fall slowly."""
FIRST_RATE = 2
LAST_RATES = (7, 5)
MEAN_RATES = (4, 2)
"""Of weights and of records."""
UNARY = 7
"""Unary decisions at most; after as many 1s the magnitude is stored plain, in 7 bits."""
RANGE_BITS = 9

# The registers of a coder: range, code or low end, bits read, bits decided, bits ordered, cycles taken.
_RANGE, _CODE, _PLACE, _DECIDED, _ORDER, _CYCLES, _REGISTERS = range(7)
_DECISION = 2
_NO_TIMES = np.zeros((0, 2), np.int64)


class Reference(NamedTuple):
    """What one of the two terms of a prediction is: ``distance`` rows back, 0 for the left neighbour."""

    distance: int = 0
    shift: int = NO_PREDICTION


class _Model:
    """The state that coder and decoder share."""

    def __init__(self, columns: int) -> None:
        self._contexts = np.full((CONTEXTS, 2), (EVEN, FIRST_RATE), np.int64)
        # Of weights and of records.
        self._means = np.full((2, columns), FIRST_MEAN, np.int64)
        # The last row, if it was of records: the row before the first of further records.
        self._last_record = np.zeros((0, columns), np.int8)
        self._registers = np.zeros(_REGISTERS, np.int64)
        self._registers[_RANGE] = (1 << RANGE_BITS) - 1

    def _run(
        self,
        rows: Int8Array,
        live: int,
        references: Sequence[Reference],
        records: bool,
        encode: bool,
        memory: npt.NDArray[np.uint8],
        order: npt.NDArray[np.uint8],
        times: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int64]:
        """Returns the cycle in which each row ends."""
        terms = np.array([(d % HISTORY_ROWS, s) for d, s in references], np.int64)
        contexts = self._contexts[records * KIND_CONTEXTS :]
        means, ends = self._means[int(records)], np.zeros(len(rows), np.int64)
        state, known = self._registers, len(self._last_record) if records else 0
        whole = np.concatenate([self._last_record[:known], rows])
        _code(whole, known, live, terms, records, contexts, means, state, encode, memory, order, times, ends)
        rows[:] = whole[known:]
        self._last_record = whole[-1:] if records else whole[:0]
        return ends

    @property
    def cycles(self) -> int:
        """Cycles that the engine takes for all instructions so far, if it need not wait."""
        return int(self._registers[_CYCLES])


class Coder(_Model):
    """Makes the coded stream of a program, instruction by instruction."""

    def __init__(self, columns: int) -> None:
        super().__init__(columns)
        # The decided bits, which a carry can still change, and in which order they and plain bits are read.
        self._decided = np.zeros(1 << 12, np.uint8)
        self._order = np.zeros(1 << 12, np.uint8)

    def copy(self) -> "Coder":
        """A coder in the same state, to try on."""
        other = Coder(self._means.shape[1])
        for name in ("_contexts", "_means", "_last_record", "_registers", "_decided", "_order"):
            setattr(other, name, getattr(self, name).copy())
        return other

    @property
    def bits(self) -> int:
        """Length of the stream so far."""
        return int(self._registers[_ORDER])

    def write(
        self, rows: Int8Array, live: int, references: Sequence[Reference], *, records: bool = False
    ) -> None:
        """One instruction: ``rows`` (n, columns), of which the first ``live`` columns are coded."""
        for name, used in (("_decided", _DECIDED), ("_order", _ORDER)):
            # A number takes at most 11 decisions of 8 bits and 8 plain bits.
            needed = int(self._registers[used]) + 96 * rows.size + 16
            if needed > len(getattr(self, name)):
                setattr(self, name, np.resize(getattr(self, name), 2 * needed))
        self._run(rows, live, references, records, True, self._decided, self._order, _NO_TIMES)

    def finish(self) -> bytes:
        """The whole stream, first byte first; empty if nothing was written."""
        registers = self._registers
        # A number that costs less than a bit has not shifted the range yet.
        if registers[_CYCLES] == 0:
            return b""
        # Two bits more name a number in the range, whatever follows.
        _encode_tail(registers, self._decided, self._order, _NO_TIMES)
        decided = self._decided[: registers[_DECIDED]]
        order = np.concatenate([np.full(RANGE_BITS, _DECISION, np.uint8), self._order[: registers[_ORDER]]])
        is_decision = order == _DECISION
        bits = order.copy()
        filled = np.zeros(int(is_decision.sum()), np.uint8)
        filled[: len(decided)] = decided[: len(filled)]
        bits[is_decision] = filled
        # What only fills up the decoder's register need not be stored.
        last = np.flatnonzero(~is_decision | (np.cumsum(is_decision) <= len(decided)))[-1]
        return np.packbits(bits[: last + 1]).tobytes()


class Decoder(_Model):
    """Reads a coded stream, instruction by instruction.

    ``memory`` is a whole scratchpad, ``base`` the address that the stream lies just below. It ends for any
    bits; addresses wrap.
    """

    def __init__(self, memory: npt.NDArray[np.uint8], base: int, columns: int) -> None:
        super().__init__(columns)
        self._memory = np.ascontiguousarray(np.roll(memory, -base)[::-1])
        self.row_ends: list[npt.NDArray[np.int64]] = []
        """The cycle in which each row ends, instruction by instruction, if the engine need not wait."""
        self._times = np.zeros((len(memory), 2), np.int64)
        _decode_head(self._registers, self._memory, self._times)

    @property
    def bits(self) -> int:
        """Bits read so far, without those that only wait in the decoder's register."""
        return self.bits_taken - RANGE_BITS

    @property
    def bits_taken(self) -> int:
        """Bits read so far."""
        return int(self._registers[_PLACE])

    @property
    def byte_times(self) -> npt.NDArray[np.int64]:
        """The cycles in which the first and the last bit of each byte so far were read, (bytes, 2).

        They count as `row_ends` do, so that those of the first 9 bits are 0; a byte of which bits are left
        has the last cycle -1.
        """
        return self._times[: -(-int(self._registers[_PLACE]) // 8)]

    def read(
        self, count: int, live: int, references: Sequence[Reference], *, records: bool = False
    ) -> Int8Array:
        """The rows of one instruction, (count, columns)."""
        rows = np.zeros((count, self._means.shape[1]), np.int8)
        ends = self._run(rows, live, references, records, False, self._memory, self._memory, self._times)
        self.row_ends.append(ends)
        return rows


@njit(cache=True)
def _next_bit(registers: Any, memory: Any, times: Any, cycle: int) -> int:
    place = registers[_PLACE] % (8 * len(memory))
    registers[_PLACE] += 1
    if place & 7 == 0:
        times[place >> 3, 0] = cycle
        times[place >> 3, 1] = -1
    elif place & 7 == 7:
        times[place >> 3, 1] = cycle
    return (memory[place >> 3] >> (7 - (place & 7))) & 1


@njit(cache=True)
def _decode_head(registers: Any, memory: Any, times: Any) -> None:
    for _ in range(RANGE_BITS):
        registers[_CODE] = registers[_CODE] << 1 | _next_bit(registers, memory, times, 0)


@njit(cache=True)
def _carry(registers: Any, decided: Any) -> None:
    if registers[_CODE] >> RANGE_BITS:
        registers[_CODE] -= 1 << RANGE_BITS
        place = registers[_DECIDED] - 1
        while decided[place]:
            decided[place] = 0
            place -= 1
        decided[place] = 1


@njit(cache=True)
def _shift_out(registers: Any, decided: Any) -> None:
    decided[registers[_DECIDED]] = registers[_CODE] >> (RANGE_BITS - 1)
    registers[_DECIDED] += 1
    registers[_CODE] = (registers[_CODE] << 1) & ((1 << RANGE_BITS) - 1)


@njit(cache=True)
def _encode_tail(registers: Any, decided: Any, order: Any, times: Any) -> None:
    _normalise(registers, True, decided, order, times)
    step = 1 << (RANGE_BITS - 2)
    registers[_CODE] = (registers[_CODE] + step - 1) & ~(step - 1)
    _carry(registers, decided)
    _shift_out(registers, decided)
    _shift_out(registers, decided)


@njit(cache=True)
def _normalise(registers: Any, encode: bool, memory: Any, order: Any, times: Any) -> int:
    """Shift the range up to its full width, a bit a cycle; returns by how much."""
    shifts = 0
    while registers[_RANGE] < 1 << (RANGE_BITS - 1):
        registers[_RANGE] <<= 1
        if encode:
            _shift_out(registers, memory)
            order[registers[_ORDER]] = _DECISION
            registers[_ORDER] += 1
        else:
            mask = (1 << RANGE_BITS) - 1
            bit = _next_bit(registers, memory, times, registers[_CYCLES] + shifts)
            registers[_CODE] = (registers[_CODE] << 1 & mask) | bit
        shifts += 1
    return shifts


@njit(cache=True)
def _decide(
    context: Any, last_rate: int, bit: int, registers: Any, encode: bool, memory: Any, order: Any, times: Any
) -> int:
    """Code or decode one decision and adapt its context."""
    shifts = _normalise(registers, encode, memory, order, times)
    registers[_CYCLES] += 2 + max(shifts, 1)
    size = registers[_RANGE]
    bound = ((context[0] >> 2) * (size >> 5)) >> 5
    if not encode:
        bit = 1 if registers[_CODE] < bound else 0
    if bit:
        size = bound
    else:
        registers[_CODE] += bound if encode else -bound
        size -= bound
        if encode:
            _carry(registers, memory)
    context[0] += ((LIMITS[1] if bit else LIMITS[0]) - context[0]) >> context[1]
    if context[1] < last_rate:
        context[1] += 1
    registers[_RANGE] = size
    return bit


@njit(cache=True)
def _plain(value: int, count: int, registers: Any, encode: bool, memory: Any, order: Any, times: Any) -> int:
    """``count`` bits of ``value``, most significant first."""
    if count:
        registers[_CYCLES] += _normalise(registers, encode, memory, order, times)
    for place in range(count - 1, -1, -1):
        if encode:
            order[registers[_ORDER]] = (value >> place) & 1
            registers[_ORDER] += 1
        else:
            bit = _next_bit(registers, memory, times, registers[_CYCLES])
            value = (value & ~(1 << place)) | bit << place
        registers[_CYCLES] += 1
    return value


@njit(cache=True)
def _code(
    rows: Any,
    known: int,
    live: int,
    terms: Any,
    records: bool,
    contexts: Any,
    means: Any,
    registers: Any,
    encode: bool,
    memory: Any,
    order: Any,
    times: Any,
    ends: Any,
) -> None:
    """Code or decode all ``rows`` but the first ``known``.

    When coding, ``memory`` takes decided bits, ``order`` what follows what.
    ``times`` takes the cycles in which bytes are read, ``ends`` those in which rows end.
    """
    last_rate, mean_rate = LAST_RATES[int(records)], MEAN_RATES[int(records)]
    for t in range(known, rows.shape[0]):
        registers[_CYCLES] += 1
        for c in range(live):
            prediction = 0
            for i in range(2):
                distance, shift = terms[i]
                counts = i == 0 or not records or c % RECORD_HEADS == RECORD_HEADS - 1
                if shift != NO_PREDICTION and counts:
                    if distance == 0:
                        if c:
                            prediction += rows[t, c - 1] >> shift
                    elif t >= distance:
                        prediction += rows[t - distance, c] >> shift
            registers[_CYCLES] += 2
            residual = ((rows[t, c] - prediction + 128) & 255) - 128 if encode else 0
            negative = 1 if residual < 0 else 0
            u = ~residual if negative else residual

            octave = 0
            while means[c] >> (octave + 5):
                octave += 1
            k = max(octave - 2, 0)
            base = octave * CLASS_CONTEXTS
            other = SHIFT_CONTEXTS if records and c & 7 == 7 else 0

            # Decisions are cheaper by a hair where 0 is the likely outcome, so that is asked.
            if octave < ZERO_CLASSES and not _decide(
                contexts[base + (ZEROS ^ other)],
                last_rate,
                1 if residual else 0,
                registers,
                encode,
                memory,
                order,
                times,
            ):
                u = negative = 0
                registers[_CYCLES] += 1
            else:
                q = u >> k
                limit = min(127 >> (k + 2), UNARY)
                h = 0
                while h < limit and _decide(
                    contexts[base + (4 * h ^ other)],
                    last_rate,
                    1 if q >> 2 > h else 0,
                    registers,
                    encode,
                    memory,
                    order,
                    times,
                ):
                    h += 1
                if h == UNARY:
                    u = _plain(u, 7, registers, encode, memory, order, times)
                    q = 4 * UNARY
                else:
                    place = base + (4 * h ^ other)
                    first = _decide(
                        contexts[place + 1], last_rate, q >> 1 & 1, registers, encode, memory, order, times
                    )
                    second = _decide(
                        contexts[place + 2 + first],
                        last_rate,
                        q & 1,
                        registers,
                        encode,
                        memory,
                        order,
                        times,
                    )
                    q = 4 * h + 2 * first + second
                    u = (q << k) | _plain(u & ((1 << k) - 1), k, registers, encode, memory, order, times)
                if k == 0 and q < 4:
                    negative = _decide(
                        contexts[base + (SIGNS ^ other) + q],
                        last_rate,
                        negative,
                        registers,
                        encode,
                        memory,
                        order,
                        times,
                    )
                    registers[_CYCLES] += 1
                else:
                    negative = _plain(negative, 1, registers, encode, memory, order, times)
            registers[_CYCLES] += 1
            means[c] += ((u << 5 | 16) - means[c]) >> mean_rate
            if not encode:
                residual = ~u if negative else u
                rows[t, c] = ((residual + prediction + 128) & 255) - 128
        registers[_CYCLES] += 2
        ends[t - known] = registers[_CYCLES]
