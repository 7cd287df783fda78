"""The emitted Verilog of the requantiser under cocotb."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.requantiser import Requantiser
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
@pytest.mark.parametrize("target", ["up5k", "ecp5-45f"])
def test_requantiser(target: str, simulator: str) -> None:
    run_bench(Requantiser(configuration(target)), "kolmogate_sim.tb_requantiser", simulator, target=target)
