"""Figures of a report: what the groups of one comparison look like, drawn as SVG by matplotlib.

    style = style_of(group_records(records))       # one colour an arm, one marker a capacity
    drawings = draw(groups, teacher, style)        # of groups that may be held against each other

A figure whose numbers are missing from every record is left out. Equal input gives equal bytes:
no date is written, and ids come from a fixed salt.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.summary import Group, Record, Stat, Teacher, arm_order, natural, severities

# Okabe and Ito's colours, told apart with any colour vision; the yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#6A3D9A")
LINES = ("-", "-.", ":")  # beyond seven arms; dashes are the teacher's
MARKERS = "osD^vP*X<>ph8d"
INK, FAINT, GRID = "#1c2733", "#8a94a0", "#e3e7ec"
TEACHER = {"color": INK, "ls": "--", "lw": 1.4}
GUIDE = {"color": FAINT, "ls": ":", "lw": 1.2}
POINTS = 300  # of a loss curve: longer ones are averaged in blocks
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "sweep.figures",
    "svg.fonttype": "path",
    "text.parse_math": False,  # names are data: a `$` in one is a `$`
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10.5,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Style:
    """Colour and line by series (an arm, and its views where one arm has several) and marker by
    capacity: the same in all figures of a report."""

    colours: dict[str, str]
    lines: dict[str, str]
    markers: dict[str, str]
    by_views: frozenset[str]

    def series(self, group: Group) -> str:
        arm = str(group.config["arm"])
        return f"{arm} ({views_of(group)} views)" if arm in self.by_views else arm

    def line(self, group: Group) -> dict[str, Any]:
        name = self.series(group)
        return {"color": self.colours[name], "ls": self.lines[name]}

    def marker(self, group: Group) -> str:
        return self.markers[str(group.config["student"])]


@dataclass(frozen=True)
class Drawing:
    """One figure: its name, its numbers in words, and the picture."""

    name: str
    alt: str
    svg: str


def half_width(stat: Stat) -> float | None:
    """Half of the 95 % t interval of a mean, t(0.975, n - 1) sd / sqrt(n); None where n = 1."""
    if stat.sd is None:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, stat.n - 1)) * stat.sd / math.sqrt(stat.n)


def views_of(group: Group) -> Any:
    """Distinct views of a sample that the student saw."""
    return group.data.get("views_per_sample", group.config.get("views", "?"))


def style_of(groups: Iterable[Group]) -> Style:
    """Made from all groups of a report at once."""
    views: dict[str, set[str]] = {}
    for group in groups:
        views.setdefault(str(group.config["arm"]), set()).add(str(views_of(group)))
    style = Style({}, {}, {}, frozenset(arm for arm in views if len(views[arm]) > 1))
    for i, name in enumerate(sorted({style.series(group) for group in groups}, key=arm_order)):
        style.colours[name] = COLOURS[i % len(COLOURS)]
        style.lines[name] = LINES[i // len(COLOURS) % len(LINES)]
    for capacity in _capacities(sorted(groups, key=lambda group: group.student["total"])):
        style.markers[capacity] = MARKERS[len(style.markers) % len(MARKERS)]
    return style


def draw(groups: list[Group], teacher: Teacher | None, style: Style) -> list[Drawing]:
    """The figures of groups that differ in student and arm alone, in reading order."""
    from matplotlib import rc_context

    makers = (rank_by_size, accuracy_by_noise, variance_curves, loss_curves, rank_by_cosine)
    with rc_context(SETTINGS):
        return [found for make in makers if (found := make(groups, teacher, style))]


def rank_by_size(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Seeds as points, their mean with its 95 % t interval; once with the teacher, once without."""
    known = [(group, stat) for group in groups if (stat := group.stat("test/rank/effective"))]
    if not known:
        return None
    reference = teacher.metrics.get("teacher/rank/effective") if teacher else None
    figure, axes = _panels(["from zero", "the students alone"], 2, 4.9, 3.6)
    names = sorted({style.series(group) for group, _ in known}, key=arm_order)
    totals = sorted({group.student["total"] for group, _ in known})
    for axis in axes:
        for group, stat in known:
            x = group.student["total"] * 1.04 ** (
                names.index(style.series(group)) - (len(names) - 1) / 2
            )
            look = {"color": style.line(group)["color"], "marker": style.marker(group)}
            seeds = _values(group, "test/rank/effective")
            axis.plot([x] * len(seeds), seeds, ls="", ms=4, alpha=0.45, mec="none", **look)
            bar = half_width(stat)
            axis.errorbar(x, stat.mean, bar, ms=8, mec="white", capsize=4, lw=1.5, **look)
        axis.set(xscale="log", xlabel="parameters, trunk and head")
        axis.set_xlim(totals[0] / 1.25, totals[-1] * 1.25)
        if all(b > 1.2 * a for a, b in zip(totals, totals[1:], strict=False)) and len(totals) < 7:
            axis.set_xticks(totals, [_size(total) for total in totals])
        axis.xaxis.set_minor_formatter(lambda *_: "")
    if reference:
        axes[0].axhline(reference.mean, **TEACHER)
    axes[0].set_ylim(0, max(axes[0].get_ylim()[1], 1.12 * reference.mean if reference else 0))
    axes[0].set_ylabel("effective rank (variance)")
    _legend(figure, [group for group, _ in known], style, markers=True, teacher=bool(reference))
    words = [f"{_label(group)} {stat.mean:.1f}" for group, stat in known]
    words += [f"teacher {reference.mean:.1f}"] if reference else []
    return Drawing("rank", f"Effective rank by parameters: {'; '.join(words)}.", _svg(figure))


