"""The emitted Verilog of the array under cocotb."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.array import MacArray
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
@pytest.mark.parametrize("target", ["up5k", "ecp5-45f"])
def test_array(target: str, simulator: str) -> None:
    run_bench(MacArray(configuration(target)), "kolmogate_sim.tb_array", simulator, target=target)
