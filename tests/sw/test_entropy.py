"""The entropy code: what is coded is decoded, whatever is in it, and for how many bytes."""

import numpy as np
import pytest
from kolmogate.isa import HISTORY_ROWS, NO_PREDICTION
from kolmogate.programs.entropy import Coder, Decoder, Reference

NOTHING = (Reference(), Reference())


def coded(blocks, columns):
    coder = Coder(columns)
    for rows, live, references, records in blocks:
        coder.write(rows, live, references, records=records)
    return coder.finish()


def decoded(stream, blocks, columns, seed=0):
    """Decode among noise: what lies around a stream must not matter."""
    memory = np.random.default_rng(seed).integers(0, 256, len(stream) + 64).astype(np.uint8)
    base = len(stream) + 16
    memory[16:base] = np.frombuffer(stream, np.uint8)[::-1]
    decoder = Decoder(memory, base, columns)
    rows = [
        decoder.read(len(rows), live, references, records=records)
        for rows, live, references, records in blocks
    ]
    assert decoder.bits <= 8 * len(stream)
    return rows, decoder


def random_blocks(rng, columns):
    blocks = []
    for _ in range(rng.integers(1, 8)):
        live = int(rng.integers(1, 9)) * columns // 8
        count = int(rng.choice([1, 2, 9, 64, HISTORY_ROWS + 50]))
        scale = 2.0 ** rng.uniform(-3, 8)
        rows = np.zeros((count, columns), np.int8)
        rows[:, :live] = np.clip(rng.normal(0, scale, (count, live)), -128, 127)
        references = tuple(
            Reference(int(rng.choice([0, 1, 2, int(rng.integers(HISTORY_ROWS))])), int(rng.integers(4)))
            for _ in range(2)
        )
        blocks.append((rows, live, references, bool(rng.integers(2))))
    return blocks


@pytest.mark.parametrize("columns", [8, 32])
def test_random_instructions_come_back(columns):
    for seed in range(40):
        blocks = random_blocks(np.random.default_rng(seed), columns)
        stream = coded(blocks, columns)
        for got, (rows, *_) in zip(decoded(stream, blocks, columns)[0], blocks, strict=True):
            np.testing.assert_array_equal(got, rows, err_msg=f"seed {seed}")


def test_coder_and_decoder_count_the_same_cycles():
    blocks = random_blocks(np.random.default_rng(3), 8)
    coder = Coder(8)
    for rows, live, references, records in blocks:
        coder.write(rows, live, references, records=records)
    cycles = coder.cycles
    _, decoder = decoded(coder.finish(), blocks, 8)
    assert decoder.cycles == cycles


def test_a_copy_goes_its_own_way():
    rng = np.random.default_rng(1)
    rows = rng.integers(-128, 128, (50, 8)).astype(np.int8)
    coder = Coder(8)
    coder.write(rows, 8, NOTHING)
    before = coder.bits
    trial = coder.copy()
    trial.write(rows, 8, NOTHING)
    assert coder.bits == before < trial.bits
    coder.write(rows, 8, NOTHING)
    assert coder.finish() == trial.finish()


def test_nothing_takes_no_bytes():
    assert Coder(8).finish() == b""


@pytest.mark.parametrize(("sigma", "entropy"), [(2, 3.06), (10, 5.37), (30, 6.95)])
def test_rate_is_near_the_entropy(sigma, entropy):
    """Within 2.5% of what a Gaussian of that width takes, contexts learned included."""
    rng = np.random.default_rng(7)
    rows = np.clip(np.round(rng.normal(0, sigma, (4000, 8))), -128, 127).astype(np.int8)
    values, counts = np.unique(rows, return_counts=True)
    measured = -np.sum(counts / rows.size * np.log2(counts / rows.size))
    assert measured == pytest.approx(entropy, abs=0.05)
    stream = coded([(rows, 8, NOTHING, False)], 8)
    assert 8 * len(stream) / rows.size < 1.025 * measured
    assert len(values) > 5


def test_prediction_pays_where_rows_resemble_each_other():
    rng = np.random.default_rng(5)
    rows = np.zeros((2000, 8))
    for t in range(1, len(rows)):
        rows[t] = 0.75 * rows[t - 1] + rng.normal(0, 8, 8)
    rows = np.round(rows).astype(np.int8)
    plain = coded([(rows, 8, NOTHING, False)], 8)
    predicted = coded([(rows, 8, (Reference(1, 1), Reference(1, 2)), False)], 8)
    # 0.6 bits a number: half the logarithm of 1 / (1 - 0.75**2)
    assert len(predicted) < len(plain) - 0.5 * rows.size / 8


def test_any_bits_decode():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        memory = rng.integers(0, 256, 512).astype(np.uint8)
        decoder = Decoder(memory, int(rng.integers(512)), 8)
        rows = decoder.read(700, 8, (Reference(3, 1), Reference(0, NO_PREDICTION)))
        assert rows.shape == (700, 8)
