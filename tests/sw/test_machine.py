"""The machine model on descriptors and programs made by hand, sound ones and wild ones."""

import dataclasses
import time

import numpy as np
import pytest
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.errors import DeviceError, UsageError
from kolmogate.image import Section
from kolmogate.isa import (
    DESCRIPTOR,
    FILL_BITS,
    FILL_UNIT,
    INPUT_OFFSET,
    INSTRUCTION,
    P0,
    RECORDS,
    ErrorCode,
    Opcode,
    store_constants,
    store_descriptor,
)
from kolmogate.machine import Machine
from kolmogate.programs.entropy import Reference
from kolmogate.programs.p0 import assemble, coded, predict, records
from kolmogate.programs.search import literal_program
from kolmogate.protocol import Entry

UP5K = configuration("up5k")
CODE_AT, LITERALS_AT, DESCRIPTORS_AT = 0x9000, 0xA000, 0x1F000
IDENTITY = {"bias": 0, "multiplier": 1 << 30, "shift": 30}

DENSE = {
    "opcode": Opcode.ARRAY,
    "stream_weights": 1,
    "single_rounding": 1,
    "x_count": 1,
    "y_count": 1,
    "input_base": 0x100,
    "output_base": 0x7000,
    "outer_count": 1,
    "inner_count": 1,
    "run": 4,
    "channels": 8,
    "minimum": -128,
    "maximum": 127,
}
"""Four inputs, eight outputs."""

UNIT = {"unit_weights": 1, "stream_weights": 0}
POOL = {**DENSE, **UNIT, "word_mode": 1, "run": 8}
ZEROS = np.zeros((1, 8), np.int8)


@pytest.fixture
def machine():
    """A machine whose program is one END."""
    machine = Machine(UP5K)
    machine.write(CODE_AT, INSTRUCTION.pack(op=P0.END).to_bytes(2, "little"))
    return machine


def put_descriptors(machine, *descriptors):
    stored = [
        store_descriptor(fields, machine.config.columns)
        if fields["opcode"] in RECORDS
        else DESCRIPTOR.pack(**fields).to_bytes(32, "little")
        for fields in (*descriptors, {"opcode": Opcode.END})
    ]
    machine.write(DESCRIPTORS_AT, b"".join(stored))


def record_rows(**constants):
    """The rows of a column group whose channels have all the same constants."""
    return np.frombuffer(store_constants(**constants).to_bytes(8, "little") * 8, np.int8).reshape(8, 8)


def put_program(machine, instructions, *rows):
    program = assemble(instructions, np.concatenate(rows), machine.config.columns)
    machine.write(CODE_AT, program.code)
    machine.write(LITERALS_AT - len(program.coded), program.coded)
    machine.write(LITERALS_AT, program.literals)


def put_weights(machine, rows, groups=1, constants=IDENTITY):
    """A program of so many groups of the same constants, and then weights."""
    block = record_rows(**constants)
    put_program(machine, [records(8)] * groups + literal_program(rows), *[block] * groups, rows)


def put_inputs(machine, values):
    """Activations that the array multiplies as these numbers from 0 to 255."""
    machine.write(0x100, (np.array(values) - INPUT_OFFSET).astype(np.int8).tobytes())


def execute(machine, *descriptors, limit=1 << 20, bound=None):
    put_descriptors(machine, *descriptors)
    machine.run(Entry(DESCRIPTORS_AT, CODE_AT, LITERALS_AT), limit=limit, bound=bound)


def outputs(machine, count=8, address=0x7000):
    return np.frombuffer(machine.read(address, count), np.int8).tolist()


def error_of(machine, *descriptors, **options):
    with pytest.raises(DeviceError) as caught:
        execute(machine, *descriptors, **options)
    return ErrorCode(caught.value.code)


def test_fill_writes_its_lines_alone(machine):
    fields = {"opcode": Opcode.FILL, "y_count": 3, "run": 1, "output_base": 2, "output_step": 2}
    execute(machine, {**fields, "zero_point": -3})
    expected = np.zeros(96, np.int8)
    for line in range(3):
        expected[16 + 24 * line : 24 + 24 * line] = -3
    assert outputs(machine, 96, 0) == expected.tolist()


def test_fill_wraps_with_a_negative_step(machine):
    step = (1 << FILL_BITS) - 3
    execute(
        machine,
        {
            "opcode": Opcode.FILL,
            "y_count": 2,
            "run": 1,
            "output_base": 2,
            "output_step": step,
            "zero_point": 5,
        },
    )
    assert outputs(machine, 32, 0) == [5] * 8 + [0] * 8 + [5] * 8 + [0] * 8


