"""The search for programs: for each layer the candidates, and which to take.

A layer's program makes, column group by column group, the records of its constants and its weights. Both can
be literals, which cost bytes, or coded, which costs the entropy engine's time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, groupby, product

import numpy as np
import numpy.typing as npt

from ..isa import HISTORY_ROWS, INSTRUCTION, P0
from .computed import Computed
from .entropy import Coder, Reference
from .overlap import Pace, pace_table, waits
from .p0 import (
    EIGHTHS,
    MAXIMUM_ROWS,
    RECORD_REFERENCES,
    SEEK_REACH,
    Instruction,
    bits_needed,
    check_rows,
    coded,
    generate,
    literal,
    loop,
    predict,
    records,
    seek,
    skip,
    zero,
)

__all__ = [
    "MAXIMUM_TAPS",
    "Candidate",
    "Choice",
    "Material",
    "Writer",
    "candidates",
    "literal_program",
    "select",
]

Int8Array = npt.NDArray[np.int8]

NOTHING = (Reference(), Reference())
NEVER = 1e3
"""How many cycles one counts for in which a layer waits that must not."""
LONGEST_LOOP = 8
RECORD_PARTS = (0, 1 / 4, 1 / 2, 3 / 4, 1)
WEIGHT_PARTS = (0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""What is tried for `Choice`, weights in part where records are whole."""

MAXIMUM_TAPS = (LONGEST_LOOP - 1) * MAXIMUM_ROWS
"""Rows of weights that a loop can make again: with SEEK before them."""


@dataclass(frozen=True)
class Material:
    """What the program of one layer has to make.

    Parameters
    ----------
    channels : int
        Output channels; the weights of columns beyond the last are zeros.
    records : tuple of int8 arrays (rows, columns)
        Of each column group.
    weights : int8 array (groups, taps, columns)
        Unit weights are a single row of zeros in each group.
    distances : tuple of int
        How many taps back a weight may resemble this one: one step of the window along each axis.
    used_once : bool
        Each row serves one tile: the array waits for short instructions, as it takes longer to fetch the
        next one.
    replays : int
        How often the weights of a group are made, one after the other: filters deeper than the column buffer
        are made for each tile.
    computed : Computed or None
        How GENERATE makes the weights, if it can: then it does, instead of literals or the entropy engine.
    """

    channels: int
    records: tuple[Int8Array, ...]
    weights: Int8Array
    distances: tuple[int, ...] = ()
    used_once: bool = False
    replays: int = 1
    computed: Computed | None = None


@dataclass(frozen=True)
class Choice:
    """How the program of a layer is stored.

    Parameters
    ----------
    records, weights : float
        The part of them that is coded, which costs the entropy engine's time; the others are literals, which
        cost bytes. Records are coded in so many of the column groups, spread evenly; of weights, so many of
        the first rows of each group, for which there is room in the column buffer while the group before is
        computed. Weights that GENERATE makes are neither.
    references : pair of Reference or None
        The prediction of coded weights; None to search for it.
    """

    records: float = 0
    weights: float = 0
    references: tuple[Reference, Reference] | None = None


@dataclass(frozen=True)
class Candidate:
    """A choice for a layer, the bits that it takes, the cycles of the entropy engine, and in how many column
    groups they are."""

    choice: Choice
    bits: int
    engine_cycles: int
    engine_groups: int = 1


def candidates(material: Material, columns: int) -> list[Candidate]:
    """The choices for a layer, each tried as if the layer were alone, by their time: literals first.

    Left out is what takes more time than another and no fewer bits.
    """
    weights, groups = material.weights, len(material.records)
    record_parts, weight_parts = [0.0, 1.0], [0.0]
    if material.replays == 1 and material.computed is None:
        record_parts = _parts(RECORD_PARTS, groups)
        # The entropy engine cannot go back.
        weight_parts = _parts(WEIGHT_PARTS, weights.shape[1]) if weights.any() else [0.0]
    references, found = None, []
    # All of them first: their prediction is good for a part of them.
    for part in reversed(weight_parts):
        for of_records in record_parts:
            if part and of_records not in (0, 1):
                continue
            writer = Writer(columns)
            bits = sum(writer.layer(material, Choice(of_records, part, references)))
            if part == 1:
                references = writer.references
            choice = Choice(of_records, part, references if part else None)
            engine_groups = groups if part else round(of_records * groups)
            found.append(Candidate(choice, bits, writer.engine_cycles, engine_groups))
    found.sort(key=lambda one: (one.engine_cycles, one.bits))
    return [one for index, one in enumerate(found) if all(one.bits < other.bits for other in found[:index])]


