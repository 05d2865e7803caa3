"""Figures of accuracy on corrupted test images: by noise, by frequency, under single waves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.reporting.drawing import (
    GUIDE,
    TEACHER,
    Drawing,
    Style,
    capacities,
    label,
    legend,
    members_of,
    panels_of,
    svg,
)
from sweep.reporting.summary import Group, Teacher, natural, severities

AXES = {
    "band_noise": (r"test/(band_noise/[^/]+)/([1-8])/accuracy", "band, low to high frequency"),
    "low_pass": (r"test/(low_pass)/([^/]+)/accuracy", "share of Nyquist that is kept"),
    "high_pass": (r"test/(high_pass)/([^/]+)/accuracy", "share of Nyquist that is cut"),
}
WAVES = re.compile(r"test/fourier/([^/]+)/accuracy")
CLEAN = "linear/paper/accuracy"
TICKS = 6  # labels of more values would overlap


@dataclass
class Kind:
    """One kind of corruption: its title, axis label and {strength: metric without `test/`}."""

    title: str
    xlabel: str
    names: dict[float, str]


def accuracy_by_noise(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """One panel for each student and kind of noise; sigma 0 is the clean test set."""
    kinds: dict[str, Kind] = {}
    for space, sigma in severities(result for group in groups for result in group.results):
        kind = kinds.setdefault(space, Kind(f"{space} noise", "noise sigma", {0.0: CLEAN}))
        kind.names[float(sigma)] = f"noise/{space}/{sigma}/accuracy"
    return _panels("noise", list(kinds.values()), groups, teacher, style)


def accuracy_by_frequency(
    groups: list[Group], teacher: Teacher | None, style: Style
) -> Drawing | None:
    """One panel for each student and kind of corruption."""
    measured = {name for group in groups for result in group.results for name in result.metrics}
    kinds: dict[str, Kind] = {}
    for pattern, xlabel in AXES.values():
        for name in sorted(measured, key=natural):
            if match := re.fullmatch(pattern, name):
                kind = kinds.setdefault(match[1], Kind(match[1], xlabel, {}))
                kind.names[float(match[2])] = name.removeprefix("test/")
    return _panels("frequency", list(kinds.values()), groups, teacher, style)


def _panels(
    name: str, kinds: list[Kind], groups: list[Group], teacher: Teacher | None, style: Style
) -> Drawing | None:
    """Thin lines are seeds, thick ones their mean; the teacher is dashed, chance dotted."""
    panels = [(kind, student) for kind in kinds for student in capacities(groups)]
    if not panels:
        return None
    figure, axes = panels_of([f"{student}, {kind.title}" for kind, student in panels])
    own = {name[8:]: stat.mean for name, stat in teacher.metrics.items()} if teacher else {}
    words: list[str] = []
    for axis, (kind, student) in zip(axes, panels, strict=True):
        names = dict(sorted(kind.names.items()))
        for group in members_of(groups, student):
            for result in group.results:
                one = {name[5:]: value for name, value in result.metrics.items()}
                _line(axis, names, one, lw=0.7, alpha=0.5, **style.line(group))
            stats = {metric: group.stat(f"test/{metric}") for metric in names.values()}
            means = {metric: stat.mean for metric, stat in stats.items() if stat}
            _line(axis, names, means, ms=6, lw=2, **style.line(group) | style.point(group))
            numbers = [f"{100 * means[m]:.0f} at {x:g}" for x, m in names.items() if m in means]
            words.append(f"{label(group)}, {kind.title}: {', '.join(numbers) or 'not measured'}")
        _line(axis, names, own, **TEACHER)
        axis.axhline(100 * groups[0].data.chance, **GUIDE)
        axis.set(ylim=(0, 102), xlabel=kind.xlabel)
        if len(names) < TICKS:
            axis.set_xticks(list(names))
    drawn = {metric for kind in kinds for metric in kind.names.values()} - {CLEAN}
    legend(figure, groups, style, teacher=bool(drawn & set(own)))
    figure.supylabel("accuracy, %", fontsize="medium")
    return Drawing(name, f"Accuracy, %, by {name}: {'; '.join(words)}.", svg(figure))


def _line(axis: Any, names: dict[float, str], values: dict[str, Any], **look: Any) -> None:
    pairs = [(x, values[name]) for x, name in names.items() if values.get(name) is not None]
    axis.plot([x for x, _ in pairs], [100 * y for _, y in pairs], **look)


def fourier_maps(groups: list[Group], teacher: Teacher | None, style: Style) -> Drawing | None:
    """Accuracy under single waves, mean over seeds: one map for each group and strength.

    Axes are horizontal and vertical frequency as shares of the images' Nyquist frequency. Images
    are real, so a wave of the frequency (-y, -x) is that of (y, x): half of the plane is measured
    and the other half mirrored.

    Source: Yin et al., "A Fourier Perspective on Model Robustness in Computer Vision", 2019.
    """
    maps: list[tuple[str, dict[tuple[float, float], float]]] = []
    for group in groups:
        arrays = [result.arrays for result in group.results]
        for strength in sorted({m[1] for one in arrays for n in one if (m := WAVES.fullmatch(n))}):
            stem = f"test/fourier/{strength}"
            waves: dict[tuple[float, float], list[float]] = {}
            for one in arrays:
                if f"{stem}/accuracy" in one:
                    lists = (one[f"{stem}/{part}"] for part in ("down", "across", "accuracy"))
                    for down, across, accuracy in zip(*lists, strict=True):
                        waves.setdefault((down, across), []).append(accuracy)
            means = {wave: float(np.mean(values)) for wave, values in waves.items()}
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
    words = [f"{t}: {100 * min(m.values()):.0f} to {100 * max(m.values()):.0f}" for t, m in maps]
    return Drawing("fourier", f"Accuracy, %, under single waves: {'; '.join(words)}.", svg(figure))