def test_dense_layer_by_hand(machine):
    rows = np.arange(-16, 16, dtype=np.int8).reshape(4, 8)
    put_weights(machine, rows)
    put_inputs(machine, [1, 2, 3, 0])
    execute(machine, {**DENSE, "zero_point": 3})
    assert outputs(machine) == (np.array([1, 2, 3, 0]) @ rows + 3).clip(-128, 127).tolist()


def test_columns_beyond_the_last_channel_are_not_written(machine):
    put_weights(machine, np.ones((4, 8), np.int8))
    put_inputs(machine, [0] * 4)
    machine.write(0x7000, b"\x55" * 8)
    execute(machine, {**DENSE, "channels": 3})
    assert outputs(machine) == [0, 0, 0] + [0x55] * 5


def test_streamed_weights_are_new_for_each_tile(machine):
    """Two tiles of two positions; the input is all ones, so an output is the sum of its tile's weights."""
    put_weights(machine, np.array([[1] * 8, [2] * 8, [10] * 8, [20] * 8], np.int8))
    put_inputs(machine, [1] * 16)
    positions = {"x_count": 4, "input_step": 1, "output_step": 8}
    execute(machine, {**DENSE, **positions, "run": 2})
    assert outputs(machine, 32) == [3] * 16 + [30] * 16


def test_stored_weights_serve_all_tiles(machine):
    put_weights(machine, np.array([[1] * 8, [2] * 8], np.int8))
    put_inputs(machine, [1] * 16)
    positions = {"x_count": 4, "input_step": 1, "output_step": 8, "stream_weights": 0}
    execute(machine, {**DENSE, **positions, "run": 2})
    assert outputs(machine, 32) == [3] * 32


def test_word_mode_pools_each_column_on_its_own(machine):
    put_weights(machine, np.zeros((2, 8), np.int8), groups=2)
    put_inputs(machine, range(32))
    execute(machine, {**POOL, "channels": 16, "inner_count": 2, "inner_step": 16})
    assert outputs(machine, 16) == [16 + 2 * c for c in range(16)]


def test_accumulators_wrap_at_their_width(machine):
    """1,100 products of 127 by 255 exceed 25 bits and a sign."""
    taps = 1100
    put_weights(machine, np.full((taps, 8), 127, np.int8), constants={**IDENTITY, "shift": 50})
    put_inputs(machine, [255] * taps)
    execute(machine, {**DENSE, "run": taps})
    assert outputs(machine) == [(127 * 255 * taps - (1 << 26) + (1 << 19)) >> 20] * 8


def test_unknown_opcodes(machine):
    for opcode in range(len(Opcode), 8):
        assert error_of(machine, {"opcode": opcode}) == ErrorCode.BAD_DESCRIPTOR


@pytest.mark.parametrize("limit", [20, 1 << 20], ids=["more than its time", "in time"])
def test_no_write_goes_beyond_the_bound(machine, limit):
    """Up to it all is written; the first that would go further ends the inference and changes nothing."""
    fill = {"opcode": Opcode.FILL, "y_count": 2, "run": 32, "output_base": 0, "zero_point": 7}
    assert error_of(machine, fill, limit=max(limit, 50), bound=0x100) == ErrorCode.BAD_DESCRIPTOR
    assert outputs(machine, 0x108, 0) == [7] * 0x100 + [0] * 8
    layer = {**DENSE, **UNIT, "y_count": 300, "output_wrap": 8, "output_base": 0x70F8}
    put_weights(machine, ZEROS)
    assert error_of(machine, layer, limit=limit, bound=0x7000) == ErrorCode.BAD_DESCRIPTOR
    assert outputs(machine, 16, 0x70F8) == [0] * 16


def test_a_program_that_ends_behind_a_write_beyond_the_bound(machine):
    """The second group has no weights, which the device waits for; the first is written before."""
    put_weights(machine, np.ones((4, 8), np.int8), groups=1)
    layer = {**DENSE, "channels": 16, "output_base": 0x70F8}
    assert error_of(machine, layer, bound=0x7100) == ErrorCode.TIMEOUT
    assert error_of(machine, layer, bound=0x7000) == ErrorCode.BAD_DESCRIPTOR


