"""Figures of a report: the groups of one comparison, drawn as SVG by matplotlib.

A figure whose numbers are missing from every record is left out.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from sweep.reporting.accuracy import accuracy_by_frequency, accuracy_by_noise, fourier_maps
from sweep.reporting.drawing import (
    GUIDE,
    SETTINGS,
    TEACHER,
    Drawing,
    Style,
    arms_of,
    capacities,
    finite,
    half_width,
    label,
    legend,
    members_of,
    panels_of,
    svg,
)
from sweep.reporting.summary import Group, Teacher
from sweep.reporting.underfitting import rank_by_cosine, rank_by_step
from trainers.results.record import TrialResult

POINTS = 300  # of a loss curve; longer ones are averaged in blocks, to keep the page small


def draw(groups: list[Group], teacher: Teacher | None, style: Style) -> list[Drawing]:
    """The figures of groups that differ in student and arm alone, in the order of the page."""
    from matplotlib import rc_context

    makers = (rank_by_size, accuracy_by_noise, accuracy_by_frequency, fourier_maps)
    makers += (variance_curves, loss_curves, rank_by_step, rank_by_cosine)
    with rc_context(SETTINGS):
        return [found for make in makers if (found := make(groups, teacher, style))]


def rank_by_size(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Effective rank against parameters: seeds as points, their mean with its 95 % t interval.

    The left panel starts at zero and has the teacher, the right one shows the students alone.
    """
    sized = [group for group in groups if group.student.total]  # teacher_pca has no parameters
    known = [(group, stat) for group in sized if (stat := group.stat("test/rank/effective"))]
    if not known:
        return None
    reference = teacher.metrics.get("teacher/rank/effective") if teacher else None
    figure, axes = panels_of(["from zero", "the students alone"], 4.9, 3.6, share=False)
    arms = arms_of(group for group, _ in known)
    totals = sorted({group.student.total for group, _ in known})
    for axis in axes:
        for group, stat in known:
            dodge = 1.06 ** (arms.index(str(group.config["arm"])) - (len(arms) - 1) / 2)
            x, look = group.student.total * dodge, style.point(group)
            seeds = [
                result.metrics.get("test/rank/effective", math.nan) for result in group.results
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
    spectra_of = [[result.arrays.get("test/spectrum") for result in g.results] for g in groups]
    curves = zip(
        groups, (_cumulative(list(filter(None, spectra))) for spectra in spectra_of), strict=True
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
    """Training loss by step, one line for each seed."""
    curves = {id(g): [c for result in g.results if len(c := _curve(result))] for g in groups}
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


def _size(total: float) -> str:
    return f"{total / 1e6:.2f} M" if total >= 1e6 else f"{total / 1e3:.0f} k"


def _cumulative(spectra: list[list[float]]) -> list[float]:
    """Cumulative percentages of the mean spectrum; the shorter ones end in zeros."""
    longest = max(map(len, spectra), default=0)
    padded = [[*spectrum, *[0.0] * (longest - len(spectrum))] for spectrum in spectra]
    return (100 * np.cumsum(np.mean(padded, axis=0))).tolist() if padded else []


def _curve(result: TrialResult) -> np.ndarray:
    """(points, 2): step and loss, averaged in blocks where there are many."""
    points = finite([[row.step, row.loss] for row in result.epochs])
    blocks = np.array_split(points, max(1, min(len(points), POINTS)))
    return np.array([block.mean(axis=0) for block in blocks if len(block)])