def select(
    layers: Sequence[Sequence[Candidate]],
    paces: Sequence[Pace],
    allowance: int,
    never: Sequence[bool] | None = None,
) -> list[Candidate]:
    """The candidate of each layer whose bits together are least within an allowance of further cycles.

    Cycles are those of `overlap.waits`, further than where the engine has least to do; ``never`` tells of
    layers in which no tap may wait. A Lagrangian: the price of a cycle in bits falls until the allowance is
    used up; at each price layers change one at a time, until none gains. At last what else fits is taken.
    """
    weight = np.where(never, NEVER, 1.0) if never else np.ones(len(layers))
    table = pace_table(paces)

    def spent(chosen: Sequence[Candidate]) -> npt.NDArray[np.float64]:
        return waits(table, [(one.engine_cycles, one.engine_groups) for one in chosen])

    least = [min(layer, key=lambda one: one.engine_cycles) for layer in layers]
    unavoidable = spent(least)

    def at(price: float, chosen: list[Candidate]) -> list[Candidate]:
        chosen, changed = list(chosen), True
        while changed:
            changed = False
            for index, layer in enumerate(layers):
                costs = []
                for one in layer:
                    further = spent([*chosen[:index], one, *chosen[index + 1 :]]) - unavoidable
                    costs.append(one.bits + price * float((weight * further.clip(min=0)).sum()))
                better = layer[int(np.argmin(costs))]
                if min(costs) < costs[layer.index(chosen[index])] - 1e-6:
                    chosen[index], changed = better, True
        return chosen

    def fits(chosen: Sequence[Candidate]) -> bool:
        further = (weight * (spent(chosen) - unavoidable).clip(min=0)).sum()
        return bool(further <= allowance)

    def filled(chosen: list[Candidate]) -> list[Candidate]:
        """With what else fits, the most bits first: a Lagrangian leaves gaps."""
        while True:
            others = [
                [*chosen[:index], one, *chosen[index + 1 :]]
                for index, layer in enumerate(layers)
                for one in layer
                if one.bits < chosen[index].bits
            ]
            others = [one for one in others if fits(one)]
            if not others:
                return chosen
            chosen = min(others, key=lambda these: sum(one.bits for one in these))

    smallest = [min(layer, key=lambda one: one.bits) for layer in layers]
    if fits(smallest):
        return smallest
    best, low, high = least, -10.0, 10.0
    for _ in range(12):
        middle = (low + high) / 2
        chosen = at(2**middle, best)
        if fits(chosen):
            best, high = min(best, chosen, key=lambda these: sum(one.bits for one in these)), middle
        else:
            low = middle
    return filled(best)


