"""Where in frequency accuracy goes: by band and filter as lines, by single waves as heat maps."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sweep.figures import (
    GUIDE,
    TEACHER,
    Drawing,
    Style,
    capacities,
    label,
    legend,
    members_of,
    panels_of,
    percent_line,
    svg,
)
from sweep.summary import Group, Teacher, natural

AXES = {
    "band_noise": (r"test/(band_noise/[^/]+)/([1-8])/accuracy", "band, low to high frequency"),
    "low_pass": (r"test/(low_pass)/([^/]+)/accuracy", "share of Nyquist that is kept"),
    "high_pass": (r"test/(high_pass)/([^/]+)/accuracy", "share of Nyquist that is cut"),
}
WAVES = re.compile(r"test/fourier/([^/]+)/accuracy")


def accuracy_by_frequency(
    groups: list[Group], teacher: Teacher | None, style: Style
) -> Drawing | None:
    """One panel a capacity and kind of disturbance; seeds thin, their mean thick."""
    measured = {name for group in groups for record in group.records for name in record["metrics"]}
    kinds: dict[str, tuple[str, list[tuple[float, str]]]] = {}
    for pattern, words in AXES.values():
        for name in sorted(measured, key=natural):
            if match := re.fullmatch(pattern, name):
                kinds.setdefault(match[1], (words, []))[1].append((float(match[2]), name[5:]))
    panels = [(kind, student) for kind in kinds for student in capacities(groups)]
    if not panels:
        return None
    figure, axes = panels_of([f"{student}, {kind}" for kind, student in panels])
    own = {name[8:]: stat.mean for name, stat in teacher.metrics.items()} if teacher else {}
    told: list[str] = []
    for axis, (kind, student) in zip(axes, panels, strict=True):
        words, points = kinds[kind]
        names = dict(sorted(points))
        for group in members_of(groups, student):
            for record in group.records:
                one = {name[5:]: value for name, value in record["metrics"].items()}
                percent_line(axis, names, one, lw=0.7, alpha=0.5, **style.line(group))
            stats = {name: group.stat(f"test/{name}") for name in names.values()}
            means = {name: stat.mean for name, stat in stats.items() if stat}
            percent_line(axis, names, means, ms=5, lw=2, **style.line(group) | style.point(group))
            numbers = [f"{100 * means[m]:.0f} at {x:g}" for x, m in names.items() if m in means]
            told.append(f"{label(group)}, {kind}: {', '.join(numbers) or 'not measured'}")
        percent_line(axis, names, own, **TEACHER)
        if chance := groups[0].data.get("chance"):
            axis.axhline(100 * chance, **GUIDE)
        axis.set(ylim=(0, 102), xlabel=words)
    legend(
        figure, groups, style, teacher=any(name in own for _, p in kinds.values() for _, name in p)
    )
    figure.supylabel("accuracy, %", fontsize="medium")
    return Drawing("frequency", f"Accuracy, %, by frequency: {'; '.join(told)}.", svg(figure))


def fourier_maps(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Accuracy under single waves, mean over seeds: one map a group and strength (Yin et al.).

    Horizontal and vertical frequency in shares of the pictures' Nyquist; the lower half plane is
    the upper one turned by half a turn, for pictures are real.
    """
    maps: list[tuple[str, dict[tuple[float, float], float]]] = []
    for group in groups:
        held = [record.get("arrays") or {} for record in group.records]
        for strength in sorted({m[1] for one in held for n in one if (m := WAVES.fullmatch(n))}):
            stem = f"test/fourier/{strength}"
            waves: dict[tuple[float, float], list[float]] = {}
            for one in held:
                if f"{stem}/accuracy" in one:
                    lists = (one[f"{stem}/{part}"] for part in ("down", "across", "accuracy"))
                    for down, across, accuracy in zip(*lists, strict=True):
                        waves.setdefault((down, across), []).append(accuracy)
            means = {place: float(np.mean(values)) for place, values in waves.items()}
            maps.append((f"{label(group)}, strength {strength}", means))
    if not maps:
        return None
    figure, axes = panels_of([title for title, _ in maps], share=False)
    image: Any = None
    for axis, (_where, means) in zip(axes, maps, strict=True):
        points = [(y, x, value) for (y, x), value in means.items()]
        points += [(-y, -x, value) for y, x, value in points]
        rows, columns = (sorted({point[i] for point in points}) for i in (0, 1))
        percent_YX = np.full((len(rows), len(columns)), np.nan)
        for y, x, value in points:
            percent_YX[rows.index(y), columns.index(x)] = 100 * value
        image = axis.pcolormesh(columns, rows, percent_YX, vmin=0, vmax=100, cmap="viridis")
        axis.grid(visible=False)
        axis.set(aspect="equal", xlabel="across, share of Nyquist", ylabel="down")
    figure.colorbar(image, ax=axes, label="accuracy, %", shrink=0.8)
    told = [f"{t}: {100 * min(m.values()):.0f} to {100 * max(m.values()):.0f}" for t, m in maps]
    return Drawing("fourier", f"Accuracy, %, under single waves: {'; '.join(told)}.", svg(figure))
