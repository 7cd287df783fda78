"""The emitted Verilog of the weight decoder under cocotb."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.lanes import WeightDecoder
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
@pytest.mark.parametrize("target", ["up5k", pytest.param("ecp5-45f", marks=pytest.mark.slow)])
def test_lanes(target: str, simulator: str) -> None:
    decoder = WeightDecoder(configuration(target))
    run_bench(decoder, "kolmogate_sim.tb_lanes", simulator, target=target, programs=15)


@pytest.mark.cocotb
@pytest.mark.slow
def test_a_thousand_programs() -> None:
    decoder = WeightDecoder(configuration("up5k"))
    run_bench(decoder, "kolmogate_sim.tb_lanes", "verilator", target="up5k", programs=1000)
