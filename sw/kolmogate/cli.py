"""The command line: `kolmogate demo | compile | run | simulate | inspect | report | disassemble |
assemble | bench` and for boards `boards | build | flash | selftest`.

Exit codes: 0 done; 1 the input or model cannot be used; 2 usage; 3 a tool is missing; 4 link or device;
130 interrupted. Errors are one sentence on stderr; `--debug` shows where they came from.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import golden
from .arrays import load_inputs, save_outputs
from .bench import bench, format_bench, save_bench
from .board_commands import add_board_commands
from .compiler import OBJECTIVES, compile
from .config import CONFIGURATIONS, configuration
from .container import load_image, save_image
from .demo import demo
from .errors import DeviceError, InputError, KolmogateError, UsageError
from .files import require_folder, write_whole
from .front import format_front, front, require_plots, save_front
from .image import Image
from .lossy import compress
from .network import Network
from .page import write_report
from .programs.assembly import disassembly, parse
from .programs.reader import disassemble
from .protocol import BAUD
from .report import describe, format_dropped, format_layers, format_loss, format_reordered
from .runtime import open as open_device
from .runtime import simulated_link
from .selftest import selftest
from .serial_link import BAUDS
from .tflite_export import save_tflite
from .tflite_import import load_tflite

__all__ = ["main"]

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
        sys.stdout.flush()
        return 0
    except KolmogateError as error:
        if options.debug:
            traceback.print_exc()
        else:
            print(f"kolmogate: {error}", file=sys.stderr)
        return error.exit_code
    except MemoryError:
        print("kolmogate: there is not enough memory; try a smaller model or batch", file=sys.stderr)
        return KolmogateError.exit_code
    except KeyboardInterrupt:
        print("kolmogate: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; nothing is left to tell, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kolmogate", description="Run neural networks from compact weight programs."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    # Every command takes these.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON")
    common.add_argument("--debug", action="store_true", help="show a traceback with errors")

    command = commands.add_parser(
        "demo", parents=[common], help="the shipped network from file to RTL, checked byte by byte"
    )
    command.set_defaults(command=_demo)

    command = commands.add_parser("compile", parents=[common], help="compile a .tflite into a .kg image")
    command.add_argument("model", type=Path, metavar="MODEL.tflite")
    command.add_argument("-o", "--output", type=Path, metavar="M.kg")
    command.add_argument(
        "--target", default="up5k", help=f"machine to compile for: {', '.join(CONFIGURATIONS)} (up5k)"
    )
    command.add_argument(
        "--exact", action="store_true", help="give the reference's output to the bit, or refuse (the default)"
    )
    command.add_argument(
        "--objective",
        choices=OBJECTIVES,
        default="balanced",
        help="what the programs are chosen for; balanced: the smallest within 5%% of the fastest (balanced)",
    )
    command.add_argument(
        "--max-cycles", type=int, metavar="N", help="the smallest image that takes at most N cycles"
    )
    command.add_argument(
        "--max-bytes", type=int, metavar="N", help="the fastest image that takes at most N bytes"
    )
    command.add_argument(
        "--stream",
        action="store_true",
        help="send the program anew for each inference, as is done where it does not fit the device",
    )
    command.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="compress with loss: KL divergence of SOFTMAX outputs, or relative error, at most X",
    )
    command.add_argument(
        "--calibration",
        type=Path,
        metavar="D.npz",
        help="inputs that the loss is measured on, as run takes them; made up where there are none",
    )
    command.add_argument(
        "--export", type=Path, metavar="T.tflite", help="also write the network that is run as a .tflite"
    )
    command.add_argument(
        "--front",
        type=Path,
        metavar="NAME",
        help="write bytes by cycles, from the fastest image to the smallest, to NAME.json, .md and .svg",
    )
    command.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="images of the front compiled side by side (1)"
    )
    command.add_argument(
        "--backend", default="loky", metavar="NAME", help="joblib's back-end for the jobs (loky)"
    )
    command.set_defaults(command=_compile)

    command = commands.add_parser("run", parents=[common], help="run an image on inputs")
    command.add_argument("model", type=Path, metavar="M.kg", help="an image, or a .tflite with --on golden")
    command.add_argument(
        "--input", type=Path, required=True, metavar="X.npy", help="inputs, batch first (.npz: array x)"
    )
    command.add_argument("--output", type=Path, metavar="Y.npy", help="where to write the outputs")
    command.add_argument(
        "--on",
        default="machine",
        metavar="WHERE",
        help="golden, machine, rtl, the serial port of a board, or auto to look for one (machine)",
    )
    _add_baud(command)
    command.add_argument("--waves", type=Path, metavar="FILE.fst", help="record the RTL's signals")
    command.set_defaults(command=_run)

    command = commands.add_parser(
        "simulate", help="a simulated board at a serial port of its own, until interrupted"
    )
    command.add_argument("--target", default="up5k", help="machine to simulate (up5k)")
    command.add_argument(
        "--pty", action="store_true", required=True, help="print the name of a pseudo-terminal to open"
    )
    command.add_argument("--debug", action="store_true", help="show a traceback with errors")
    command.set_defaults(command=_simulate)

    command = commands.add_parser("inspect", parents=[common], help="show what an image holds")
    command.add_argument("image", type=Path, metavar="M.kg")
    command.add_argument("--programs", action="store_true", help="disassemble the weight programs")
    command.set_defaults(command=_inspect)

    command = commands.add_parser(
        "disassemble", parents=[common], help="write an image's weight program as text"
    )
    command.add_argument("image", type=Path, metavar="M.kg")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="P.kasm")
    command.set_defaults(command=_disassemble)

    command = commands.add_parser(
        "assemble", parents=[common], help="put a weight program from text into an image"
    )
    command.add_argument("program", type=Path, metavar="P.kasm")
    command.add_argument("--into", type=Path, required=True, metavar="M.kg", help="the image that it is for")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="NEW.kg")
    command.set_defaults(command=_assemble)

    command = commands.add_parser("report", help="a page with figures about an image")
    command.add_argument("image", type=Path, metavar="M.kg")
    command.add_argument(
        "--compare", type=Path, nargs="+", default=[], metavar="N.kg", help="images to show beside it"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="R.html")
    command.add_argument("--png", type=Path, metavar="FOLDER", help="also write each figure there as PNG")
    command.add_argument("--debug", action="store_true", help="show a traceback with errors")
    command.set_defaults(command=_report)

    command = commands.add_parser("bench", parents=[common], help="networks on machines: cycles and bytes")
    command.add_argument("models", type=Path, nargs="+", metavar="MODEL.tflite")
    command.add_argument(
        "--target", action="append", help=f"a machine, again for more: {', '.join(CONFIGURATIONS)} (up5k)"
    )
    command.add_argument("--on", default="machine", help="machine or rtl (machine)")
    command.add_argument(
        "-o", "--output", type=Path, metavar="NAME", help="write the results to NAME.md and NAME.json"
    )
    command.set_defaults(command=_bench)

    add_board_commands(commands, common)

    command = commands.add_parser(
        "selftest", parents=[common], help="known answers of a board, or of a simulated one"
    )
    command.add_argument(
        "port", metavar="PORT", help="the serial port of a board, auto to look for one, or rtl"
    )
    command.add_argument("--target", default="up5k", help="machine to simulate with rtl (up5k)")
    _add_baud(command)
    command.set_defaults(command=_selftest)
    return parser


def _add_baud(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--baud", type=int, default=BAUD, help=f"rate of the serial port, {BAUDS[0]} to {BAUDS[-1]} ({BAUD})"
    )


def _print_json(result: Any) -> None:
    print(json.dumps(result, indent=2))


def _demo(options: argparse.Namespace) -> None:
    demo(as_json=options.json)


def _compile(options: argparse.Namespace) -> None:
    config = configuration(options.target)
    if options.max_loss is not None and options.exact:
        raise UsageError("--exact allows no loss: leave out --max-loss, or --exact")
    if options.max_loss is None and options.calibration is not None:
        raise UsageError("calibration inputs are for compression with loss: add --max-loss")
    if options.output is None and options.front is None:
        raise UsageError("say what to write: an image with -o, or the front with --front")
    if options.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {options.jobs}")
    for path in (options.output, options.export, options.front):
        if path is not None:
            require_folder(path)
    if options.front is not None:
        require_plots()
    network = load_tflite(options.model)
    if options.front is not None:
        _front(options, network)
        if options.output is None:
            return
    wishes = {name: getattr(options, name) for name in ("objective", "max_cycles", "max_bytes")}
    wishes["streamed"] = options.stream
    if options.max_loss is None:
        image = compile(network, config, **wishes)
    else:
        calibration = None
        if options.calibration is not None:
            calibration = load_inputs(options.calibration, network.tensors[network.input])
        compressed = compress(network, config, max_loss=options.max_loss, calibration=calibration, **wishes)
        network, image = compressed.network, compressed.image
    report = describe(image)
    if options.export is not None:
        save_tflite(network, options.export)
    save_image(image, options.output)
    if options.json:
        _print_json(report)
        return
    print(format_layers(report))
    print(_summary(image, report))
    for path in (options.export, options.output):
        if path is not None:
            print(f"wrote {path}")


def _front(options: argparse.Namespace, network: Network) -> None:
    points = front(network, configuration(options.target), jobs=options.jobs, backend=options.backend)
    paths = save_front(points, options.front, f"{options.model.stem} on {options.target}")
    if options.json:
        if options.output is None:
            _print_json([point._asdict() for point in points])
        return
    print(format_front(points))
    for path in paths:
        print(f"wrote {path}")


def _summary(image: Image, report: dict[str, Any]) -> str:
    sections = report["sections"]
    use = "each inference" if image.streamed else "the device"
    return (
        f"{image.device_bytes:,} bytes for {use} ({sections['programs']:,} programs, "
        f"{sections['constants']:,} constants, {sections['descriptors']:,} descriptors) for "
        f"{report['weights']:,} weights; {report['cycles']:,} cycles an inference predicted on "
        f"{image.config.name}{format_loss(image)}"
    )


def _load(path: Path, on: str) -> Image | Network:
    """The model to run: an image, or for golden a network."""
    if path.suffix != ".tflite":
        return load_image(path)
    if on != "golden":
        raise UsageError(f"{path} is not compiled: run it with --on golden, or compile it first")
    return load_tflite(path)


def _run(options: argparse.Namespace) -> None:
    if options.on not in ("golden", "machine", "rtl", "auto") and not _names_a_port(options.on):
        raise UsageError(f"cannot run on {options.on!r}: choose golden, machine, rtl, auto or a serial port")
    if options.waves is not None and options.on != "rtl":
        raise UsageError("waveforms are recorded from the RTL alone: add --on rtl")
    for path in (options.output, options.waves):
        if path is not None:
            require_folder(path)
    model = _load(options.model, options.on)
    cycles = None
    started = time.monotonic()
    if isinstance(model, Network):
        x = load_inputs(options.input, model.tensors[model.input])
        y = golden.run(model, x)
    elif options.on == "golden":
        x = load_inputs(options.input, model.input.tensor)
        y = golden.run(model.network(), x)
    else:
        x = load_inputs(options.input, model.input.tensor)
        with open_device(options.on, model.config, waves=options.waves, baud=options.baud) as device:
            loaded = device.load(model)
            y = loaded(x)
            cycles = round(sum(loaded.cycles) / len(x))
            milliseconds = [
                1000 * sum(part) / len(x) for part in (loaded.compute_seconds, loaded.link_seconds)
            ]
    seconds = time.monotonic() - started
    if options.output is not None:
        save_outputs(options.output, y)
    if options.json:
        _print_json(
            {
                "inputs": len(x),
                "on": options.on,
                "cycles_per_inference": cycles,
                "seconds": round(seconds, 3),
            }
        )
        return
    if options.output is None:
        for index, row in enumerate(y.reshape(len(y), -1)):
            shown = " ".join(str(value) for value in row[:16])
            print(f"{index}: {shown}{' ...' if row.size > 16 else ''}")
    else:
        print(f"wrote {options.output}")
    timing = ""
    if cycles is not None:
        timing = f", {cycles:,} cycles an inference"
        if options.on != "machine":
            timing += " ({:.3g} ms, and {:.3g} ms of link)".format(*milliseconds)
    print(f"{len(x)} inputs on {options.on}{timing}, {seconds:.1f} s")


def _names_a_port(name: str) -> bool:
    """Whether it looks like a port, so that a wrong one is told from a wrong word."""
    return "/" in name or name.upper().startswith("COM")


def _simulate(options: argparse.Namespace) -> None:
    with simulated_link(configuration(options.target)) as link:
        from kolmogate_sim.terminal import serve

        serve(link, lambda name: print(name, flush=True))


def _inspect(options: argparse.Namespace) -> None:
    image = load_image(options.image)
    report = describe(image)
    listing = disassemble(image.program(), image.config.columns) if options.programs else None
    if options.json:
        _print_json(report if listing is None else {**report, "listing": listing})
        return
    kind = "exact" if image.lossy is None else "compressed with loss"
    print(f"{image.model}, compiled for {image.config.name}, {kind}")
    print(format_layers(report))
    if image.dropped:
        print(format_dropped(report))
    if image.reordered:
        print(format_reordered(report))
    print(_summary(image, report))
    if listing is not None:
        print("\n".join(listing))


def _disassemble(options: argparse.Namespace) -> None:
    image = load_image(options.image)
    write_whole(options.output, disassembly(image.program(), image.config.columns).encode())
    if options.json:
        _print_json({"program": str(options.output)})
    else:
        print(f"wrote {options.output}")


def _assemble(options: argparse.Namespace) -> None:
    require_folder(options.output)
    try:
        text = options.program.read_text()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"cannot read {options.program} as text: check the path") from None
    try:
        program, columns = parse(text)
    except InputError as error:
        raise InputError(f"{options.program}: {error}") from None
    image = load_image(options.into)
    if columns != image.config.columns:
        raise InputError(
            f"{options.program} is for {columns} columns and {options.into} has {image.config.columns}:"
            " disassemble that image"
        )
    image = image.with_program(program)
    image.check()
    save_image(image, options.output)
    if options.json:
        _print_json({"image": str(options.output), "device_bytes": image.device_bytes})
    else:
        print(f"wrote {options.output}, {image.device_bytes:,} bytes for the device")


def _report(options: argparse.Namespace) -> None:
    require_folder(options.output)
    if options.png is not None and not options.png.is_dir():
        raise UsageError(f"there is no folder {options.png} for the figures: make it first")
    write_report(options.image, options.compare, options.output, options.png)
    print(f"wrote {options.output}")


def _selftest(options: argparse.Namespace) -> None:
    if options.port not in ("machine", "rtl", "auto") and not _names_a_port(options.port):
        raise UsageError(f"cannot test {options.port!r}: choose rtl, auto or a serial port")
    outcomes = []
    with open_device(options.port, configuration(options.target), baud=options.baud) as opened:
        for outcome in selftest(opened.device):
            outcomes.append(outcome)
            if options.json:
                continue
            print(f"{'ok' if outcome.passed else 'FAILED':7} {outcome.test:9} {outcome.detail}", flush=True)
            if outcome.advice:
                print(f"{'':17} try: {outcome.advice}", flush=True)
    if options.json:
        _print_json([asdict(outcome) for outcome in outcomes])
    failed = [outcome.test for outcome in outcomes if not outcome.passed]
    if failed:
        raise DeviceError(
            f"the device failed the self-test in {', '.join(failed)}: its output says what to try"
        )


def _bench(options: argparse.Namespace) -> None:
    if options.on not in ("machine", "rtl"):
        raise UsageError(f"cannot bench on {options.on!r}: choose machine or rtl")
    if options.output is not None:
        require_folder(options.output)
    results = bench(options.models, options.target or ["up5k"], options.on)
    if options.output is not None:
        targets = "".join(f" --target {target}" for target in options.target or [])
        models = " ".join(model.name for model in options.models)
        command = f"kolmogate bench {models}{targets} --on {options.on} -o {options.output.name}"
        save_bench(results, options.output, command)
    if options.json:
        _print_json(results)
    else:
        print(format_bench(results))
