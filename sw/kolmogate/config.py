"""The parameters of the machine, shared by compiler, machine model and gateware."""

from dataclasses import dataclass

from .errors import UsageError

__all__ = ["COLUMNS", "CONFIGURATIONS", "MachineConfig", "configuration"]

COLUMNS = (8, 16, 32, 64)
"""Columns that a machine may have."""


@dataclass(frozen=True)
class MachineConfig:
    """Parameters of one accelerator.

    Parameters
    ----------
    name : str
        Name under which the configuration is known; recorded in images.
    rows, columns : int
        Array size R x C: R output positions by C output channels. ``columns`` is also the
        scratchpad word in bytes; a power of two, at least 8.
    requantisers : int
        Outputs requantised side by side, Q; divides ``columns``, at least ``columns // 8``.
    requantiser_digit_bits : int
        Multiplier bits consumed a cycle. Below 32 one digit-serial requantiser takes Q outputs one after
        the other, each in 32 / digit_bits cycles; 32 is the pipelined form, Q outputs a cycle.
    scratchpad_bytes : int
        Size of the one memory for activations, programs and constants.
    scratchpad_ports : int
        1: reads and writes share it. 2: both read, each for two of 4 rows, and one also writes.
    column_buffer_depth : int
        Weights each column can hold; a power of two.
    accumulator_bits : int
        Width of an accumulator, two's complement.
    tile_gap : bool
        The array rests for a cycle after a tile, so that accumulators in multiplier cells can be cleared.
    residual_adder : bool
        The machine executes RESIDUAL records.
    entropy_engines : int
        0 or 1: whether weight programs may hold coded rows.
    generator : bool
        Whether they may hold generated rows.
    clock_hz : int
        Nominal clock of the boards that carry this configuration.
    """

    name: str
    rows: int
    columns: int
    requantisers: int
    requantiser_digit_bits: int
    scratchpad_bytes: int
    scratchpad_ports: int
    column_buffer_depth: int
    clock_hz: int
    accumulator_bits: int = 26
    tile_gap: bool = False
    residual_adder: bool = True
    entropy_engines: int = 1
    generator: bool = True

    def __post_init__(self) -> None:
        def require(condition: bool, rule: str) -> None:
            if not condition:
                raise UsageError(f"machine configuration {self.name!r}: {rule}")

        def power_of_two(value: int) -> bool:
            return value > 0 and value & (value - 1) == 0

        require(1 <= self.rows <= 16, f"rows must be 1 to 16, not {self.rows}")
        require(
            self.columns in COLUMNS,
            f"columns must be a power of two from 8 to 64, not {self.columns}",
        )
        require(
            self.requantisers > 0
            and self.columns % self.requantisers == 0
            and 8 % self.requantisers == 0
            and self.requantisers * 8 >= self.columns,
            f"requantisers must divide columns and 8, and be at least columns / 8, not {self.requantisers}",
        )
        require(
            self.requantiser_digit_bits in (8, 16, 32),
            f"requantiser_digit_bits must be 8, 16 or 32, not {self.requantiser_digit_bits}",
        )
        require(
            self.scratchpad_bytes % self.columns == 0 and self.scratchpad_bytes <= 1 << 20,
            f"scratchpad_bytes must be whole words and at most 1 MiB, not {self.scratchpad_bytes}",
        )
        require(
            self.scratchpad_ports == 1 or (self.scratchpad_ports == 2 and self.rows == 4),
            f"scratchpad_ports must be 1, or 2 with 4 rows, not {self.scratchpad_ports}",
        )
        require(
            power_of_two(self.column_buffer_depth) and self.column_buffer_depth <= 1 << 13,
            f"column_buffer_depth must be a power of two up to 8192, not {self.column_buffer_depth}",
        )
        require(self.entropy_engines in (0, 1), f"entropy_engines must be 0 or 1, not {self.entropy_engines}")
        require(
            20 <= self.accumulator_bits <= 26,
            f"accumulator_bits must be 20 to 26, not {self.accumulator_bits}",
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates a cycle."""
        return self.rows * self.columns

    @property
    def fast(self) -> bool:
        """Whether flags and answers that come late in a cycle have registers of their own.

        The chips of machines with two scratchpad ports have the cells for it; it costs them a cycle where
        something begins or is asked for, none where it goes on.
        """
        return self.scratchpad_ports == 2

    @property
    def read_latency(self) -> int:
        """Cycles from a granted read of the scratchpad to its answer."""
        return 3 if self.fast else 2

    @property
    def literal_words(self) -> int:
        """Words of literals read ahead: enough for a word a cycle, though one taken makes room late."""
        return 16 if self.fast else 8

    @property
    def feeder_depth(self) -> int:
        """Words that a row has room for; with two ports one row may be a line of words ahead of another."""
        return 16 if self.scratchpad_ports == 2 else 8

    @property
    def written_bytes(self) -> int:
        """Outputs that are written together: a word, or two batches where a single port makes the rows wait
        for each other, which leaves it time for that."""
        return self.columns if self.scratchpad_ports == 2 else min(2 * self.requantisers, self.columns)

    @property
    def capture_latency(self) -> int:
        """Cycles from the last tap of a tile to the tile in the shadow registers.

        With ``tile_gap`` multipliers have no registers at their inputs and activations no others before them.
        """
        return 4 if self.tile_gap else 6

    @property
    def scratchpad_words(self) -> int:
        return self.scratchpad_bytes // self.columns


CONFIGURATIONS = {
    config.name: config
    for config in (
        MachineConfig("up5k", 2, 8, 2, 16, 128 << 10, 1, 1024, 36_000_000, tile_gap=True),
        # What fits an iCE40UP5K: no entropy engine, shallower columns, accumulators for the sums that occur.
        MachineConfig(
            "up5k-small",
            rows=2,
            columns=8,
            requantisers=1,
            requantiser_digit_bits=16,
            scratchpad_bytes=128 << 10,
            scratchpad_ports=1,
            column_buffer_depth=512,
            clock_hz=36_000_000,
            accumulator_bits=23,
            tile_gap=True,
            entropy_engines=0,
            generator=False,
        ),
        MachineConfig("ecp5-25f", 4, 8, 4, 32, 96 << 10, 2, 1024, 80_000_000),
        MachineConfig("ecp5-45f", 4, 16, 4, 32, 160 << 10, 2, 1024, 80_000_000),
        MachineConfig("ecp5-85f", 4, 32, 8, 32, 256 << 10, 2, 1024, 80_000_000),
    )
}


def configuration(name: str) -> MachineConfig:
    """The configuration called ``name``; raises `UsageError` that lists the known ones."""
    try:
        return CONFIGURATIONS[name]
    except KeyError:
        raise UsageError(f"unknown target {name!r}: choose one of {', '.join(CONFIGURATIONS)}") from None
