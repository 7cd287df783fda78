"""The emitted Verilog of the link under cocotb."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.link import Link
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
def test_link(simulator):
    run_bench(Link(configuration("up5k")), "kolmogate_sim.tb_link", simulator, config="up5k")
