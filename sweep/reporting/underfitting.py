"""Figures that tell a low rank from underfitting: rank by training step, and by fit."""

from __future__ import annotations

import numpy as np

from sweep.reporting.drawing import TEACHER, Drawing, Style, finite, label, legend, panels_of, svg
from sweep.reporting.summary import Group, Teacher, stat_of

RANK, COSINE = "rank/effective", "cosine_to_teacher"
FIT = (f"test/{COSINE}", f"test/{RANK}")


def rank_by_step(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """One line for each group, its mean over seeds: effective rank left, cosine right."""
    known = [(group, lines) for group in groups if (lines := mean_curves(group))[RANK]]
    if not known:
        return None
    own = teacher.metrics.get(f"teacher/curve/{RANK}") if teacher else None
    figure, axes = panels_of(
        ["effective rank (variance)", "cosine to the teacher"], 4.9, 3.6, False
    )
    words = []
    for group, lines in known:
        look = style.line(group) | style.point(group)
        for axis, name in zip(axes, (RANK, COSINE), strict=True):
            steps, values = [step for step, _ in lines[name]], [value for _, value in lines[name]]
            every = max(1, len(steps) // 8)
            axis.plot(steps, values, lw=2, ms=6, mec="white", markevery=every, **look)
        ranks = [value for _, value in lines[RANK]]
        words.append(
            f"{label(group)} {ranks[0]:.1f}, at most {max(ranks):.1f}, then {ranks[-1]:.1f}"
        )
    if own:
        axes[0].axhline(own.mean, **TEACHER)
        words.append(f"teacher {own.mean:.1f}")
    for axis in axes:
        axis.set_xlabel("step")
    axes[0].set_ylim(bottom=0)
    legend(figure, [group for group, _ in known], style, markers=True, teacher=bool(own))
    return Drawing("curves", f"Effective rank by step: {'; '.join(words)}.", svg(figure))


def mean_curves(group: Group) -> dict[str, list[tuple[int, float]]]:
    """{measure: (step, mean over the seeds that were observed then)}, by step."""
    rows = [row for result in group.results for row in result.observations.rows]
    found: dict[str, list[tuple[int, float]]] = {RANK: [], COSINE: []}
    for name, line in found.items():
        values: dict[int, list[float]] = {}
        for row in rows:
            if name in row.values:
                values.setdefault(row.step, []).append(row.values[name])
        line += [(step, stat.mean) for step in sorted(values) if (stat := stat_of(values[step]))]
    return found


def rank_by_cosine(groups: list[Group], _: Teacher | None, style: Style) -> Drawing | None:
    """One point for each trial: effective rank against the mean cosine to the teacher."""
    found = {}
    figure, (axis,) = panels_of([""], 7.2, 3.9)
    for group in groups:
        pairs = finite([[result.metrics.get(name) for name in FIT] for result in group.results])
        if len(pairs):
            found[id(group)] = pairs
            axis.plot(*pairs.T, ls="", ms=7.5, alpha=0.8, mec="white", **style.point(group))
    if not found:
        return None
    axis.set(xlabel="mean cosine to the teacher, test", ylabel="effective rank (variance)")
    legend(figure, [group for group in groups if id(group) in found], style, markers=True)
    points = np.concatenate(list(found.values()))
    (x, y), (to_x, to_y) = points.min(axis=0), points.max(axis=0)
    alt = f"Effective rank ({y:.1f} to {to_y:.1f}) against cosine ({x:.3f} to {to_x:.3f})."
    return Drawing("underfitting", alt, svg(figure))
