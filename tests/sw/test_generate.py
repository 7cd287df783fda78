"""GENERATE: its quality on a unit Gaussian, and the pace of its encoder."""

import itertools
import time

import numpy as np
import pytest
from kolmogate.errors import InputError
from kolmogate.programs.generate import RATES, SIGMA, codebook, encode, generate


def test_codebook_is_pseudo_gaussian():
    codes = codebook()
    assert (codes.min(), codes.max()) == (-118, 119)
    assert abs(codes.mean()) < 0.2
    # kurtosis of a Gaussian is 3, of the sum of four uniform numbers 2.7
    centred = codes / SIGMA
    assert 2.5 < np.mean(centred**4) < 3


SCALES = {2: 1.02, 3: 1.05, 4: 1.05}
"""What the weights stand for in units of the source: a fine code gains by reaching further."""


@pytest.mark.parametrize(("k", "error"), [(2, 0.0743), (3, 0.0196), (4, 0.0053)])
def test_error_on_a_unit_gaussian(k, error):
    """Mean squared error within 1% of what the hash was chosen for.

    A core that does nothing else encodes 25,000 to 45,000 weights a second; here it may be shared.
    """
    x = np.random.default_rng(11).normal(size=60_000)
    encode(x[:10], k)
    started = time.perf_counter()
    weights = generate(encode(x * SIGMA / SCALES[k], k), k)
    rate = len(x) / (time.perf_counter() - started)
    measured = np.mean((weights * SCALES[k] / SIGMA - x) ** 2)
    print(f"k = {k}: {measured:.4f}, {rate:,.0f} weights a second")
    assert measured < 1.01 * error
    assert rate > 5_000


def test_encoding_is_the_best_there_is():
    """All sequences of four symbols of two bits are tried."""
    targets = np.array([30.0, -55.0, 4.0, 81.0])
    found = generate(encode(targets, 2), 2)
    every = min(
        np.sum((generate(symbols, 2) - targets) ** 2) for symbols in itertools.product(range(4), repeat=4)
    )
    assert np.sum((found - targets) ** 2) == every


def test_unknown_rates_are_refused():
    for k in (0, RATES[-1] + 1):
        with pytest.raises(InputError, match="GENERATE takes 1 to 5 new bits a weight, not"):
            encode([1.0], k)
