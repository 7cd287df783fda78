"""Damaged images and wild descriptors on the machine model and on the RTL: every run ends, by name."""

import dataclasses
import random
import time
from collections import Counter

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.driver import Device
from kolmogate.errors import DeviceError, InputError
from kolmogate.isa import P0, ErrorCode, Opcode, store_constants, store_descriptor
from kolmogate.machine import Machine
from kolmogate.network import AveragePool2D, Conv2D, Dense, DepthwiseConv2D, Pad
from kolmogate.programs.p0 import Instruction, records, zero
from kolmogate.protocol import Entry
from kolmogate.random_network import random_network
from kolmogate.runtime import simulated_link
from kolmogate_sim.mutations import mutate

# Small, so that images and memories are quickly written and compared.
CONFIG = dataclasses.replace(configuration("up5k"), name="small", scratchpad_bytes=8 << 10)
LIMIT = 40_000
SLOWEST = 40
"""An inference takes at most so many times the model's lower bound."""


@pytest.fixture(scope="module")
def seeds():
    """Small networks of every kind of layer, with their images and an input."""
    found = []
    for seed in range(1, 60):
        try:
            network = random_network(seed, (Conv2D, DepthwiseConv2D, Dense, AveragePool2D, Pad), 3)
            image = compile(network, CONFIG)
        except InputError:
            continue
        if image.device_bytes < 1500 and image.sections["literals"].data:
            x = np.random.default_rng(seed).integers(-128, 128, image.input.tensor.shape).astype(np.int8)
            found.append((network, image, x))
    assert len(found) >= 5
    return found[:8]


def on_machine(machine, mutant, x):
    """The code in which a run ends on the model."""
    forget(machine)
    machine.memory[:] = 0
    for address, content in mutant.sections():
        machine.write(address, content)
    machine.write(mutant.image.input.address, mutant.image.pack_input(x))
    try:
        machine.run(mutant.entry, bound=mutant.image.written_end, limit=LIMIT)
    except DeviceError as error:
        return ErrorCode(error.code)
    finally:
        assert all(machine.read(address, len(content)) == content for address, content in mutant.sections())
    return ErrorCode.NONE


def fuzz_machine(seeds, count, source):
    """Runs ``count`` mutants; returns how many ended in each code, and the longest time one took."""
    machine, outcomes, longest = Machine(CONFIG), Counter(), 0.0
    for _ in range(count):
        _, image, x = source.choice(seeds)
        mutant = mutate(image, source)
        before = time.perf_counter()
        outcomes[on_machine(machine, mutant, x).name] += 1
        longest = max(longest, time.perf_counter() - before)
    return outcomes, longest


def report(capsys, title, counts, seconds):
    with capsys.disabled():
        print(f"\n{title}: {dict(sorted(counts.items()))}, {seconds:.1f} s")


@pytest.mark.parametrize(
    "count", [pytest.param(1_500, id="some"), pytest.param(20_000, marks=pytest.mark.slow, id="all")]
)
def test_mutants_on_the_machine_model(count, seeds, capsys):
    before = time.perf_counter()
    outcomes, longest = fuzz_machine(seeds, count, random.Random(1))
    report(capsys, f"{count:,} mutants on the machine model", outcomes, time.perf_counter() - before)
    assert outcomes.total() == count
    assert longest < 5
    # Every instruction is known to a machine with an entropy engine.
    assert set(outcomes) == {code.name for code in ErrorCode} - {ErrorCode.BAD_PROGRAM.name}


@pytest.mark.parametrize(
    "count", [pytest.param(60, id="some"), pytest.param(1_000, marks=pytest.mark.slow, id="all")]
)
def test_mutants_on_the_rtl(count, seeds, capsys):
    before = time.perf_counter()
    source, agreement, disagreements = random.Random(2), Counter(), []
    machine = Machine(CONFIG)
    with Device(simulated_link(CONFIG)) as device:
        for number in range(count):
            network, image, x = source.choice(seeds)
            mutant = mutate(image, source)
            code, expected = on_rtl(device, mutant, x), on_machine(machine, mutant, x)
            outcome = "the same code"
            if code == ErrorCode.TIMEOUT != expected:
                # The model's time is a lower bound: what it comes to, the device does with more of it.
                outcome = "the same code, with more time"
                code = on_rtl(device, mutant, x, LIMIT * SLOWEST)
            if code != expected:
                disagreements.append((number, expected.name, code.name, differences(mutant)))
            agreement[outcome] += 1
            # After whatever it was, the next sound image runs exactly.
            if number % 10 == 0:
                assert (infer(device, image, x) == golden.run(network, x[np.newaxis])[0]).all()
    report(capsys, f"{count:,} mutants on the RTL", agreement, time.perf_counter() - before)
    assert not disagreements, disagreements


def on_rtl(device, mutant, x, limit=LIMIT):
    forget(device)
    device.write(0, bytes(CONFIG.scratchpad_bytes))
    for address, content in mutant.sections():
        device.write(address, content)
    device.write(mutant.image.input.address, mutant.image.pack_input(x))
    try:
        cycles = device.run(mutant.entry, bound=mutant.image.written_end, limit=limit)
    except DeviceError as error:
        # Of the device's own codes; the link never fails.
        if error.code == ErrorCode.NONE:
            raise
        return ErrorCode(error.code)
    finally:
        assert all(device.read(address, len(content)) == content for address, content in mutant.sections())
    assert cycles <= limit
    return ErrorCode.NONE


