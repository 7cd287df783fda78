"""The cycle model: how long the RTL takes for an image, layer by layer.

It plays the three walkers of a layer against each other (`docs/machine.md`): words that the fetcher asks
for, taps that the array takes, tiles that drain. Column groups after the second repeat its time, so they are
not played again. RTL simulation holds the total within 2%.
"""

# ruff: noqa: B023 (the closure ends with the iteration that makes it)

from collections import deque
from dataclasses import dataclass, field

from .config import MachineConfig
from .image import Image
from .isa import ADDRESS_BITS, DESCRIPTOR, P0, Opcode, window_taps
from .machine_arithmetic import requantiser_interval
from .programs.reader import steps

__all__ = ["LayerCycles", "cycles"]

# Pipeline depths of the gateware, in cycles.
_GRANT_TO_FEEDER = 4
"""From a granted read to the word's first activation at the head of its feeder."""
_TAP_TO_DRAIN = 5
"""From the last tap of a tile to its first batch being offered to the requantisers."""
_DISPATCH = 5
"""Loading a descriptor, beside its words: latency of the memory, hand-over to the units."""
_DECODER_START = 12
"""From the start of an inference to the first row of weights."""
_FEEDER_DEPTH = 8
_ROW_TO_TAP = 1
"""From a row of weights entering the column buffer to the tap that may use it."""


@dataclass(frozen=True)
class LayerCycles:
    """Cycles from the end of the layer before to the end of this one, and what they were spent on.

    ``compute`` is what the taps alone need; ``utilisation`` the part of all multiplier cycles that
    contributed to a live output.
    """

    total: int
    compute: int
    utilisation: float


@dataclass
class _Program:
    """The rows that the weight decoder makes: when the next one can be in the column buffer."""

    config: MachineConfig
    instructions: deque[tuple[int, int, float, bool]]
    """Rows left, bits a row, cycles a row of each instruction to come, and whether it makes constants."""
    time: float = _DECODER_START
    made: int = 0
    released: deque[tuple[int, int]] = field(default_factory=deque)
    """Rows freed in all, and when."""
    freed: int = 0
    drained: list[int] = field(default_factory=list)
    """When the last output of each column group left the array."""

    def take(self, rows: int, words_a_tap: float) -> list[float]:
        """When each of the next ``rows`` rows is there; activations need ``words_a_tap`` of the memory."""
        times: list[float] = []
        for _ in range(rows):
            if not self.instructions:
                return times
            left, bits, cycles, _ = self.instructions[0]
            # A row of literals takes `bits` of the eight bits that a word holds for each lane.
            self.time += max(cycles, bits / 8 + (words_a_tap if bits else 0))
            while self.made - self.freed >= self.config.column_buffer_depth and self.released:
                self.freed, when = self.released.popleft()
                self.time = max(self.time, when + 1)
            self.made += 1
            times.append(self.time)
            if left == 1:
                self.instructions.popleft()
            else:
                self.instructions[0] = (left - 1, bits, cycles, False)
        return times

    def records(self, words_a_tap: float) -> None:
        """Make the constants of the next column group; there is room for two groups."""
        if len(self.drained) >= 2:
            self.time = max(self.time, self.drained[-2])
        if self.instructions and self.instructions[0][3]:
            rows, bits, cycles, _ = self.instructions.popleft()
            self.time += rows * max(cycles, bits / 8 + (words_a_tap if bits else 0))

    def release(self, rows: int, when: int) -> None:
        """The array is done with ``rows`` rows in all."""
        self.released.append((rows, when))


