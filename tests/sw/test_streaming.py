"""Streamed images: when the compiler makes one, what it holds, and that the machine model runs it exactly."""

import dataclasses

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.container import from_bytes, to_bytes
from kolmogate.errors import DeviceError, InputError, UsageError
from kolmogate.isa import P0, ErrorCode
from kolmogate.machine import Machine
from kolmogate.programs.p0 import ProgramEnd, assemble, code_words, execute, literal, zero
from kolmogate.programs.reader import Reader
from kolmogate.rings import RING_BYTES, RINGS, ring_addresses
from kolmogate.runtime import Opened

UP5K = configuration("up5k")


@pytest.fixture
def network(chain):
    return chain(6, 6, 16).conv(40, padding=(1, 1, 1, 1)).depthwise().conv(30, size=(1, 1)).network("net")


def run(image, x):
    return Opened(Machine(image.config)).load(image)(x)


@pytest.mark.parametrize("objective", ["fastest", "balanced", "smallest"])
@pytest.mark.parametrize("target", ["up5k", "up5k-small", "ecp5-85f"])
def test_a_streamed_image_runs_exactly(target, objective, network, inputs):
    image = compile(network, configuration(target), objective=objective, streamed=True)
    image.check()
    assert image.streamed
    assert from_bytes(to_bytes(image)) == image
    x = inputs(network, 3)
    assert (run(image, x) == golden.run(network, x)).all()
    assert (golden.run(image.network(), x) == golden.run(network, x)).all()
    coded = bool(image.config.entropy_engines) and objective != "fastest"
    assert bool(image.sections["coded"].data) == coded
    for name, address in ring_addresses(image.config).items():
        assert image.sections[name].address == address
    end = image.sections["descriptors"].address + len(image.sections["descriptors"].data)
    assert end == ring_addresses(image.config)["coded"]


def test_what_does_not_fit_is_streamed(network, inputs):
    """As soon as a byte is missing, until the activations do not fit either."""
    least = compile(network, UP5K, objective="smallest").device_bytes
    streamed = compile(network, UP5K, streamed=True)
    activations = max(part.address + part.layout.size for part in (streamed.input, streamed.output))
    config = dataclasses.replace(UP5K, scratchpad_bytes=(least + activations) // 4096 * 4096)
    image = compile(network, config)
    assert image.streamed
    x = inputs(network, 2)
    assert (run(image, x) == golden.run(network, x)).all()
    tiny = dataclasses.replace(UP5K, scratchpad_bytes=4 << 10)
    with pytest.raises(
        InputError, match=r"'net' does not fit 'up5k': its descriptors and .* rings take"
    ) as e:
        compile(network, tiny)
    missing = int(str(e.value).split(" bytes are missing")[0].split()[-1])
    larger = dataclasses.replace(tiny, scratchpad_bytes=(4096 + missing + 4095) // 4096 * 4096)
    assert compile(network, larger).streamed


def test_budgets(network):
    coded = compile(network, UP5K, streamed=True)
    literal = compile(network, UP5K, streamed=True, objective="fastest")
    budget = (coded.device_bytes + literal.device_bytes) // 2
    assert compile(network, UP5K, streamed=True, max_bytes=budget).device_bytes <= budget
    with pytest.raises(InputError, match="more than 100: allow more bytes"):
        compile(network, UP5K, streamed=True, max_bytes=100)
    with pytest.raises(UsageError, match="up to the link: give no budget of cycles"):
        compile(network, UP5K, streamed=True, max_cycles=1 << 20)


def test_filters_deeper_than_the_column_buffer_are_sent_for_each_tile(chain, inputs):
    """There is no going back: no SEEK, and as many literals as tiles."""
    network = chain(5, 5, 16).conv(12, padding=(1, 1, 1, 1)).conv(9, size=(2, 2)).network()
    config = dataclasses.replace(UP5K, column_buffer_depth=32)
    image = compile(network, config, streamed=True)
    assert all(one.op != P0.SEEK for one in execute(code_words(image.program())))
    assert len(image.sections["literals"].data) > 10 * 144 * 12
    x = inputs(network, 2)
    assert (run(image, x) == golden.run(network, x)).all()
    assert (golden.run(image.network(), x) == golden.run(network, x)).all()


@pytest.mark.parametrize("objective", ["fastest", "smallest"])
def test_a_stream_that_ends_too_soon_runs_into_the_limit(objective, network, inputs):
    image = compile(network, UP5K, objective=objective, streamed=True)
    name = "coded" if objective == "smallest" else "literals"
    section = image.sections[name]
    machine = Machine(UP5K)
    machine.write(image.sections["descriptors"].address, image.sections["descriptors"].data)
    machine.write(image.input.address, image.pack_input(inputs(network, 1)[0]))
    cut = section.data[: -2 * RING_BYTES] if name == "literals" else section.data[2 * RING_BYTES :]
    program = dataclasses.replace(image.program(), **{name: cut})
    machine.run(image.entry, limit=1 << 24, program=image.program())
    with pytest.raises(DeviceError) as caught:
        machine.run(image.entry, limit=1 << 24, program=program)
    assert caught.value.code == ErrorCode.TIMEOUT


def test_a_stream_that_ends_makes_the_rows_it_holds():
    """Literals for five rows of a LITERAL of eight; what comes behind it is not made."""
    rows = np.random.default_rng(0).integers(-128, 128, (12, 8)).astype(np.int8)
    rows[8:] = 0
    program = assemble([literal(8, 8), zero(4)], rows, 8)
    memory = np.frombuffer(bytes(8) + program.literals[: 5 * 8], np.uint8)
    reader = Reader(code_words(program), memory, 8, 8, streamed=True)
    assert (reader.weights(5) == rows[:5]).all()
    with pytest.raises(ProgramEnd, match="a stream of the weight program ends"):
        reader.weights(1)


def test_sections_of_a_streamed_image_are_at_their_rings(network):
    image = compile(network, UP5K, streamed=True)
    for name in RINGS:
        moved = dataclasses.replace(image.sections[name], address=0x8000)
        with pytest.raises(InputError, match=f"the ring of section {name} is not at|overlap"):
            dataclasses.replace(image, sections={**image.sections, name: moved})
    ring = ring_addresses(UP5K)["coded"]
    high = dataclasses.replace(image.input, address=ring)
    with pytest.raises(InputError, match="coded and input overlap"):
        dataclasses.replace(image, input=high)


def test_uploads_leave_the_program_out(network):
    machine = Machine(UP5K)
    image = compile(network, UP5K, streamed=True)
    Opened(machine).load(image)
    assert not machine.memory[ring_addresses(UP5K)["coded"] :].any()
    assert np.count_nonzero(machine.memory)
