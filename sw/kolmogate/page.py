"""`kolmogate report`: one page about a compiled network, complete in itself, with figures."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tqdm import tqdm

from .container import load_image
from .figures import FIGURES, Subject, png, svg
from .files import write_whole
from .report import describe

__all__ = ["write_report"]

STYLE = """
:root { color-scheme: light }
body { margin: 0; background: #f4f5f7; color: #20242a; font: 16px/1.5 system-ui, sans-serif }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.7rem; margin: .5rem 0 0 }
h2 { font-size: 1.1rem; margin: 0 0 .6rem }
p { margin: .3rem 0; color: #4a515b }
section { background: #fff; border: 1px solid #e1e4e9; border-radius: .6rem; padding: 1rem 1.2rem;
  margin: 1rem 0; overflow-x: auto }
img { display: block; width: 100%; min-width: 34rem; height: auto }
img.graph { min-width: 0; max-width: 40rem; margin: 0 auto }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem;
  margin: 1rem 0 }
.tile { background: #fff; border: 1px solid #e1e4e9; border-radius: .6rem; padding: .7rem .9rem }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.tile span { color: #5d6570; font-size: .85rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #eceef1; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
"""


def write_report(image: Path, compared: Sequence[Path], output: Path, pngs: Path | None = None) -> None:
    """Write the page about ``image``, beside others that it is ``compared`` with, to ``output``.

    With ``pngs``, a folder, each figure is written there too. Raises `InputError` for images that cannot be
    read and paths that cannot be written, `ToolMissingError` without matplotlib.
    """
    paths = [image, *compared]
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    subjects = [Subject(name, load_image(path)) for name, path in zip(names, paths, strict=True)]
    parts = [_head(subjects[0]), _table(subjects)]
    for name, (title, draw) in tqdm(FIGURES.items(), desc="report", delay=2, leave=False, disable=None):
        if pngs is not None:
            write_whole(pngs / f"{name}.png", png(draw(subjects)))
        data = base64.b64encode(svg(draw(subjects))).decode()
        parts.append(
            f'<section><h2>{escape(title)}</h2><img class="{name}" alt="{escape(title)}"'
            f' src="data:image/svg+xml;base64,{data}"></section>'
        )
    body = "\n".join(parts)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(subjects[0].name)} · Kolmogate</title><style>{STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
    write_whole(output, page.encode())


def _head(subject: Subject) -> str:
    image, report = subject.image, describe(subject.image)
    bits = 8 * report["sections"]["programs"] / max(report["weights"], 1)
    config = image.config
    tiles = [
        (f"{report['device_bytes']:,}", "bytes for the device"),
        (f"{report['weights']:,}", "weights"),
        (f"{bits:.2f}", "bits of program a weight"),
        (f"{report['cycles']:,}", "cycles an inference, predicted"),
        (f"{config.clock_hz / report['cycles']:,.0f}", f"a second at {config.clock_hz / 1e6:.0f} MHz"),
        (f"{report['live_macs'] / (report['cycles'] * config.macs):.0%}", "of all multiplier cycles used"),
    ]
    shown = "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)
    loss = "Exact: every output bit is that of the reference kernels."
    if image.lossy is not None:
        source = "synthetic inputs, as none were given" if image.lossy.synthetic else "calibration inputs"
        loss = (
            f"{image.lossy.measure} to the original {image.lossy.loss:.3g} on {image.lossy.inputs} {source}."
        )
    return (
        f"<h1>{escape(image.model)}</h1><p>{escape(subject.name)}, compiled for {escape(config.name)}."
        f' {escape(loss)}</p><div class="tiles">{shown}</div>'
    )


def _table(subjects: Sequence[Subject]) -> str:
    rows = []
    for one in subjects:
        report = one.image.report()
        sections = report["sections"]
        cells = [
            report["device_bytes"],
            *(sections[key] for key in ("programs", "constants", "descriptors")),
            sum(layer.total for layer in one.cycles),
        ]
        loss = "exact" if one.image.lossy is None else f"{one.image.lossy.loss:.3g}"
        numbers = "".join(f"<td>{cell:,}</td>" for cell in cells)
        rows.append(f"<tr><td>{escape(one.name)}</td>{numbers}<td>{loss}</td></tr>")
    header = ("image", "bytes", "programs", "constants", "descriptors", "cycles", "loss")
    heads = "".join(f"<th>{head}</th>" for head in header)
    return f"<section><h2>Images</h2><table><tr>{heads}</tr>{''.join(rows)}</table></section>"
