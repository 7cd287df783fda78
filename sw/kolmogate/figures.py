"""Figures of compiled networks, drawn by matplotlib (the extra `plot`).

Each function returns a figure of one panel an image, the first of which is the one looked at; `svg` and `png`
turn it into bytes.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .cycles import LayerCycles, cycles
from .errors import ToolMissingError
from .image import Image
from .network import Network, Weighted
from .programs.reader import instruction_bytes
from .report import short_name

__all__ = ["FIGURES", "Subject", "graph", "png", "svg"]

COLOURS = ("#2b6cb0", "#dd8a2d", "#3a9a6b", "#b8433b", "#7a68b0", "#8a8f98")
PARTS = ("compute", "drain", "decode", "memory", "other")
WIDTH = 10.5
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class Subject:
    """An image, what it is called in the figures, and what is derived from it."""

    name: str
    image: Image

    @cached_property
    def network(self) -> Network:
        return self.image.network()

    @cached_property
    def cycles(self) -> list[LayerCycles]:
        return cycles(self.image)

    @property
    def layers(self) -> list[str]:
        """Short names of the layers."""
        return [short_name(layer.name) for layer in self.image.layers]


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ToolMissingError(
            "figures need matplotlib, which is not installed: pip install 'kolmogate[plot]'"
        ) from None
    # Draws into memory alone, whatever display there is.
    matplotlib.use("agg")
    matplotlib.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#8a8f98",
            "axes.prop_cycle": f"cycler('color', {COLOURS})",
            "svg.hashsalt": "kolmogate",
        }
    )
    import matplotlib.pyplot

    return matplotlib.pyplot


def _save(figure: Any, form: str) -> bytes:
    stream = io.BytesIO()
    # No date: the same image gives the same bytes.
    metadata = {"Date": None} if form == "svg" else {}
    figure.savefig(stream, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
    _pyplot().close(figure)
    return stream.getvalue()


def svg(figure: Any) -> bytes:
    """The figure as SVG; it is closed."""
    return _save(figure, "svg")


def png(figure: Any) -> bytes:
    """The figure as PNG; it is closed."""
    return _save(figure, "png")


def _bars(
    subjects: Sequence[Subject],
    unit: str,
    values: Callable[[Subject], dict[str, list[float]]],
) -> Any:
    """Stacked horizontal bars, one a layer; ``values`` gives the parts of each layer by what they are."""
    most = max(len(one.layers) for one in subjects)
    figure, axes = _pyplot().subplots(
        1,
        len(subjects),
        figsize=(WIDTH, 0.9 + 0.21 * most),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, one in zip(axes[0], subjects, strict=True):
        places = np.arange(len(one.layers))
        start = np.zeros(len(places))
        for part, lengths in values(one).items():
            axis.barh(places, lengths, left=start, height=0.72, label=part)
            start += np.array(lengths)
        axis.set_yticks(places, one.layers)
        axis.set_ylim(most - 0.4, -0.6)
        axis.set_xlabel(unit)
        axis.set_title(one.name, loc="left", fontsize=10)
        axis.xaxis.set_major_formatter(_number)
        axis.locator_params(axis="x", nbins=5)
    shown = axes[0][0].get_legend_handles_labels()
    if len(shown[0]) > 1:
        figure.legend(*shown, loc="outside lower left", ncols=len(shown[0]), frameon=False, fontsize=8)
    return figure


def _number(value: float, _: object = None) -> str:
    """A number at an axis."""
    return f"{value:,.6g}"


def layer_bytes(subjects: Sequence[Subject]) -> Any:
    """Bytes of each layer's program and of its constants."""
    return _bars(
        subjects,
        "bytes",
        lambda one: {
            "weights": [layer.bits / 8 for layer in one.image.layers],
            "constants": [layer.constant_bits / 8 for layer in one.image.layers],
        },
    )


def bits_per_weight(subjects: Sequence[Subject]) -> Any:
    """Bits of the program for each of the network's own weights; 8 is plain int8."""
    return _bars(
        subjects,
        "bits a weight",
        lambda one: {"bits": [layer.bits_per_weight for layer in one.image.layers]},
    )


def layer_cycles(subjects: Sequence[Subject]) -> Any:
    """Cycles of each layer and what they are spent on (`kolmogate.cycles`)."""
    return _bars(
        subjects,
        "cycles",
        lambda one: {part: [getattr(layer, part) for layer in one.cycles] for part in PARTS},
    )


