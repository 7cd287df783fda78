"""The emitted Verilog of the whole core under cocotb."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.core import Core
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
@pytest.mark.parametrize(
    ("target", "networks"),
    [
        pytest.param("up5k", 2, id="some"),
        *(pytest.param(target, 8, marks=pytest.mark.slow) for target in ("up5k", "ecp5-45f")),
    ],
)
def test_core(target: str, simulator: str, networks: int) -> None:
    run_bench(
        Core(configuration(target)), "kolmogate_sim.tb_core", simulator, target=target, networks=networks
    )
