"""What synthesis makes of array, requantiser and lanes, against the golden models."""

import pytest
from amaranth.lib import wiring
from kolmogate.config import configuration
from kolmogate_hw.array import MacArray
from kolmogate_hw.cells import ICE40_ULTRAPLUS, Family, family
from kolmogate_hw.lanes import WeightDecoder
from kolmogate_hw.requantiser import Requantiser
from kolmogate_sim.bench import run_bench, simulators
from kolmogate_sim.netlist import netlist

ECP5_25F = family(Family("LFE5U-25F", 0))


@pytest.mark.slow
@pytest.mark.cocotb
@pytest.mark.parametrize(("target", "chip"), [("up5k", ICE40_ULTRAPLUS), ("ecp5-25f", ECP5_25F)])
@pytest.mark.parametrize(
    ("component", "bench"),
    [(MacArray, "tb_array"), (Requantiser, "tb_requantiser"), (WeightDecoder, "tb_lanes")],
)
def test_netlist(component: type[wiring.Component], bench: str, target: str, chip: Family) -> None:
    run_bench(
        component(configuration(target)),
        f"kolmogate_sim.{bench}",
        # One is enough here: what simulators make of each other's corners, other benches compare.
        simulators()[-1],
        chip,
        synthesised=True,
        programs=3,
        target=target,
    )


@pytest.mark.slow
def test_netlist_is_made_of_cells() -> None:
    """The products of the array are multiplier cells as far as there are any, on either chip."""
    text = netlist(MacArray(configuration("up5k")), ICE40_ULTRAPLUS)
    assert text.count("SB_MAC16 ") == 8
    assert "always" not in text
    text = netlist(MacArray(configuration("ecp5-25f")), ECP5_25F)
    # The requantisers take the others.
    assert text.count("MULT18X18D ") == ECP5_25F.multipliers - 16
    assert "always" not in text
