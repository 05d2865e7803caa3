"""Figures of a report: the groups of one comparison, drawn as SVG by matplotlib.

A figure whose numbers are missing from every record is left out. Equal input gives equal bytes:
no date is written, and ids come from a fixed salt.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from sweep.reporting.summary import Group, Record, Stat, Teacher, arm_order

# Okabe and Ito's colours, told apart with any colour vision; the yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6A3D9A")
LINES = ("-", "-.", ":")  # beyond seven arms; dashes are the teacher's
MARKERS = "osD^vP*X<>ph8d"
INK, FAINT, GRID = "#1c2733", "#8a94a0", "#e3e7ec"
TEACHER = {"color": INK, "ls": "--", "lw": 1.4}
GUIDE = {"color": FAINT, "ls": ":", "lw": 1.2}
POINTS = 300  # of a loss curve: longer ones are averaged in blocks
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "sweep.reporting.figures",
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


def style_of(groups: Iterable[Group]) -> Style:
    """Made from all groups of a report at once."""
    style, groups = Style({}, {}), sorted(groups, key=lambda group: group.student["total"])
    for i, arm in enumerate(_arms(groups)):
        line = LINES[i // len(COLOURS) % len(LINES)]
        style.lines[arm] = {"color": COLOURS[i % len(COLOURS)], "ls": line}
    for i, capacity in enumerate(capacities(groups)):
        style.markers[capacity] = MARKERS[i % len(MARKERS)]
    return style


def draw(groups: list[Group], teacher: Teacher | None, style: Style) -> list[Drawing]:
    """The figures of groups that differ in student and arm alone, in reading order."""
    from matplotlib import rc_context

    from sweep.reporting.accuracy import accuracy_by_frequency, accuracy_by_noise, fourier_maps
    from sweep.reporting.underfitting import rank_by_cosine, rank_by_step

    makers = (rank_by_size, accuracy_by_noise, accuracy_by_frequency, fourier_maps)
    makers += (variance_curves, loss_curves, rank_by_step, rank_by_cosine)
    with rc_context(SETTINGS):
        return [found for make in makers if (found := make(groups, teacher, style))]


def rank_by_size(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Seeds as points, their mean with its 95 % t interval; once with the teacher, once without."""
    sized = [group for group in groups if group.student["total"]]  # teacher_pca has no parameters
    known = [(group, stat) for group in sized if (stat := group.stat("test/rank/effective"))]
    if not known:
        return None
    reference = teacher.metrics.get("teacher/rank/effective") if teacher else None
    figure, axes = panels_of(["from zero", "the students alone"], 4.9, 3.6, share=False)
    arms = _arms(group for group, _ in known)
    totals = sorted({group.student["total"] for group, _ in known})
    for axis in axes:
        for group, stat in known:
            dodge = 1.06 ** (arms.index(str(group.config["arm"])) - (len(arms) - 1) / 2)
            x, look = group.student["total"] * dodge, style.point(group)
            seeds = [
                record["metrics"].get("test/rank/effective", math.nan) for record in group.records
            ]
            axis.plot([x / 1.02] * group.n, seeds, ls="", ms=4, alpha=0.45, mec="none", **look)
            bar = half_width(stat)
            axis.errorbar(x, stat.mean, bar, ms=8, mec="white", capsize=4, lw=1.5, **look)
        axis.set(xscale="log", xlabel="parameters, trunk and head")
        axis.set_xlim(totals[0] / 1.25, totals[-1] * 1.25)
        if len(totals) < 7 and all(b > 1.2 * a for a, b in pairwise(totals)):
            axis.set_xticks(totals, [_size(total) for total in totals])
        axis.xaxis.set_minor_formatter(lambda *_: "")
    if reference:
        axes[0].axhline(reference.mean, **TEACHER)
    axes[0].set_ylim(0, max(axes[0].get_ylim()[1], 1.12 * reference.mean if reference else 0))
    axes[0].set_ylabel("effective rank (variance)")
    legend(figure, [group for group, _ in known], style, markers=True, teacher=bool(reference))
    words = [f"{label(group)} {stat.mean:.1f}" for group, stat in known]
    words += [f"teacher {reference.mean:.1f}"] if reference else []
    return Drawing("rank", f"Effective rank by parameters: {'; '.join(words)}.", svg(figure))


