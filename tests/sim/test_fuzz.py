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
from kolmogate.isa import P0, ErrorCode, Opcode
from kolmogate.machine import Machine
from kolmogate.network import AveragePool2D, Conv2D, Dense, DepthwiseConv2D, Pad
from kolmogate.programs.p0 import Instruction
from kolmogate.random_network import random_network
from kolmogate.runtime import simulated_link
from kolmogate_sim.mutations import mutate

# Small, so that images and memories are quickly written and compared.
CONFIG = dataclasses.replace(configuration("up5k"), name="small", scratchpad_bytes=8 << 10)
LIMIT = 40_000
SLOWEST = 40
"""An inference takes at most so many times the model's lower bound."""
WORD_FIELDS = ("input_base", "input_step", "input_wrap", "outer_wrap", "inner_step")
"""Addresses of words in word mode; what they point into otherwise is not defined."""


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


def on_machine(machine, mutant, x, limit=LIMIT):
    """The code in which a run ends on the model, and why the device may end in another, if it may."""
    machine.memory[:] = 0
    for address, content in mutant.sections():
        machine.write(address, content)
    machine.write(mutant.image.input.address, mutant.image.pack_input(x))
    runs_into_nothing = not sound_program(machine.memory, mutant.entry["code"])
    code, undefined = ErrorCode.NONE, ""
    try:
        machine.run(**mutant.entry, limit=limit)
    except DeviceError as error:
        code = ErrorCode(error.code)
        if "counts nothing" in str(error) or "shift is out of range" in str(error):
            undefined = "a count of 0 or a shift out of range"
    if any(machine.read(address, len(content)) != content for address, content in mutant.sections()):
        undefined = "a layer writes over the image"
    elif not undefined and any(
        fields["opcode"] == Opcode.ARRAY and fields["word_mode"] and fields["run"] != CONFIG.columns
        for fields in mutant.descriptors()
    ):
        undefined = "a run that is no word in word mode"
    elif not undefined and any(
        fields["opcode"] == Opcode.ARRAY
        and fields["word_mode"]
        and any(fields[name] % CONFIG.columns for name in WORD_FIELDS)
        for fields in mutant.descriptors()
    ):
        undefined = "an input that is not at words in word mode"
    elif not undefined and runs_into_nothing:
        undefined = "the decoder runs ahead into an unknown instruction"
    return code, undefined


def sound_program(memory, start):
    """Whether every instruction up to the first END is known."""
    code = np.roll(memory, -(start // CONFIG.columns * CONFIG.columns)).view("<u2")
    for word in code:
        try:
            if Instruction.of(int(word)).op == P0.END:
                return True
        except InputError:
            return False
    return False


def fuzz_machine(seeds, count, source):
    """Runs ``count`` mutants; returns how many ended in each code, and the longest time one took."""
    machine, outcomes, longest = Machine(CONFIG), Counter(), 0.0
    for _ in range(count):
        _, image, x = source.choice(seeds)
        mutant = mutate(image, source)
        before = time.perf_counter()
        code, _ = on_machine(machine, mutant, x)
        outcomes[code.name] += 1
        longest = max(longest, time.perf_counter() - before)
    return outcomes, longest


def report(capsys, title, counts, seconds):
    with capsys.disabled():
        print(f"\n{title}: {dict(sorted(counts.items()))}, {seconds:.1f} s")


@pytest.mark.parametrize(
    "count", [pytest.param(3_000, id="some"), pytest.param(20_000, marks=pytest.mark.slow, id="all")]
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
    "count", [pytest.param(150, id="some"), pytest.param(1_000, marks=pytest.mark.slow, id="all")]
)
def test_mutants_on_the_rtl(count, seeds, capsys):
    before = time.perf_counter()
    source, agreement, disagreements = random.Random(2), Counter(), []
    machine = Machine(CONFIG)
    with Device(simulated_link(CONFIG)) as device:
        for number in range(count):
            network, image, x = source.choice(seeds)
            mutant = mutate(image, source)
            code, (expected, undefined) = on_rtl(device, mutant, x), on_machine(machine, mutant, x)
            soonest, _ = on_machine(machine, mutant, x, LIMIT // SLOWEST)
            # With more time the model may come to what the device finds while a long fill runs beside, or to
            # a layer that writes over the image.
            latest, undefined_later = on_machine(machine, mutant, x, LIMIT * SLOWEST)
            if code in (expected, soonest) or code == latest == ErrorCode.BAD_DESCRIPTOR:
                agreement["agree"] += 1
            elif undefined := undefined or undefined_later:
                agreement[f"no outcome defined: {undefined}"] += 1
            else:
                disagreements.append((number, expected.name, code.name, differences(mutant)))
            # After whatever it was, the next sound image runs exactly.
            if number % 10 == 0:
                assert (infer(device, image, x) == golden.run(network, x[np.newaxis])[0]).all()
    report(capsys, f"{count:,} mutants on the RTL", agreement, time.perf_counter() - before)
    assert not disagreements, disagreements


def on_rtl(device, mutant, x):
    device.write(0, bytes(CONFIG.scratchpad_bytes))
    for address, content in mutant.sections():
        device.write(address, content)
    device.write(mutant.image.input.address, mutant.image.pack_input(x))
    try:
        cycles = device.run(**mutant.entry, limit=LIMIT)
    except DeviceError as error:
        # Of the device's own codes; the link never fails.
        if error.code == ErrorCode.NONE:
            raise
        return ErrorCode(error.code)
    assert cycles <= LIMIT
    return ErrorCode.NONE


def infer(device, image, x):
    for section in image.sections.values():
        device.write(section.address, section.data)
    device.write(image.input.address, image.pack_input(x))
    entry = {name: image.sections[name].address for name in ("descriptors", "code", "literals")}
    device.run(**entry, limit=LIMIT)
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
    changed += [f"entry {name}" for name, start in mutant.entry.items() if start != sections[name].address]
    return changed