class _Group:
    """One column group of a layer, played tile by tile."""

    def __init__(self, config: MachineConfig, fields: dict[str, int]) -> None:
        self.config = config
        self.fields = fields
        self.interval = requantiser_interval(config)

    def play(
        self, start: int, drained: int, live_channels: int, weights: list[float]
    ) -> tuple[int, int, int]:
        """Times of the last grant, the last tap and the last transfer to the requantisers."""
        config, fields = self.config, self.fields
        rows, columns = config.rows, config.columns
        batches = -(-live_channels // config.requantisers)
        dead_batches = columns // config.requantisers - batches
        run = columns if fields["word_mode"] else fields["run"]
        offsets = [
            outer * fields["outer_step"] + inner * fields["inner_step"]
            for outer in range(fields["outer_count"])
            for inner in range(fields["inner_count"])
        ]
        positions = fields["x_count"] * fields["y_count"]
        x, base = 0, fields["input_base"]
        writes = 0 if config.scratchpad_ports == 2 else rows

        grant, tap_time = start, start
        pops: list[deque[int]] = [deque([start] * _FEEDER_DEPTH) for _ in range(rows)]
        for first in range(0, positions, rows):
            live = min(rows, positions - first)
            bases = []
            for _ in range(live):
                bases.append(base)
                x += 1
                step = "input_step"
                if x == fields["x_count"]:
                    x, step = 0, "input_wrap"
                base = (base + fields[step]) % (1 << ADDRESS_BITS)
            tap = 0
            # Words asked for and not yet used up: (first tap after it, arrival) for each row.
            queues: list[deque[tuple[int, int]]] = [deque() for _ in range(live)]

            def advance(to: int, last: bool) -> None:
                """Take taps up to (not including) ``to``."""
                nonlocal tap, tap_time
                while tap < to:
                    end = min(min(queue[0][0] for queue in queues), to)
                    begin = max(tap_time + 1, *(queue[0][1] for queue in queues))
                    if weights:
                        begin = max(begin, int(weights[tap]) + _ROW_TO_TAP)
                        tap_time = max(begin + end - tap - 1, int(weights[end - 1]) + _ROW_TO_TAP)
                    else:
                        tap_time = begin + end - tap - 1
                    if last and end == to:
                        tap_time = max(tap_time, drained + 1)
                    tap = end
                    for r, queue in enumerate(queues):
                        if queue[0][0] == tap:
                            queue.popleft()
                            pops[r].append(tap_time)

            grant += writes
            for index, offset in enumerate(offsets):
                run_start = index * (1 if fields["word_mode"] else run)
                skips = [(one + offset) % columns for one in bases]
                passes = -(-(max(skips) + run) // columns)
                for word in range(passes):
                    for r in range(live):
                        used = word * columns - skips[r]
                        grant += 1
                        if used >= run:
                            continue
                        if not pops[r]:
                            advance(queues[r][0][0], False)
                        grant = max(grant, pops[r].popleft() + 1)
                        upto = run_start + (1 if fields["word_mode"] else min(used + columns, run))
                        queues[r].append((upto, grant + _GRANT_TO_FEEDER))
            advance(window_taps(fields), True)
            weights = []
            begin = max(tap_time + _TAP_TO_DRAIN, drained + self.interval)
            tap_time += config.tile_gap
            drained = begin + (live * batches - 1) * self.interval + (live - 1) * dead_batches
        return grant, tap_time, drained


def cycles(image: Image) -> list[LayerCycles]:
    """The cycles of each layer of an image (each ARRAY descriptor); their sum is that of an inference."""
    config = image.config
    words = DESCRIPTOR.size(config.columns) // config.columns
    program = _Program(config, deque(_rows(image)))
    results = []
    time, taken, before = 0, 0, 0
    for fields in image.descriptors():
        time += words + _DISPATCH
        if fields["opcode"] != Opcode.ARRAY:
            continue
        positions = fields["x_count"] * fields["y_count"]
        tiles = -(-positions // config.rows)
        groups = -(-fields["channels"] // config.columns)
        group = _Group(config, fields)
        live = min(config.rows, positions)
        words_a_tap = live if fields["word_mode"] else live / min(fields["run"], config.columns)
        drained = time - group.interval
        grant = time
        for index in range(groups):
            program.records(words_a_tap)
            weights: list[float] = []
            if not fields["unit_weights"]:
                weights = program.take(window_taps(fields), words_a_tap)
                taken += window_taps(fields)
            channels = min(config.columns, fields["channels"] - index * config.columns)
            grant, tap_time, drained = group.play(grant, drained, channels, weights)
            grant = max(grant, tap_time - _GRANT_TO_FEEDER - 2)
            program.drained.append(drained)
            if not fields["unit_weights"]:
                program.release(taken, tap_time)
        time = drained + _finish(config)
        macs = positions * window_taps(fields) * fields["channels"]
        total = time - before
        results.append(
            LayerCycles(total, groups * tiles * window_taps(fields), round(macs / (total * config.macs), 4))
        )
        before = time
    return results


def _finish(config: MachineConfig) -> int:
    """From a layer's last batch entering the requantisers to its end: their latency and the write."""
    return requantiser_interval(config) + 12


def _rows(image: Image) -> list[tuple[int, int, float, bool]]:
    """What `_Program` needs to know of each instruction, as they run."""
    return [
        (one.rows, one.literal_bits, cycles, one.op == P0.RECORDS)
        for one, cycles in steps(image.program(), image.config.columns)
    ]
