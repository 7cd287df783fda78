"""What components become on a chip, with models of its cells, against the golden models."""

import pytest
from kolmogate.config import configuration
from kolmogate_hw.array import MacArray
from kolmogate_hw.cells import ICE40_ULTRAPLUS
from kolmogate_hw.scratchpad import ScratchpadMemory
from kolmogate_sim.bench import run_bench, simulators


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
def test_array(simulator: str) -> None:
    run_bench(
        MacArray(configuration("up5k")), "kolmogate_sim.tb_array", simulator, ICE40_ULTRAPLUS, target="up5k"
    )


@pytest.mark.cocotb
@pytest.mark.parametrize("simulator", simulators())
def test_scratchpad_memory(simulator: str) -> None:
    run_bench(
        ScratchpadMemory(configuration("up5k")),
        "kolmogate_sim.tb_scratchpad_memory",
        simulator,
        ICE40_ULTRAPLUS,
        target="up5k",
    )