def test_a_count_of_nothing_is_one_more_than_the_largest(machine):
    """So counters that meet the field where they are equal; of channels it is a group."""
    for field in ("x_count", "y_count", "outer_count", "inner_count"):
        assert error_of(machine, {**DENSE, field: 0}, limit=1 << 10) == ErrorCode.TIMEOUT
    rows = np.arange(-16, 16, dtype=np.int8).reshape(4, 8)
    put_weights(machine, rows)
    put_inputs(machine, [1, 2, 3, 0])
    execute(machine, {**DENSE, "channels": 0})
    assert outputs(machine) == (np.array([1, 2, 3, 0]) @ rows).tolist()
    execute(machine, {"opcode": Opcode.FILL, "y_count": 1, "output_base": 0x400, "zero_point": 3})
    assert outputs(machine, (1 << 14) + 16, 0x2000 - 8) == [0] * 8 + [3] * (1 << 14) + [0] * 8
    execute(machine, {"opcode": Opcode.FILL, "run": 1, "output_step": 1, "zero_point": 5})
    assert outputs(machine, 1 << 12, 0) == ([5] * 8 + [0] * 8) * (1 << 8)


def test_shifts_out_of_range(machine):
    rows = np.arange(-16, 16, dtype=np.int8).reshape(4, 8)
    put_inputs(machine, [100] * 4)
    for shift, like in ((1, 25), (23, 31)):
        put_weights(machine, rows, constants={**IDENTITY, "multiplier": 1 << 20, "shift": shift})
        execute(machine, DENSE)
        found = outputs(machine)
        put_weights(machine, rows, constants={**IDENTITY, "multiplier": 1 << 20, "shift": like})
        execute(machine, DENSE)
        assert found == outputs(machine)


def test_a_run_of_no_bytes_takes_a_word(machine):
    """From where it begins on, round and round."""
    for base in (0x100, 0x105):
        put_weights(machine, ZEROS)
        put_inputs(machine, range(32))
        execute(machine, {**DENSE, **UNIT, "run": 0, "input_base": base})
        assert outputs(machine) == [sum(range(8))] * 8


def test_word_mode_between_words_takes_both(machine):
    put_weights(machine, ZEROS)
    put_inputs(machine, range(32))
    execute(machine, {**POOL, "input_base": 0x103})
    assert outputs(machine) == [8 + 2 * c for c in range(8)]
    # The second position's single word leaves its row without one for the second tap of the first's.
    uneven = {**POOL, "input_base": 0x103, "input_step": 5, "x_count": 2, "output_step": 8}
    put_weights(machine, ZEROS)
    execute(machine, uneven)
    assert outputs(machine, 16) == [*range(8), *range(8, 16)]
    # The other way round the last row waits for ever.
    fields = {**uneven, "input_base": 0x100, "input_step": 3}
    assert error_of(machine, fields) == ErrorCode.TIMEOUT


def test_lowest_bits_of_unit_weights_are_set(machine):
    """A row serves all taps of two tiles; streamed, each takes its own."""
    rows = np.array([range(-4, 4), range(8)], np.int8)
    positions = {"x_count": 4, "input_step": 1, "output_step": 8}
    put_inputs(machine, [1] * 16)
    put_weights(machine, rows[:1])
    execute(machine, {**DENSE, **UNIT, **positions})
    assert outputs(machine, 32) == (4 * (rows[0] | 1)).tolist() * 4
    put_weights(machine, rows)
    execute(machine, {**DENSE, "unit_weights": 1, "run": 2})
    assert outputs(machine) == (rows | 1).sum(axis=0).tolist()


def test_programs_that_make_no_weights(machine):
    assert error_of(machine, DENSE) == ErrorCode.TIMEOUT
    # Coded rows are unknown to a machine without an entropy engine.
    plain = Machine(dataclasses.replace(machine.config, entropy_engines=0))
    plain.write(CODE_AT, INSTRUCTION.pack(op=P0.CODED).to_bytes(2, "little"))
    assert error_of(plain, DENSE) == ErrorCode.BAD_PROGRAM
    assert error_of(machine, {**DENSE, **UNIT}) == ErrorCode.TIMEOUT


def test_filter_deeper_than_the_column_buffer(machine):
    put_weights(machine, np.zeros((1025, 8), np.int8))
    fields = {**DENSE, "stream_weights": 0, "run": 1025}
    assert error_of(machine, fields) == ErrorCode.TIMEOUT


def test_work_is_bounded(machine):
    huge = {**DENSE, "x_count": 4095, "y_count": 4095, "run": 16383, "channels": 4095}
    assert error_of(machine, huge) == ErrorCode.TIMEOUT
    assert error_of(machine, {**DENSE, **UNIT}, limit=5) == ErrorCode.TIMEOUT