def instructions(subjects: Sequence[Subject]) -> Any:
    """Bytes by instruction, the streams that they read included."""
    spent = [instruction_bytes(one.image.program(), one.image.config.columns) for one in subjects]
    names = sorted(set().union(*spent), key=lambda name: -max(part.get(name, 0) for part in spent))
    figure, axis = _pyplot().subplots(
        figsize=(WIDTH, 0.9 + 0.24 * len(names) * len(subjects)), layout="constrained"
    )
    height = 0.8 / len(subjects)
    for index, (one, part) in enumerate(zip(subjects, spent, strict=True)):
        places = np.arange(len(names)) + (index - (len(subjects) - 1) / 2) * height
        drawn = axis.barh(places, [part.get(name, 0) for name in names], height * 0.9, label=one.name)
        axis.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=8)
    axis.set_yticks(np.arange(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("bytes")
    axis.xaxis.set_major_formatter(_number)
    axis.margins(x=0.08)
    if len(subjects) > 1:
        axis.legend(frameon=False, fontsize=8)
    return figure


def weights(subjects: Sequence[Subject]) -> Any:
    """Histograms of each layer's int8 weights; an image that is compared lies behind, in outline."""
    found = [
        {one.name: one.weights.ravel() for one in subject.network.operations if isinstance(one, Weighted)}
        for subject in subjects
    ]
    names = list(found[0])
    columns = min(4, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure, axes = _pyplot().subplots(
        rows, columns, figsize=(WIDTH, 0.5 + 1.45 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names, strict=False):
        for index, one in enumerate(found):
            if name in one:
                density, edges = np.histogram(one[name], bins=np.arange(-128.5, 128.5), density=True)
                style = {"fill": True, "alpha": 0.75} if index == 0 else {"linewidth": 1.0}
                axis.stairs(density, edges, color=COLOURS[index], **style)
        axis.set_title(short_name(name), fontsize=8, loc="left")
        axis.set_yscale("symlog", linthresh=0.01)
        axis.set_yticks([])
        axis.set_xlim(-128, 127)
        axis.tick_params(labelsize=7)
    handles = [
        _pyplot().Rectangle((0, 0), 1, 1, color=COLOURS[index], fill=index == 0)
        for index in range(len(subjects))
    ]
    if len(subjects) > 1:
        figure.legend(
            handles, [one.name for one in subjects], loc="outside lower left", ncols=4, frameon=False
        )
    return figure


def fronts(subjects: Sequence[Subject]) -> Any:
    """Bytes against cycles, and against loss where an image has one."""
    lossy = [one for one in subjects if one.image.lossy]
    figure, axes = _pyplot().subplots(
        1, 1 + bool(lossy), figsize=(WIDTH, 3.2), squeeze=False, layout="constrained"
    )
    points: list[tuple[str, Sequence[Subject], list[float]]] = [
        ("cycles", subjects, [sum(layer.total for layer in one.cycles) for one in subjects])
    ]
    for one in lossy[:1]:
        losses = [other.image.lossy.loss for other in lossy if other.image.lossy]
        points.append((f"loss: {one.image.lossy.measure}" if one.image.lossy else "", lossy, losses))
    for axis, (label, those, heights) in zip(axes[0], points, strict=True):
        sizes = [one.image.device_bytes for one in those]
        order = np.argsort(sizes)
        axis.plot(np.array(sizes)[order], np.array(heights)[order], color="#c5c9d0", zorder=1)
        for index, (one, size, height) in enumerate(zip(those, sizes, heights, strict=True)):
            axis.scatter([size], [height], s=42, color=COLOURS[index % len(COLOURS)], zorder=2)
            axis.annotate(one.name, (size, height), (6, 6), textcoords="offset points", fontsize=8)
        axis.set_xlabel("bytes for the device")
        axis.set_ylabel(label)
        axis.margins(0.25, 0.25)
        axis.set_ylim(bottom=0)
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(_number)
    return figure


def graph(subjects: Sequence[Subject]) -> Any:
    """The first image's operations in order of execution, and which reads what."""
    network = subjects[0].network
    pyplot = _pyplot()
    operations = network.operations
    figure, axis = pyplot.subplots(figsize=(6.2, 0.6 + 0.46 * (len(operations) + 1)), layout="constrained")
    axis.axis("off")
    axis.set_xlim(0, 10)
    axis.set_ylim(len(operations) + 0.6, -0.6)
    places = {network.input: 0, **{one.output: row for row, one in enumerate(operations, 1)}}
    boxes = [("INPUT", network.tensors[network.input].shape, "")]
    boxes += [(one.kind, network.tensors[one.output].shape, short_name(one.name)) for one in operations]
    for row, (kind, shape, name) in enumerate(boxes):
        heavy = row > 0 and isinstance(operations[row - 1], Weighted)
        axis.add_patch(
            pyplot.Rectangle(
                (1.2, row - 0.3), 6.2, 0.6, facecolor="#dbe8f6" if heavy else "#eef0f3", edgecolor="#8a8f98"
            )
        )
        axis.text(1.4, row, kind, va="center", fontsize=8, fontweight="bold")
        axis.text(4.6, row, name, va="center", fontsize=7, color="#555c66")
        axis.text(7.25, row, " x ".join(map(str, shape)), va="center", ha="right", fontsize=7)
    for row, one in enumerate(operations, 1):
        for name in one.inputs:
            start = places[name]
            side = row - start > 1
            arrow = {"arrowstyle": "-|>", "color": "#555c66", "shrinkA": 0, "shrinkB": 0}
            if side:
                arrow["connectionstyle"] = f"arc3,rad={-0.9 / (row - start)}"
            x = 7.4 if side else 4.3
            ends = ((x, row), (x, start)) if side else ((x, row - 0.3), (x, start + 0.3))
            axis.annotate("", *ends, arrowprops=arrow)
    return figure


FIGURES: dict[str, tuple[str, Callable[[Sequence[Subject]], Any]]] = {
    "bytes": ("Bytes by layer", layer_bytes),
    "bits": ("Bits a weight", bits_per_weight),
    "instructions": ("Bytes by instruction", instructions),
    "cycles": ("Cycles by layer, and what they are spent on", layer_cycles),
    "fronts": ("Bytes against cycles and loss", fronts),
    "weights": ("Weights, how often each value comes (logarithmic)", weights),
    "graph": ("The network as it runs", graph),
}
"""Figures of a report by their names, with their titles."""
