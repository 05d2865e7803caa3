"""Drawing primitives that all figures of a report share: styles, panels, legend, SVG.

Equal input gives equal bytes: no date is written, and ids come from a fixed salt.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.reporting.summary import Group, Stat, arm_order
from trainers.probes.names import metric_of

# Okabe and Ito's colours, which remain distinct with colour blindness, without their yellow, which
# is too pale for lines. https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6A3D9A")
LINES = ("-", "-.", ":")  # with more than seven arms; dashed lines are the teacher's
MARKERS = "osD^vP*X<>ph8d"
INK, FAINT, GRID = "#1c2733", "#8a94a0", "#e3e7ec"
TEACHER = {"color": INK, "ls": "--", "lw": 1.4}
GUIDE = {"color": FAINT, "ls": ":", "lw": 1.2}
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "sweep.reporting",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names are data: a `$` in one is a `$`
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.5,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "grid.color": GRID,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Style:
    """Colour and line by arm, marker by capacity: the same in all figures of a report."""

    lines: dict[str, dict[str, Any]]
    markers: dict[str, str]

    def line(self, group: Group) -> dict[str, Any]:
        return self.lines[str(group.config["arm"])]

    def point(self, group: Group) -> dict[str, Any]:
        marker = self.markers[str(group.config["student"])]
        return {"color": self.line(group)["color"], "marker": marker}


@dataclass(frozen=True)
class Drawing:
    """One figure: its name, its numbers in words, and the picture."""

    name: str
    alt: str
    svg: str


def half_width(stat: Stat) -> float | None:
    """Half of the 95 % t interval of a mean, t(0.975, n - 1) sd / sqrt(n); None where n = 1."""
    from scipy.stats import t

    return float(t.ppf(0.975, stat.n - 1)) * stat.sd / math.sqrt(stat.n) if stat.sd else stat.sd


def interval_of(stat: Stat, metric: str) -> tuple[float, float]:
    """95 % t interval of a mean over seeds, clipped to the range of its metric where it is a share.

    A t interval knows no bounds: three accuracies near 1 give one that ends above 100 %. Needs n of
    2 or more.
    """
    half = half_width(stat)
    assert half is not None
    low, high = stat.mean - half, stat.mean + half
    known = metric_of(metric)
    bounded = known is not None and known.range == "0 to 1"
    return (max(low, 0.0), min(high, 1.0)) if bounded else (low, high)


def style_of(groups: Iterable[Group]) -> Style:
    """The style of a report, made from all of its groups so that its figures agree."""
    style, groups = Style({}, {}), sorted(groups, key=lambda group: group.student.total)
    for i, arm in enumerate(arms_of(groups)):
        line = LINES[i // len(COLOURS) % len(LINES)]
        style.lines[arm] = {"color": COLOURS[i % len(COLOURS)], "ls": line}
    for i, capacity in enumerate(capacities(groups)):
        style.markers[capacity] = MARKERS[i % len(MARKERS)]
    return style


def arms_of(groups: Iterable[Group]) -> list[str]:
    """The arms of the groups, `clean` first, then by name and strength."""
    return sorted({str(group.config["arm"]) for group in groups}, key=arm_order)


def capacities(groups: Iterable[Group]) -> list[str]:
    """The students of the groups, in the order of the groups."""
    return list(dict.fromkeys(str(group.config["student"]) for group in groups))


def members_of(groups: list[Group], student: str) -> list[Group]:
    return [group for group in groups if str(group.config["student"]) == student]


def label(group: Group) -> str:
    return f"{group.config['student']} {group.config['arm']}"


def finite(rows: list[list[Any]]) -> np.ndarray:
    """(rows, 2): the rows without those that contain None, NaN or an infinity."""
    array_N2 = np.array(rows, dtype=float).reshape(-1, 2)
    return array_N2[np.isfinite(array_N2).all(axis=1)]


def panels_of(
    titles: list[str], width: float = 3.3, height: float = 2.9, share: bool = True
) -> Any:
    """(figure, its axes): panels of width x height inches, at most three in a row."""
    from matplotlib.figure import Figure

    across = min(3, len(titles))
    rows = -(-len(titles) // across)
    figure = Figure((max(width * across, 6.0), height * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, across, squeeze=False, sharey=share).ravel()
    for axis, title in zip(grid, titles, strict=False):
        axis.set_title(title, loc="left")
    for axis in grid[len(titles) :]:
        axis.remove()
    return figure, list(grid[: len(titles)])


def legend(
    figure: Any, groups: list[Group], style: Style, markers: bool = False, teacher: bool = False
) -> None:
    """Draw the legend above the panels: arms by colour, students by marker, the teacher."""
    from matplotlib.lines import Line2D

    entries: list[Any] = [(arm, style.lines[arm] | {"lw": 3}) for arm in arms_of(groups)]
    for name in capacities(groups) if markers else []:
        entries.append((name, {"color": FAINT, "ls": "", "ms": 8, "marker": style.markers[name]}))
    entries += [("teacher", TEACHER)] if teacher else []
    handles = [Line2D([], [], label=name, **look) for name, look in entries]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, columnspacing=1.4)


def svg(figure: Any) -> str:
    """The figure as SVG text."""
    figure.savefig(out := io.StringIO(), format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
