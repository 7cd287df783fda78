"""The search: what is chosen costs what was said, and bytes fall as cycles are allowed."""

import dataclasses
import itertools

import kolmogate
import numpy as np
import pytest
from kolmogate import golden
from kolmogate.compiler import compile
from kolmogate.config import configuration
from kolmogate.cycles import cycles
from kolmogate.errors import InputError, UsageError
from kolmogate.isa import P0
from kolmogate.network import DepthwiseConv2D
from kolmogate.programs.overlap import ENGINE_START, Pace, pace_table, waits
from kolmogate.programs.p0 import RECORD_REFERENCES, assemble, bits_needed
from kolmogate.programs.reader import decode, disassemble, steps
from kolmogate.programs.search import NOTHING, Candidate, Choice, Material, Writer, candidates, select
from kolmogate.tflite_import import load_tflite

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


@pytest.mark.parametrize("choice", [Choice(a, b) for a in (0, 1 / 3, 1) for b in (0, 1 / 6, 1)])
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


def test_layers_alike_are_made_by_one_loop(material):
    """The first of three; what makes the others is in one LOOP, and the layer after them is its own."""
    constants = tuple(np.full((rows, 8), 5, np.int8) for rows in (8, 8, 5))
    pooling = Material(21, constants, np.zeros((3, 1, 8), np.int8))
    layers = [material, pooling, pooling, pooling, material, pooling]
    writer, added = Writer(8), []
    for layer in layers:
        before = len(writer.instructions)
        writer.layer(layer, Choice(1, 1))
        added.append(len(writer.instructions) - before)
    # RECORDS, ZERO, LOOP, RECORDS and ZERO become RECORDS and ZERO three times and LOOP.
    assert added[1:4] == [5, 2, 0]
    assert added[4] >= 3
    assert added[5] == 5
    weights, records = decode(assemble(writer.instructions, writer.rows, 8), 8)
    assert (weights == np.concatenate([layer.weights.reshape(-1, 8) for layer in layers])).all()
    wanted = [block for layer in layers for block in layer.records]
    assert len(records) == len(wanted)
    assert all((got == made).all() for got, made in zip(records, wanted, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_records_are_coded_like_those_before_for_a_loop(material, seed):
    """Of records that are noise no kind is shorter by as much as the instructions that another one takes."""
    rng, weights = np.random.default_rng(seed), material.weights[1:]
    writer, lengths = Writer(8), []
    for _ in range(3):
        records = tuple(rng.integers(-128, 128, (8, 8)).astype(np.int8) for _ in range(2))
        writer.layer(Material(13, records, weights), Choice(1, 1, references=NOTHING))
        lengths.append(len(writer.instructions))
    # LOOP joins them.
    assert lengths == [4, 5, 5]


def test_records_behind_replayed_weights_are_coded_as_is_shortest(material):
    """No loop goes on from before them, so that no kind of records is the cheaper for one."""
    rng, shorter = np.random.default_rng(0), 0
    for _ in range(20):
        noise = [tuple(rng.integers(-128, 128, (8, 8)).astype(np.int8) for _ in range(3)) for _ in range(3)]
        first, replayed, last = (Material(21, one, material.weights) for one in noise)
        writer = Writer(8)
        writer.layer(first, Choice(records=1))
        writer.layer(dataclasses.replace(replayed, replays=2), Choice(records=0))
        coder = writer._coder.copy()
        bits = []
        for references in RECORD_REFERENCES.values():
            trial = coder.copy()
            for block in last.records:
                trial.write(block, 8, references, records=True)
            bits.append(trial.bits)
        writer.layer(last, Choice(records=1))
        assert writer._coder.bits == min(bits)
        shorter += len(set(bits)) > 1
    assert shorter == 20


@pytest.mark.parametrize(("groups", "layers", "wanted"), [(3, 4, 3), (40, 30, 6)])
def test_equal_groups_of_layers_alike_are_one_loop(groups, layers, wanted):
    """RECORDS, ZERO and LOOP, which ends at 1,025 runs: the layer after that begins another."""
    pooling = Material(8 * groups, (np.full((8, 8), 5, np.int8),) * groups, np.zeros((groups, 1, 8), np.int8))
    writer = Writer(8)
    for _ in range(layers):
        writer.layer(pooling, Choice(1, 0))
    assert len(writer.instructions) == wanted
    weights, records = decode(assemble(writer.instructions, writer.rows, 8), 8)
    assert weights.shape == (groups * layers, 8)
    assert not weights.any()
    assert len(records) == groups * layers
    assert all((block == 5).all() for block in records)


def test_candidates_are_as_they_say(material):
    for candidate in candidates(material, 8):
        writer = Writer(8)
        assert sum(writer.layer(material, candidate.choice)) == candidate.bits
        assert writer.engine_cycles == candidate.engine_cycles


def test_parts_are_tried(material):
    alike = dataclasses.replace(material, records=tuple(block >> 5 for block in material.records))
    found = candidates(alike, 8)
    assert found[0].choice == Choice()
    assert {one.choice.records for one in found} == {0, 1 / 3, 2 / 3, 1}
    assert {0, 1} < {one.choice.weights for one in found}
    assert all(one.engine_cycles < other.engine_cycles for one, other in itertools.pairwise(found))
    assert all(one.bits > other.bits for one, other in itertools.pairwise(found))


def test_equal_constants_are_stored_once(chain, inputs, infer):
    """Those of a layer that has no weights. A program that is streamed cannot go back."""
    network = chain(6, 6, 40).depthwise(size=(1, 1)).pool((2, 2)).network()
    once, again = (compile(network, UP5K, objective="fastest", streamed=one) for one in (False, True))
    saved = len(again.sections["literals"].data) - len(once.sections["literals"].data)
    # Five groups of 64 bytes; SEEK goes to every other word.
    assert saved == 4 * 64 - UP5K.columns
    x = inputs(network, 3)
    assert (infer(once, x) == golden.run(network, x)).all()
    # It waits for literals, five times; the array hides most of that.
    least, total = (sum(layer.total for layer in cycles(image)) for image in (again, once))
    assert total <= least + 5 * 9


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
    paces = [Pace(2, int(rng.integers(50, 500)), 4, 10) for _ in layers]
    unavoidable = waits(pace_table(paces), [(0, 1)] * 12).sum()
    sizes = []
    for allowance in (0, 50, 200, 1000, 10_000):
        chosen = select(layers, paces, allowance)
        work = [(one.engine_cycles, one.engine_groups) for one in chosen]
        assert waits(pace_table(paces), work).sum() - unavoidable <= allowance
        sizes.append(sum(one.bits for one in chosen))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == sum(min(one.bits for one in layer) for layer in layers)


def test_layers_that_must_not_wait():
    layers = [[Candidate(Choice(), 1000, 0), Candidate(Choice(True), 900, 3000)] for _ in range(4)]
    paces = [Pace(1, 1000, 10, 10)] * 4
    coded = [one.choice.records for one in select(layers, paces, 8000)]
    assert True in coded
    chosen = select(layers, paces, 8000, [index == coded.index(True) for index in range(4)])
    assert not chosen[coded.index(True)].choice.records


def test_waits():
    """What the estimate is made of: short work is hidden, long work shows, two groups are made ahead."""
    assert not waits(pace_table([Pace(2, 4000, 10, 10)] * 3), [(0, 2), (900, 2), (900, 2)]).any()
    first, second = waits(pace_table([Pace(1, 1000, 10, 0)] * 2), [(0, 1), (5000, 1)])
    assert first == 0
    assert second == ENGINE_START + 5000 - 1000 - 100
    # The third layer's cannot be begun before the first's are used up.
    third = waits(pace_table([Pace(1, 10_000, 10, 0)] * 3), [(0, 1), (0, 1), (15_000, 1)])[2]
    assert third == 15_000 - 10_000 - 1000
    # What one group has to wait for is not spread over all.
    spread, at_once = (waits(pace_table([Pace(4, 40_000, 10, 0)]), [(40_000, n)])[0] for n in (4, 1))
    assert spread == ENGINE_START + 10_000 - 1000
    assert at_once == 40_000 - 10_000 - 1000


def test_depthwise_layers_do_not_wait_in_balanced_images(models_folder):
    network = load_tflite(models_folder / "vww_96_int8.tflite")
    fastest, balanced = (compile(network, UP5K, objective=one) for one in ("fastest", "balanced"))
    for layer, spent in zip(balanced.layers, cycles(balanced), strict=True):
        if layer.op == DepthwiseConv2D.kind:
            assert spent.hidden
            assert spent.utilisation > 0.2
    least, total = (sum(layer.total for layer in cycles(image)) for image in (fastest, balanced))
    assert total <= 1.05 * least
    assert balanced.device_bytes < fastest.device_bytes


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


def test_an_image_without_literals_runs(network, inputs, monkeypatch):
    """Its coded bytes are found below literals that are not there."""
    monkeypatch.setattr("kolmogate.compiler._smallest", lambda job, coded: job.image(coded))
    image = compile(network, UP5K, objective="smallest")
    assert image.sections["literals"].data == b""
    assert image.sections["literals"].address < UP5K.scratchpad_bytes
    x = inputs(network, 2)
    with kolmogate.open("machine", UP5K) as machine:
        assert (machine.load(image)(x) == golden.run(network, x)).all()


def test_fastest_within_a_budget_of_bytes(network):
    fastest, smallest = (compile(network, UP5K, objective=one) for one in ("fastest", "smallest"))
    budget = (fastest.device_bytes + smallest.device_bytes) // 2
    image = compile(network, UP5K, max_bytes=budget)
    assert image.device_bytes <= budget
    times = [sum(layer.total for layer in cycles(one)) for one in (fastest, image, smallest)]
    assert times == sorted(times)
    assert compile(network, UP5K, max_bytes=fastest.device_bytes) == fastest
    with pytest.raises(InputError, match=r"takes \d+ bytes on 'up5k', more than 100: allow more bytes"):
        compile(network, UP5K, max_bytes=100)
    with pytest.raises(UsageError, match="a budget of cycles or of bytes, not both"):
        compile(network, UP5K, max_cycles=10, max_bytes=10)


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
