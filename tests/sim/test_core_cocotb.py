"""The emitted Verilog of the whole core under cocotb."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.core import Core
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
@pytest.mark.parametrize("target", ["up5k", pytest.param("ecp5-45f", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "networks", [pytest.param(2, id="some"), pytest.param(8, marks=pytest.mark.slow, id="all")]
)
def test_core(target: str, simulator: str, networks: int) -> None:
    run_bench(
        Core(configuration(target)), "kolmogate_sim.tb_core", simulator, target=target, networks=networks
    )