def variance_curves(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Cumulative share of variance against the number of principal directions."""
    held = [[(r.get("arrays") or {}).get("test/spectrum") for r in g.records] for g in groups]
    curves = zip(
        groups, (_cumulative(list(filter(None, spectra))) for spectra in held), strict=True
    )
    known = [(group, curve) for group, curve in curves if curve]
    if not known:
        return None
    own = _cumulative([teacher.spectrum]) if teacher and teacher.spectrum else []
    students = capacities(group for group, _ in known)
    figure, axes = panels_of(students)
    for axis, student in zip(axes, students, strict=True):
        for group, curve in known:
            if str(group.config["student"]) == student:
                axis.plot(range(1, len(curve) + 1), curve, lw=2, **style.line(group))
        axis.plot(range(1, len(own) + 1), own, **TEACHER)
        axis.axhline(90, **GUIDE)
        axis.set(xscale="log", ylim=(0, 102), xlabel="principal directions")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.supylabel("variance, cumulative %", fontsize="medium")
    legend(figure, [group for group, _ in known], style, teacher=bool(own))
    words = [f"{label(group)} {curve[:20][-1]:.0f}" for group, curve in known]
    words += [f"teacher {own[:20][-1]:.0f}"] if own else []
    return Drawing("variance", f"Variance, %, in 20 directions: {'; '.join(words)}.", svg(figure))


def loss_curves(groups: list[Group], _: Teacher | None, style: Style) -> Drawing | None:
    """Training loss by step, one line a seed."""
    curves = {id(g): [c for record in g.records if len(c := _curve(record))] for g in groups}
    known = [group for group in groups if curves[id(group)]]
    if not known:
        return None
    figure, axes = panels_of(capacities(known))
    for axis, student in zip(axes, capacities(known), strict=True):
        for group in members_of(known, student):
            for curve in curves[id(group)]:
                marker = "." if len(curve) == 1 else ""
                axis.plot(*curve.T, lw=1.1, alpha=0.8, marker=marker, **style.line(group))
        axis.set_xlabel("step")
    figure.supylabel("training loss", fontsize="medium")
    legend(figure, known, style)
    words = [f"{label(g)} {np.mean([c[-1, 1] for c in curves[id(g)]]):.3f}" for g in known]
    return Drawing("loss", f"Training loss, at the end: {'; '.join(words)}.", svg(figure))


def _arms(groups: Iterable[Group]) -> list[str]:
    return sorted({str(group.config["arm"]) for group in groups}, key=arm_order)


def capacities(groups: Iterable[Group]) -> list[str]:
    return list(dict.fromkeys(str(group.config["student"]) for group in groups))


def members_of(groups: list[Group], student: str) -> list[Group]:
    return [group for group in groups if str(group.config["student"]) == student]


def label(group: Group) -> str:
    return f"{group.config['student']} {group.config['arm']}"


def _size(total: float) -> str:
    return f"{total / 1e6:.2f} M" if total >= 1e6 else f"{total / 1e3:.0f} k"


def _cumulative(spectra: list[list[float]]) -> list[float]:
    """Cumulative percentages of the mean spectrum; the shorter ones end in zeros."""
    longest = max(map(len, spectra), default=0)
    padded = [[*spectrum, *[0.0] * (longest - len(spectrum))] for spectrum in spectra]
    return (100 * np.cumsum(np.mean(padded, axis=0))).tolist() if padded else []


def finite(rows: list[list[Any]]) -> np.ndarray:
    """The rows, of two numbers each, without those that hold a None, a NaN or an infinity."""
    array_N2 = np.array(rows, dtype=float).reshape(-1, 2)
    return array_N2[np.isfinite(array_N2).all(axis=1)]


def _curve(record: Record) -> np.ndarray:
    """(points, 2): step and loss, averaged in blocks where there are many."""
    points = finite([[p.get("step"), p.get("loss")] for p in record.get("curve") or []])
    blocks = np.array_split(points, max(1, min(len(points), POINTS)))
    return np.array([block.mean(axis=0) for block in blocks if len(block)])


def panels_of(
    titles: list[str], width: float = 3.3, height: float = 2.9, share: bool = True
) -> Any:
    """A figure of panels of width x height inches, three a row at most, and its axes."""
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
    """Above the panels: arms by colour, capacities by marker, the teacher."""
    from matplotlib.lines import Line2D

    entries: list[Any] = [(arm, style.lines[arm] | {"lw": 3}) for arm in _arms(groups)]
    for name in capacities(groups) if markers else []:
        entries.append((name, {"color": FAINT, "ls": "", "ms": 8, "marker": style.markers[name]}))
    entries += [("teacher", TEACHER)] if teacher else []
    handles = [Line2D([], [], label=name, **look) for name, look in entries]
    figure.legend(handles=handles, loc="outside upper left", ncols=6, columnspacing=1.4)


def svg(figure: Any) -> str:
    figure.savefig(out := io.StringIO(), format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