def accuracy_by_noise(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """One panel a capacity and kind of noise; sigma 0 is the clean test set."""
    found = severities(record for group in groups for record in group.records)
    spaces = list(dict.fromkeys(space for space, _ in found))
    panels = [(space, student) for space in spaces for student in _capacities(groups)]
    if not panels:
        return None
    figure, axes = _panels([f"{student}, {space} noise" for space, student in panels])
    own = {name[8:]: s.mean for name, s in teacher.metrics.items()} if teacher else {}
    words: list[str] = []
    for axis, (space, student) in zip(axes, panels, strict=True):
        names = {0.0: "linear/accuracy"}
        names |= {float(s): f"noise/{a}/{s}/accuracy" for a, s in found if a == space}
        for group in _of(groups, student):
            for record in group.records:
                one = {name[5:]: value for name, value in record["metrics"].items()}
                _percent_line(axis, names, one, lw=0.7, alpha=0.5, **style.line(group))
            stats = {name: group.stat(f"test/{name}") for name in names.values()}
            means = {name: stat.mean for name, stat in stats.items() if stat}
            marked = {"marker": style.marker(group), "ms": 6, "lw": 2}
            _percent_line(axis, names, means, **marked, **style.line(group))
            numbers = [f"{100 * means[m]:.0f} at {s:g}" for s, m in names.items() if m in means]
            words.append(f"{_label(group)}, {space}: {', '.join(numbers) or 'not measured'}")
        _percent_line(axis, names, own, **TEACHER)
        if chance := groups[0].data.get("chance"):
            axis.axhline(100 * chance, **GUIDE)
        axis.set(ylim=(0, 102), xlabel="noise σ", xticks=list(names))
    _legend(figure, groups, style, teacher=any(name.startswith("noise/") for name in own))
    axes[0].set_ylabel("accuracy, %")
    return Drawing("noise", f"Accuracy, %, by noise: {'; '.join(words)}.", _svg(figure))


def variance_curves(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Cumulative share of variance against the number of principal directions."""
    known = [(group, curve) for group in groups if (curve := _cumulative(_spectra(group)))]
    if not known:
        return None
    own = _cumulative([teacher.spectrum]) if teacher and teacher.spectrum else []
    capacities = _capacities(group for group, _ in known)
    figure, axes = _panels(capacities)
    for axis, student in zip(axes, capacities, strict=True):
        for group, curve in known:
            if str(group.config["student"]) == student:
                axis.plot(range(1, len(curve) + 1), curve, lw=2, **style.line(group))
        axis.plot(range(1, len(own) + 1), own, **TEACHER)
        axis.axhline(90, **GUIDE)
        axis.set(xscale="log", ylim=(0, 102), xlabel="principal directions")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0].set_ylabel("variance, cumulative %")
    _legend(figure, [group for group, _ in known], style, teacher=bool(own))
    words = [f"{_label(group)} {curve[:20][-1]:.0f}" for group, curve in known]
    words += [f"teacher {own[:20][-1]:.0f}"] if own else []
    return Drawing("variance", f"Variance, %, in 20 directions: {'; '.join(words)}.", _svg(figure))


def loss_curves(groups: list[Group], _: Teacher | None, style: Style) -> Drawing | None:
    """Training loss by step, one line a seed."""
    curves = {id(g): [c for record in g.records if len(c := _curve(record))] for g in groups}
    known = [group for group in groups if curves[id(group)]]
    if not known:
        return None
    figure, axes = _panels(_capacities(known))
    for axis, student in zip(axes, _capacities(known), strict=True):
        for group in _of(known, student):
            for curve in curves[id(group)]:
                marker = "." if len(curve) == 1 else ""
                axis.plot(*curve.T, lw=1.1, alpha=0.8, marker=marker, **style.line(group))
        axis.set_xlabel("step")
    axes[0].set_ylabel("training loss")
    _legend(figure, known, style)
    words = [f"{_label(g)} {np.mean([c[-1, 1] for c in curves[id(g)]]):.3f}" for g in known]
    return Drawing("loss", f"Training loss, at the end: {'; '.join(words)}.", _svg(figure))


def rank_by_cosine(groups: list[Group], _: Teacher | None, style: Style) -> Drawing | None:
    """One point a trial: is a low rank no more than underfitting?"""
    known, low, high = [], [math.inf] * 2, [-math.inf] * 2
    figure, (axis,) = _panels([""], 1, 7.2, 3.9)
    for group in groups:
        for record in group.records:
            pair = [
                record["metrics"].get(f"test/{m}") for m in ("cosine_to_teacher", "rank/effective")
            ]
            if None in pair or not np.isfinite(pair).all():
                continue
            look = {"color": style.line(group)["color"], "marker": style.marker(group)}
            axis.plot(*pair, ls="", ms=7.5, alpha=0.8, mec="white", **look)
            low, high = np.minimum(low, pair), np.maximum(high, pair)
            known.append(group)
    if not known:
        return None
    axis.set(xlabel="mean cosine to the teacher, test", ylabel="effective rank (variance)")
    _legend(figure, known, style, markers=True)
    alt = f"Effective rank, {low[1]:.1f} to {high[1]:.1f}, against cosine to the teacher, "
    alt += f"{low[0]:.3f} to {high[0]:.3f}, of {len(known)} trials."
    return Drawing("underfitting", alt, _svg(figure))