def test_list_of_descriptors_without_an_end():
    """A scratchpad full of FILLs whose line lies in none of their fields that matter."""
    machine = Machine(configuration("ecp5-85f"))
    size = machine.config.columns
    fill = {"opcode": Opcode.FILL, "y_count": 1, "run": 1, "output_base": size // FILL_UNIT - 1}
    machine.write(0, store_descriptor(fill, size) * (len(machine.memory) // size))
    with pytest.raises(DeviceError, match="more than its limit of 16384 cycles") as caught:
        machine.run(Entry(0, 0, 0), limit=1 << 14)
    assert caught.value.code == ErrorCode.TIMEOUT


@pytest.mark.parametrize("target", ["up5k", "ecp5-25f"])
def test_wild_memory_always_ends(target):
    """Random scratchpads and entry points: the result is nothing or the device's error, soon."""
    machine = Machine(configuration(target))
    started = time.monotonic()
    codes = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        machine.memory[:] = rng.integers(0, 256, len(machine.memory))
        # small counts get further
        if seed % 2:
            machine.memory &= rng.integers(0, 256, len(machine.memory), dtype=np.uint8)
            machine.memory &= rng.integers(0, 256, len(machine.memory), dtype=np.uint8)
        entry = Entry(*rng.integers(0, 1 << 20, 3).tolist())
        try:
            machine.run(entry, limit=1 << 16)
        except DeviceError as error:
            codes.add(error.code)
    assert codes >= {ErrorCode.BAD_DESCRIPTOR, ErrorCode.TIMEOUT}
    assert time.monotonic() - started < 60


def test_damaged_images_always_end(chain, inputs, infer):
    network = chain(6, 6, 3).conv(20, padding=(1, 1, 1, 1)).depthwise().dense(5).network()
    images = [compile(network, UP5K, objective=objective) for objective in ("fastest", "smallest")]
    x = inputs(network, 1)
    ends = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        image = images[seed % 2]
        names = [name for name, section in image.sections.items() if section.data]
        name = names[seed % len(names)]
        data = bytearray(image.sections[name].data)
        for position in rng.integers(0, len(data), 3):
            data[position] ^= int(rng.integers(1, 256))
        damaged = {**image.sections, name: Section(image.sections[name].address, bytes(data))}
        try:
            infer(dataclasses.replace(image, sections=damaged), x, limit=1 << 16)
            ends.add(ErrorCode.NONE)
        except DeviceError as error:
            ends.add(ErrorCode(error.code))
    # Every instruction is known to a machine with an entropy engine.
    assert ends == set(ErrorCode) - {ErrorCode.BAD_PROGRAM}


def test_one_instruction_may_serve_two_layers(machine):
    rows = np.arange(-32, 32, dtype=np.int8).reshape(8, 8)
    put_weights(machine, rows, groups=2)
    assert machine.read(CODE_AT + 6, 2) == INSTRUCTION.pack(op=P0.END).to_bytes(2, "little")
    put_inputs(machine, [1, 2, 3, 0])
    execute(machine, DENSE, {**DENSE, "output_base": 0x7008})
    x = np.array([1, 2, 3, 0])
    assert outputs(machine, 16) == [*(x @ rows[:4]), *(x @ rows[4:])]


def test_coded_layer_by_hand(machine):
    """Constants and weights from the entropy engine, the weights predicted from the row above."""
    rows = np.arange(-16, 16, dtype=np.int8).reshape(4, 8)
    program = [records(8, 2), predict(0, Reference(1, 1)), coded(4)]
    put_program(machine, program, record_rows(**IDENTITY), rows)
    put_inputs(machine, [1, 2, 3, 0])
    execute(machine, DENSE)
    assert outputs(machine) == (np.array([1, 2, 3, 0]) @ rows).tolist()


def test_coded_rows_need_an_entropy_engine():
    machine = Machine(dataclasses.replace(UP5K, entropy_engines=0))
    put_program(machine, [records(8, 1)], record_rows(**IDENTITY))
    assert error_of(machine, {**DENSE, **UNIT}) == ErrorCode.BAD_PROGRAM


def test_host_access_outside_the_scratchpad(machine):
    size = len(machine.memory)
    for address, count in ((-1, 1), (size, 1), (size - 1, 2), (0, -1)):
        with pytest.raises(UsageError, match="are not in the machine's scratchpad of 131072 bytes"):
            machine.read(address, count)
    with pytest.raises(UsageError, match="bytes 131071 to 131073 are not"):
        machine.write(131071, b"ab")


def test_image_for_another_machine_is_refused(machine):
    machine.require(UP5K)
    with pytest.raises(DeviceError, match="compiled for 'ecp5-85f' and this machine is 'up5k'"):
        machine.require(configuration("ecp5-85f"))
