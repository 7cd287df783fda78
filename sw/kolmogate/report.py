"""What the command line tells of an image, as a table and as JSON."""

from collections.abc import Sequence
from typing import Any

from .cycles import cycles
from .image import Image

__all__ = [
    "describe",
    "format_dropped",
    "format_layers",
    "format_loss",
    "format_reordered",
    "format_table",
    "short_name",
]

NAME_WIDTH = 28


def describe(image: Image) -> dict[str, Any]:
    """`Image.report` with the predicted cycles of the image and of each layer."""
    report = image.report()
    timing = cycles(image)
    report["cycles"] = sum(layer.total for layer in timing)
    for layer, time in zip(report["layers"], timing, strict=True):
        layer["cycles"] = time.total
        layer["utilisation"] = time.utilisation
        layer["decode"], layer["decode_hidden"] = time.decode, time.hidden
    return report


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns under their headings: text to the left, numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    left = [all(isinstance(row[i], str) for row in rows) and i < 2 for i in range(len(header))]
    lines = []
    for line in (list(header), *cells):
        padded = (
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def short_name(name: str) -> str:
    """A layer's name as a table shows it, at most `NAME_WIDTH` characters.

    Converters join the names of everything they fused by ``;``, the operation itself last, each a path of
    network, layer and parts of the layer: the layer is what tells operations apart.
    """
    path = name.split(";")[-1].split("/")
    layer = path[1] if len(path) > 2 else path[0]
    return layer if len(layer) <= NAME_WIDTH else layer[: NAME_WIDTH - 2] + ".."


def format_layers(report: dict[str, Any]) -> str:
    """The layers of a `describe` report as a table."""
    rows = [
        (
            short_name(layer["name"]),
            layer["op"],
            layer["weights"],
            layer["bytes"],
            f"{layer['bits_per_weight']:.2f}",
            layer["macs"],
            layer["cycles"],
            "hidden" if layer["decode_hidden"] else f"{layer['decode']:,}",
            f"{layer['utilisation']:.0%}",
        )
        for layer in report["layers"]
    ]
    header = (
        "layer",
        "operator",
        "weights",
        "bytes",
        "bits/weight",
        "MACs",
        "cycles",
        "decode wait",
        "utilisation",
    )
    return format_table(header, rows)


def format_loss(image: Image) -> str:
    """What was lost, as a line to follow others; nothing if the image is exact."""
    if image.lossy is None:
        return ""
    lossy = image.lossy
    source = "synthetic inputs, as none were given" if lossy.synthetic else "calibration inputs"
    return f"\n{lossy.measure} {lossy.loss:.3g} to the original on {lossy.inputs} {source}"


def format_dropped(report: dict[str, Any]) -> str:
    """What simplification took from each operation of a `describe` report, as a table, and why."""
    rows = [
        (
            short_name(lost["name"]),
            lost["op"],
            lost["channels"],
            lost["constant"],
            lost["unread"],
            lost["frozen"],
            lost["weights"],
            lost["macs"],
        )
        for lost in report["dropped"]
    ]
    header = ("dropped from", "operator", "channels", "constant", "unread", "frozen", "weights", "MACs")
    return "\n".join(
        [
            format_table(header, rows),
            "constant: folded into the biases of what reads them; unread: nothing reads them;"
            " frozen: stay, without weights",
        ]
    )


def format_reordered(report: dict[str, Any]) -> str:
    """The operations of a `describe` report whose channels are in another order, and why."""
    names = ", ".join(map(short_name, report["reordered"]))
    return (
        f"channels in ascending order of their scales: {names}; what reads them absorbs it, and the constants"
        " of neighbours are alike"
    )
