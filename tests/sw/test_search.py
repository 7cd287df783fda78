"""The search: what is chosen costs what was said, and bytes fall as cycles are allowed."""

import dataclasses
import itertools

import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.cycles import cycles
from kolmogate.errors import InputError, UsageError
from kolmogate.isa import P0
from kolmogate.programs.p0 import assemble, bits_needed
from kolmogate.programs.reader import decode, disassemble, steps
from kolmogate.programs.search import Candidate, Choice, Material, Writer, candidates, select

UP5K = configuration("up5k")


@pytest.fixture
def material():
    rng = np.random.default_rng(4)
    weights = np.clip(rng.normal(0, 20, (3, 18, 8)), -128, 127).astype(np.int8)
    weights[2, :, 5:] = 0
    records = tuple(rng.integers(-128, 128, (8, 8)).astype(np.int8) for _ in range(3))
    return Material(21, records, weights, (3, 9))


@pytest.fixture
def network(chain):
    return chain(9, 9, 8).conv(16, padding=(1, 1, 1, 1)).depthwise().conv(24, size=(1, 1)).dense(10).network()


@pytest.mark.parametrize("choice", [Choice(a, b) for a in (False, True) for b in (False, True)])
def test_a_written_layer_is_made_again(material, choice):
    writer = Writer(8)
    bits = sum(writer.layer(material, choice))
    program = assemble(writer.instructions, writer.rows, 8)
    weights, records = decode(program, 8)
    assert (weights == material.weights.reshape(-1, 8)).all()
    assert all((got == wanted).all() for got, wanted in zip(records, material.records, strict=True))
    size = 16 + bits + 8 * 8 * 3
    assert (
        bits <= 8 * sum(len(stream) for stream in (program.code, program.coded, program.literals)) < size + 64
    )


def test_candidates_are_as_they_say(material):
    for candidate in candidates(material, 8):
        writer = Writer(8)
        assert sum(writer.layer(material, candidate.choice)) == candidate.bits
        assert writer.engine_cycles == candidate.engine_cycles


def test_selection_keeps_its_allowance():
    rng = np.random.default_rng(6)
    layers = [
        [
            Candidate(Choice(), 1000, 0),
            *(
                Candidate(Choice(True), int(rng.integers(200, 1000)), int(rng.integers(100, 900)))
                for _ in range(3)
            ),
        ]
        for _ in range(12)
    ]
    hidden = rng.integers(0, 300, 12).tolist()
    sizes = []
    for allowance in (0, 50, 200, 1000, 10_000):
        chosen = select(layers, hidden, allowance)
        extra = sum(max(0, one.engine_cycles - free) for one, free in zip(chosen, hidden, strict=True))
        assert extra <= allowance
        sizes.append(sum(one.bits for one in chosen))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == sum(min(one.bits for one in layer) for layer in layers)


def test_bytes_fall_as_cycles_are_allowed(network, inputs, infer):
    fastest = compile(network, UP5K, objective="fastest")
    least = sum(layer.total for layer in cycles(fastest))
    images = [fastest]
    for part in (1.0, 1.05, 1.5, 5.0):
        images.append(compile(network, UP5K, max_cycles=int(part * least)))
        assert sum(layer.total for layer in cycles(images[-1])) <= part * least
    images.append(compile(network, UP5K, objective="smallest"))
    for larger, smaller in itertools.pairwise(images):
        # Adaptive codes are not additive: a word more or less is no rule broken.
        assert smaller.device_bytes <= larger.device_bytes + UP5K.columns
    assert images[-1].device_bytes < fastest.device_bytes
    x = inputs(network, 3)
    for image in images:
        assert (infer(image, x) == golden.run(network, x)).all()


def test_a_machine_without_an_engine_gets_literals(network):
    config = dataclasses.replace(UP5K, entropy_engines=0)
    for objective in ("balanced", "smallest"):
        assert compile(network, config, objective=objective).sections["coded"].data == b""


def test_impossible_wishes(network):
    with pytest.raises(InputError, match=r"takes \d+ cycles on 'up5k', more than 10: allow more cycles"):
        compile(network, UP5K, max_cycles=10)
    with pytest.raises(
        UsageError, match="unknown objective 'tiny': choose one of fastest, balanced, smallest"
    ):
        compile(network, UP5K, objective="tiny")


def test_listing_accounts_for_all_rows(network):
    image = compile(network, UP5K, objective="smallest")
    made = steps(image.program(), 8)
    lines = disassemble(image.program(), 8)
    assert lines[-1].split() == [str(len(lines) - 2), "END"]
    listed = sum(int(line[55:].split()[1]) for line in lines[1:] if line[55:].split())
    assert listed == sum(one.rows for one, _ in made)
    assert any(one.op == P0.CODED for one, _ in made)
    assert bits_needed(np.zeros((1, 8), np.int8))[0] == 0
