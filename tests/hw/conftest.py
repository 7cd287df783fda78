"""Fixtures of the gateware tests: the configurations they run on and their source of randomness."""

import random

import pytest
from kolmogate.config import CONFIGURATIONS, MachineConfig
from kolmogate_sim.streams import seed

# One column group of constants in a single batch, rows no power of two, a tiny column buffer, no GENERATE.
CORNER = MachineConfig("corner", 3, 8, 8, 32, 8 << 10, 1, 16, 1_000_000, generator=False)


@pytest.fixture(
    params=[*(CONFIGURATIONS[name] for name in ("up5k", "up5k-small", "ecp5-45f")), CORNER],
    ids=lambda config: config.name,
)
def config(request: pytest.FixtureRequest) -> MachineConfig:
    """Each machine configuration that the component tests cover."""
    return request.param


@pytest.fixture
def source(request: pytest.FixtureRequest) -> random.Random:
    """Randomness of one test, the same in every run with the same seed."""
    return random.Random(f"{seed()} {request.node.name}")