class Writer:
    """Writes the programs of layers one after the other and keeps what the next depends on.

    ``instructions`` are those so far, ``rows`` what they make. In a program that is ``streamed`` what is made
    again is there again: its literals cannot be gone back to.
    """

    def __init__(self, columns: int, *, streamed: bool = False) -> None:
        self.columns = columns
        self._streamed = streamed
        self.instructions: list[Instruction] = []
        self._rows: list[Int8Array] = [np.zeros((0, columns), np.int8)]
        self._coder = Coder(columns)
        self._references = NOTHING
        self._literal_bits = 0
        # What makes the rows of the last layer, of how many layers alike, and where their instructions start.
        self._body: list[Instruction] = []
        self._times = self._start = 0
        # The shape of its weights, and its kind of records.
        self._shape: tuple[int, ...] = ()
        self._kind = 0

    @property
    def rows(self) -> Int8Array:
        return np.concatenate(self._rows)

    @property
    def engine_cycles(self) -> int:
        """Cycles that the entropy engine takes for all of it."""
        return self._coder.cycles

    @property
    def references(self) -> tuple[Reference, Reference]:
        """The prediction in force."""
        return self._references

    def layer(self, material: Material, choice: Choice) -> tuple[int, int]:
        """The shortest program found of its kind for a layer; returns bits of weights and of constants."""
        weights, made = material.weights, material.computed
        if material.replays > 1:
            return self._replayed(material, choice)
        constant_bits = weight_bits = 0
        if choice.records == 0 and not weights.any():
            return self._equal_records(material)
        coding = 0 if made or not weights.any() else round(choice.weights * weights.shape[1])
        references = self._references
        if coding:
            references = choice.references or self._best_references(material)
        coded_records = _spread(choice.records, len(material.records))
        kind = best_kind = 0
        if choice.records:
            best_kind = self._best_kind([*compress(material.records, coded_records)], weights.shape)
        bodies = []
        for group, block in enumerate(material.records):
            self._rows.append(block)
            kind = best_kind * coded_records[group]
            body = [records(len(block), kind)]
            before = self._coder.bits
            if kind:
                self._coder.write(block, self.columns, RECORD_REFERENCES[kind], records=True)
            else:
                constant_bits += 8 * block.size
            constant_bits += self._coder.bits - before
            before = self._coder.bits
            if made is not None:
                self._rows.append(made.weights[group])
                body += _split(partial(generate, made.new_bits), len(made.weights[group]))
                if not (kind and made.joined):
                    body.append(skip(made.unpassed))
            else:
                self._rows.append(weights[group])
                if coding:
                    eighths = _eighths(material, group, self.columns)
                    body += _split(partial(coded, eighths=eighths), coding)
                    self._write(self._coder, weights[group][:coding], eighths, references)
                # There an instruction must save the literals of a row.
                row_bits = 8 * self.columns if material.used_once else 0
                body += literal_program(weights[group][coding:], INSTRUCTION.bits + row_bits)
            bodies.append(body)
            weight_bits += self._coder.bits - before
        if not (coding or made):
            bodies = _uniform_if_shorter(bodies, weights)
        predictions = [
            predict(term, new)
            for term, (new, old) in enumerate(zip(references, self._references, strict=True))
            if new != old
        ]
        instructions = _roll(bodies)
        made_by = [one for body in bodies for one in body]
        if made is not None and kind and made.joined:
            instructions.append(skip(made.unpassed))
            made_by.append(instructions[-1])
        self._references = references
        self._shape, self._kind = weights.shape, best_kind
        added = self._append(predictions, instructions, made_by)
        self._literal_bits += sum(one.passed_bits for one in made_by)
        weight_bits += self.columns * sum(one.passed_bits for one in made_by if one.op != P0.RECORDS)
        return added * INSTRUCTION.bits + weight_bits, constant_bits

    def _append(
        self, predictions: list[Instruction], instructions: list[Instruction], body: list[Instruction]
    ) -> int:
        """Add a layer's instructions, which are ``body`` rolled; returns how many more that are.

        Layers alike, such as the passes of a pooling, are made by one loop where that is shorter.
        """
        before = len(self.instructions)
        period = _period(body)
        again = (self._times + 1) * len(body) // period - 1
        alike = body == self._body and not predictions
        if alike and period <= LONGEST_LOOP and again <= MAXIMUM_ROWS:
            self._times += 1
            looped = [*body[:period], loop(period, again)]
            listed = self.instructions[self._start :] + instructions
            self.instructions[self._start :] = looped if len(looped) < len(listed) else listed
        else:
            self.instructions += predictions
            self._body, self._times, self._start = body, 1, len(self.instructions)
            self.instructions += instructions
        return len(self.instructions) - before

    def _equal_records(self, material: Material) -> tuple[int, int]:
        """As `layer`, for literal constants and zeros alone: what groups have in common is gone back to."""
        first, constant_bits = len(self.instructions), 0
        zeros = _split(zero, material.weights.shape[1])
        for _, equal in groupby(material.records, key=bytes):
            blocks = list(equal)
            head, place = records(len(blocks[0])), seek(self._literal_bits)
            again = self.columns * (len(blocks) - 1) * head.passed_bits
            passed = place.place - self._literal_bits
            body, stored = [head, *zeros], len(blocks)
            if (
                not self._streamed
                and self._literal_bits <= SEEK_REACH
                and again > self.columns * passed + INSTRUCTION.bits
            ):
                body, stored = [place, *body], 1
                self._literal_bits += passed
                constant_bits += passed * self.columns
            self.instructions += _roll([body] * len(blocks))
            for block in blocks:
                self._rows += [block, material.weights[0]]
            self._literal_bits += stored * head.passed_bits
            constant_bits += stored * head.passed_bits * self.columns
        self._body = []
        return (len(self.instructions) - first) * INSTRUCTION.bits, constant_bits

    def _replayed(self, material: Material, choice: Choice) -> tuple[int, int]:
        """As `layer`, for weights that are made several times: literals that a loop goes back to or finds
        again."""
        made = material.computed
        kind = self._best_kind(material.records, ()) if choice.records else 0
        weight_bits = constant_bits = 0
        every = material.weights if made is None else made.weights
        for block, weights in zip(material.records, every, strict=True):
            before = self._coder.bits
            head = records(len(block), kind)
            if kind:
                self._coder.write(block, self.columns, RECORD_REFERENCES[kind], records=True)
            constant_bits += self._coder.bits - before + head.passed_bits * self.columns
            self._literal_bits += head.passed_bits
            if made is None:
                body = _split(partial(literal, max(1, int(bits_needed(weights).max()))), len(weights))
                end = []
            else:
                body = _split(partial(generate, made.new_bits), len(weights))
                end = [skip(made.unpassed)]
            stored = material.replays
            if not self._streamed and self._literal_bits <= SEEK_REACH:
                place = seek(self._literal_bits)
                body, self._literal_bits, stored = [place, *body], place.place, 1
            rounds, left = divmod(material.replays, MAXIMUM_ROWS + 1)
            instructions = [head]
            for times in (*[MAXIMUM_ROWS + 1] * rounds, *([left] if left else [])):
                instructions += [*body, *([loop(len(body), times - 1)] if times > 1 else [])]
            instructions += end
            self.instructions += instructions
            self._rows += [block, *[weights] * material.replays]
            passed = stored * sum(one.passed_bits for one in body) + sum(one.passed_bits for one in end)
            self._literal_bits += passed
            weight_bits += len(instructions) * INSTRUCTION.bits + passed * self.columns
        self._body = []
        return weight_bits, constant_bits

    def _write(self, coder: Coder, rows: Int8Array, eighths: int, references: Sequence[Reference]) -> None:
        """As the CODED instructions for these rows do."""
        for start in range(0, len(rows), MAXIMUM_ROWS):
            coder.write(rows[start : start + MAXIMUM_ROWS], self.columns * eighths // EIGHTHS, references)

    def _best_references(self, material: Material) -> tuple[Reference, Reference]:
        def bits(references: Sequence[Reference]) -> int:
            coder = self._coder.copy()
            for group, rows in enumerate(material.weights):
                self._write(coder, rows, _eighths(material, group, self.columns), references)
            changes = sum(a != b for a, b in zip(references, self._references, strict=True))
            return coder.bits + changes * INSTRUCTION.bits

        return min(_candidate_references(material), key=bits)

    def _best_kind(self, blocks: Sequence[Int8Array], shape: tuple[int, ...]) -> int:
        # One loop makes a layer with the last one, where it is like that: another kind takes instructions.
        alike = self._body and shape == self._shape
        loop_bits = 2 * len(blocks) * INSTRUCTION.bits if alike else 0

        def bits(kind: int) -> int:
            coder = self._coder.copy()
            for block in blocks:
                coder.write(block, self.columns, RECORD_REFERENCES[kind], records=True)
            return coder.bits + (0 if kind == self._kind else loop_bits)

        return min(RECORD_REFERENCES, key=bits)


def _parts(parts: Sequence[float], whole: int) -> list[float]:
    """Those of ``whole`` things that come to different numbers of them, ascending."""
    return [count / whole for count in sorted({round(part * whole) for part in parts})]


def _spread(part: float, groups: int) -> list[bool]:
    """Which of so many column groups are that part of them."""
    count = round(part * groups)
    return [count * (group + 1) // groups > count * group // groups for group in range(groups)]


def _eighths(material: Material, group: int, columns: int) -> int:
    """Parts of the columns that have channels in this group."""
    return min(EIGHTHS, -(-(material.channels - group * columns) * EIGHTHS // columns))


def _split(make: Callable[[int], Instruction], rows: int) -> list[Instruction]:
    """The instructions that ``make`` makes for so many rows, as many as that takes."""
    whole, rest = divmod(rows, MAXIMUM_ROWS)
    return [make(MAXIMUM_ROWS)] * whole + ([make(rest)] if rest else [])


def _candidate_references(material: Material) -> Iterator[tuple[Reference, Reference]]:
    """Nothing; one source with weight 1/4, 1/2 or 3/4; two sources with 1/4 or 1/2 each."""
    yield NOTHING
    distances = sorted({0, 1, *(d for d in material.distances if 0 < d < HISTORY_ROWS)})
    for distance in distances:
        for shift in (1, 2):
            yield Reference(distance, shift), Reference()
        yield Reference(distance, 1), Reference(distance, 2)
    for a, b in product(distances, distances):
        if a < b:
            for shift_a, shift_b in product((1, 2), (1, 2)):
                yield Reference(a, shift_a), Reference(b, shift_b)


def _roll(bodies: list[list[Instruction]]) -> list[Instruction]:
    """The bodies one after the other, equal ones in a loop."""
    program = []
    for body, equal in groupby(bodies):
        times = len(list(equal))
        if times > 1 and len(body) <= LONGEST_LOOP:
            program += [*body, loop(len(body), times - 1)]
        else:
            program += body * times
    return program


def _period(body: list[Instruction]) -> int:
    """The length of the shortest list that repeated makes this one."""
    return next(n for n in range(1, len(body) + 1) if body == body[:n] * (len(body) // n))


def _uniform_if_shorter(bodies: list[list[Instruction]], weights: Int8Array) -> list[list[Instruction]]:
    """Literals of one width for all groups, where what a loop saves is more than they cost."""
    width = int(bits_needed(weights.reshape(-1, weights.shape[-1])).max())
    rows = weights.shape[1]
    if width == 0:
        return bodies
    uniform = _split(partial(literal, width), rows)
    others = [[body[0], *uniform] for body in bodies]

    def bits(candidates: list[list[Instruction]]) -> int:
        made = sum(one.passed_bits for body in candidates for one in body)
        return len(_roll(candidates)) * INSTRUCTION.bits + made * weights.shape[-1]

    return min(bodies, others, key=bits)


def literal_program(weights: Int8Array, overhead: int = INSTRUCTION.bits) -> list[Instruction]:
    """The cheapest ZERO and LITERAL instructions for ``weights`` of shape (rows, columns), without END.

    ``overhead`` are the bits that an instruction is taken to cost: its own, or more where short instructions
    cost time.

    Dynamic programming over the rows: the cheapest program of the first j rows ends with an instruction of
    b bits for rows i to j, for some b and i. For each b the best i is the least of a window that slides
    with j, kept in a queue whose costs ascend. Time is linear in the rows.
    """
    check_rows(weights, weights.shape[-1])
    rows, columns = weights.shape
    # Per width b: candidates (cost of the first i rows - i * b * columns, i), best first.
    queues: list[deque[tuple[int, int]]] = [deque() for _ in range(9)]
    costs = [0]
    choices = [(0, 0)]
    for j, needed in enumerate(bits_needed(weights).tolist(), start=1):
        best = None
        for bits in range(9):
            queue = queues[bits]
            if bits < needed:
                queue.clear()
                continue
            slope = bits * columns
            key = costs[j - 1] - (j - 1) * slope
            while queue and queue[-1][0] > key:
                queue.pop()
            queue.append((key, j - 1))
            if queue[0][1] < j - MAXIMUM_ROWS:
                queue.popleft()
            cost = queue[0][0] + j * slope
            if best is None or cost < best:
                best, choice = cost, (queue[0][1], bits)
        assert best is not None
        costs.append(best + overhead)
        choices.append(choice)
    instructions = []
    j = rows
    while j:
        i, bits = choices[j]
        instructions.append(literal(bits, j - i) if bits else zero(j - i))
        j = i
    return instructions[::-1]