def forget(target):
    """Have a device or machine forget the descriptors of which a first one could keep something."""
    target.write(0, store_descriptor({"opcode": Opcode.ARRAY}, CONFIG.columns))
    with pytest.raises(DeviceError) as caught:
        target.run(Entry(0, 0, 0), limit=40)
    assert caught.value.code == ErrorCode.TIMEOUT


def infer(device, image, x):
    for section in image.sections.values():
        device.write(section.address, section.data)
    device.write(image.input.address, image.pack_input(x))
    device.run(image.entry, bound=image.written_end, limit=LIMIT)
    return image.unpack_output(device.read(image.output.address, image.output.layout.size))


def differences(mutant):
    """What was changed in the image, for the reader of a failure."""
    changed = [
        f"descriptor {index}: {name} {old[name]} -> {new.get(name)}"
        for index, (old, new) in enumerate(
            zip(mutant.image.descriptors(), mutant.descriptors(), strict=False)
        )
        for name in old
        if old[name] != new.get(name)
    ]
    sections = mutant.image.sections
    changed += [f"section {name}" for name, data in mutant.contents.items() if data != sections[name].data]
    sound = dataclasses.asdict(mutant.image.entry)
    changed += [
        f"entry {name}" for name, start in dataclasses.asdict(mutant.entry).items() if start != sound[name]
    ]
    return changed


DESCRIPTORS_AT, CODE_AT, LITERALS_AT, INPUT_AT, OUTPUT_AT = 0, 0x200, 0x300, 0x800, 0x1000


def odd_layer(source):
    """Average pooling with counts of 0, words between words, runs of any length, channels of no group."""
    channels = source.choice((0, 1, 5, 8))
    return {
        "opcode": Opcode.ARRAY,
        "word_mode": source.randrange(2),
        "unit_weights": 1,
        "single_rounding": source.randrange(2),
        "x_count": source.randrange(1, 6),
        "y_count": source.randrange(1, 3),
        "input_base": INPUT_AT + source.randrange(64),
        "input_step": source.choice((1, 4, 8, 8, source.randrange(24))),
        "input_wrap": source.choice((8, 8, source.randrange(64))),
        "output_base": OUTPUT_AT + source.randrange(32),
        "output_step": source.choice((8, source.randrange(16))),
        "output_wrap": source.choice((8, source.randrange(16))),
        "outer_count": source.randrange(1, 3),
        "outer_wrap": source.choice((8, source.randrange(32))),
        "inner_count": source.randrange(1, 4),
        "inner_step": source.choice((8, source.randrange(24))),
        "run": source.choice((0, 0, 3, 8, 8, 11, 24)),
        "channels": channels,
        "minimum": source.choice((-128, source.randrange(-128, 128))),
        "maximum": source.choice((127, source.randrange(-128, 128))),
    }


@pytest.mark.parametrize("target", ["up5k", pytest.param("ecp5-25f", marks=pytest.mark.slow)])
def test_odd_layers_are_the_same_on_the_rtl(target, capsys):
    """What no image has is defined too: two layers, one after the other, byte for byte; in some runs they may
    not write to where they do."""
    config = dataclasses.replace(configuration(target), name="small", scratchpad_bytes=8 << 10)
    source, machine, outcomes = random.Random(3), Machine(config), Counter()
    entry = Entry(DESCRIPTORS_AT, CODE_AT, LITERALS_AT)
    code = b"".join(one.encode().to_bytes(2, "little") for one in [records(8), zero(1)] * 2)
    code += Instruction(P0.END).encode().to_bytes(2, "little")
    with Device(simulated_link(config)) as device:
        for number in range(200):
            layers = [odd_layer(source), odd_layer(source), {"opcode": Opcode.END}]
            stored = b"".join(store_descriptor(fields, config.columns) for fields in layers)
            constants = b"".join(
                store_constants(
                    source.randrange(-5000, 5000),
                    source.getrandbits(31),
                    source.choice((0, 33, 38, 63, number % 64)),
                ).to_bytes(8, "little")
                for _ in range(16)
            )
            ends = []
            for one in (machine, device):
                one.write(DESCRIPTORS_AT, stored)
                one.write(CODE_AT, code)
                one.write(LITERALS_AT, constants)
                one.write(INPUT_AT, random.Random(number).randbytes(512))
                one.write(OUTPUT_AT, bytes(512))
                end = ErrorCode.NONE
                try:
                    one.run(entry, limit=20_000, bound=OUTPUT_AT if number % 8 == 0 else None)
                except DeviceError as error:
                    end = ErrorCode(error.code)
                ends.append((end, one.read(OUTPUT_AT, 512) if end == ErrorCode.NONE else b""))
            outcomes[ends[0][0].name] += 1
            assert ends[0] == ends[1], (number, layers)
    with capsys.disabled():
        print(f"\n{target}: 200 pairs of odd layers, the same on the RTL: {dict(sorted(outcomes.items()))}")
    assert min(outcomes.values()) > 10
