"""Random weight programs: what the machine makes of them, against an interpreter that takes a bit at a time.

`test_lanes_cocotb` has the same programs on the RTL, under random stalls.
"""

import random
from collections.abc import Iterator

import numpy as np
import pytest
from kolmogate.config import MachineConfig, configuration
from kolmogate.isa import INSTRUCTION, P0
from kolmogate.programs.entropy import Decoder, Reference
from kolmogate.programs.p0 import RECORD_REFERENCES, Program
from kolmogate_sim.stimuli import random_program
from kolmogate_sim.streams import seed


def rotl(x: int, by: int) -> int:
    return (x << by | x >> 12 - by) & 0xFFF


def computed(x: int) -> int:
    """The hash as the documentation has it."""
    y = (x + rotl(x, 8) + 2420) & 0xFFF
    v = (rotl(y, 9) & 255) + ((rotl(x, 7) ^ rotl(y, 8)) & 255) + (rotl(y, 3) & 255)
    return (v + ((rotl(x, 9) ^ rotl(y, 8)) & 255) - 510 + 2) >> 2


def interpret(program: Program, columns: int) -> Iterator[tuple[bool, list[int]]]:
    """All rows: whether they are records, and their numbers. Instructions are taken from their bits."""
    words = np.frombuffer(program.code, "<u2").tolist()
    memory = np.frombuffer(program.coded + program.literals + bytes(columns), np.uint8)
    engine = Decoder(memory, len(program.coded), columns)
    terms = [Reference(), Reference()]
    place = position = again = 0

    def bit(lane: int, at: int) -> int:
        return program.literals[at // 8 * columns + lane] >> at % 8 & 1

    while True:
        fields = INSTRUCTION.unpack(words[place])
        op, argument, count = fields["op"], fields["argument"], fields["count"]
        place += 1
        if op == P0.END:
            return
        if op == P0.LOOP:
            again = again - 1 if again else count + 1
            if again:
                place -= argument + 2
        elif op == P0.SEEK:
            position = 16 * (count + 1024 * argument)
        elif op == P0.PREDICT:
            terms[argument & 1] = Reference(count % 256, argument >> 1)
        elif op == P0.GENERATE and argument == 6:
            position += count + 1
        elif op == P0.CODED or (op == P0.RECORDS and argument % 4):
            records = op == P0.RECORDS
            rows = count % 8 + 1 if records else count + 1
            live = columns if records else columns * (argument + 1) // 8
            references = RECORD_REFERENCES[argument % 4] if records else terms
            for row in engine.read(rows, live, references, records=records).tolist():
                yield records, row
        else:
            records = op == P0.RECORDS
            stirred = 0
            for _ in range(count % 8 + 1 if records else count + 1):
                row = [0] * columns
                for lane in range(columns):
                    if op == P0.GENERATE and argument < 6:
                        window = int("".join(str(bit(lane, position + i)) for i in range(12)), 2)
                        row[lane] = computed(window ^ (0 if argument else stirred))
                    elif op != P0.GENERATE:
                        last = 7 if records else argument
                        row[lane] = -bit(lane, position) << last
                        row[lane] += sum(bit(lane, position + 1 + i) << i for i in range(last))
                yield records, row
                if op == P0.GENERATE and argument < 6:
                    position += argument
                    parity = (stirred >> 11 ^ stirred >> 5 ^ stirred >> 3 ^ stirred) & 1
                    stirred = (stirred << 1 | 1 - parity) & 0xFFF
                elif op != P0.GENERATE:
                    position += 8 if records else argument + 1


def compare(config: MachineConfig, programs: int, instructions: int, longest: int) -> None:
    source = random.Random(f"{seed()} random programs")
    for index in range(programs):
        length = source.randrange(instructions + 1)
        program, weights, groups = random_program(source, config, length, longest)
        rows = list(interpret(program, config.columns))
        wanted = [row for records, row in rows if not records]
        assert weights.tolist() == wanted, f"weights of program {index}"
        constants = [row for block in groups for row in block.tolist()]
        assert constants == [row for records, row in rows if records], f"records of program {index}"


@pytest.mark.parametrize("target", ["up5k", "ecp5-45f"])
def test_random_programs(target: str) -> None:
    compare(configuration(target), 150, 20, 12)


@pytest.mark.slow
def test_ten_thousand_programs() -> None:
    compare(configuration("up5k"), 10_000, 12, 8)
