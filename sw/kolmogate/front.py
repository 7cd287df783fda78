"""The front of a network on a machine: how few bytes it takes, by the cycles that it may take.

Each point is an image of its own, found by the compiler's search; those that another beats in both are left
out. Points are independent of each other, so that joblib spreads them over processes, or, through its
back-ends, over a cluster.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from joblib import Parallel, delayed
from tqdm import tqdm

from .compiler import compile, compile_within
from .config import MachineConfig
from .cycles import cycles
from .errors import ToolMissingError, UsageError
from .files import write_whole
from .image import Image
from .network import Network
from .report import format_table

__all__ = ["ALLOWANCES", "Point", "format_front", "front", "require_plots", "save_front"]

ALLOWANCES = (1.0, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Budgets of the points between the fastest and the smallest, in the cycles of the fastest."""


class Point(NamedTuple):
    """An image's bytes and cycles, and what it was compiled for: an objective, or so many cycles at most."""

    bytes: int
    cycles: int
    goal: str


def front(network: Network, config: MachineConfig, *, jobs: int = 1, backend: str = "loky") -> list[Point]:
    """The points of the front, fastest first.

    ``jobs`` run side by side, on a ``backend`` of joblib's. Raises `InputError` as `compile` does, and
    `UsageError` if joblib knows no such back-end.
    """
    fastest, smallest = (compile(network, config, objective=goal) for goal in ("fastest", "smallest"))
    least = _cycles(fastest)
    try:
        pool = Parallel(n_jobs=jobs, backend=backend, return_as="generator")
    except ValueError:
        raise UsageError(
            f"joblib has no back-end {backend!r}: choose loky, or one that is registered"
        ) from None
    budgets, within = [int(part * least) for part in ALLOWANCES], compile_within(network, config)
    found = pool(delayed(_point)(within, budget) for budget in budgets)
    points = [
        Point(fastest.device_bytes, least, "fastest"),
        *tqdm(found, desc="front", total=len(budgets), delay=2, leave=False, disable=None),
        Point(smallest.device_bytes, _cycles(smallest), "smallest"),
    ]
    return _undominated(points)


def _point(within: Callable[[int], Image], budget: int) -> Point:
    image = within(budget)
    return Point(image.device_bytes, _cycles(image), f"at most {budget:,} cycles")


def _cycles(image: Image) -> int:
    return sum(layer.total for layer in cycles(image))


def _undominated(points: Sequence[Point]) -> list[Point]:
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.cycles, one.bytes)):
        if not kept or point.bytes < kept[-1].bytes:
            kept.append(point)
    return kept


def format_front(points: Sequence[Point]) -> str:
    """The front as a table."""
    least = points[0].cycles
    rows = [(point.goal, point.bytes, point.cycles, f"{point.cycles / least:.2f}") for point in points]
    return format_table(("compiled for", "bytes", "cycles", "of the fastest's"), rows)


def require_plots() -> None:
    """Raise `ToolMissingError` unless plots can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ToolMissingError(
            "matplotlib is not installed, which draws the front: pip install 'kolmogate[plot]'"
        ) from None


def save_front(points: Sequence[Point], path: Path, title: str) -> list[Path]:
    """Write the front to ``path``.json, its table to ``path``.md and its plot to ``path``.svg.

    Raises `ToolMissingError` as `require_plots` does.
    """
    require_plots()
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, StrMethodFormatter

    paths = [path.with_name(f"{path.name}.{kind}") for kind in ("json", "md", "svg")]
    record: dict[str, Any] = {"title": title, "points": [point._asdict() for point in points]}
    write_whole(paths[0], (json.dumps(record, indent=1) + "\n").encode())
    write_whole(paths[1], f"# {title}\n\n```text\n{format_front(points)}\n```\n".encode())
    # The same front gives the same file: no date, no random names.
    with rc_context({"svg.hashsalt": "kolmogate", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5, 3.5), layout="constrained")
        axes = figure.add_subplot()
        places = [(one.cycles / 1000, one.bytes) for one in points]
        axes.plot(*zip(*places, strict=True), "o-", drawstyle="steps-post")
        axes.set(
            title=title, xlabel="thousand cycles an inference", ylabel="bytes for the device", xscale="log"
        )
        # Numbers in full, without powers of ten.
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.grid(visible=True, which="both", alpha=0.3)
        figure.savefig(paths[2], metadata={"Date": None})
    return paths
