"""Figures of accuracy on corrupted test images: by noise, by frequency, under single waves."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.reporting.by_size import titled
from sweep.reporting.drawing import GUIDE, TEACHER, Draw, Figure, Panel
from sweep.reporting.groups import Compared, Setting, natural
from sweep.reporting.material import Material, noises

AXES = {
    "band": (r"test/(band_noise/[^/]+)/([1-8])/accuracy", "band, low to high frequency"),
    "low": (r"test/(low_pass)/([^/]+)/accuracy", "share of Nyquist that is kept"),
    "high": (r"test/(high_pass)/([^/]+)/accuracy", "share of Nyquist that is cut"),
}
WAVES = re.compile(r"test/fourier/([^/]+)/accuracy")
CLEAN = "linear/paper/accuracy"
TICKS = 7  # labels of more values would overlap


@dataclass
class Kind:
    """One kind of corruption: its title, axis label and {strength: metric without `test/`}."""

    title: str
    xlabel: str
    names: dict[float, str]


def accuracy_by_noise(material: Material) -> Figure | None:
    """One panel for each student and kind of noise; sigma 0 is the clean test set."""
    caption = (
        "Linear-probe accuracy on test images with Gaussian noise; sigma 0 is the clean set. Thick "
        "lines are means over seeds, thin ones single seeds; dashed: the teacher, dotted: chance. "
        "“pixel” noise is in [0, 1] pixels and clipped, “paper” noise is added after "
        "normalisation: their sigmas are different units."
    )

    def kinds(setting: Setting) -> list[Kind]:
        found: dict[str, Kind] = {}
        for space, sigma in noises(setting):
            kind = found.setdefault(space, Kind(f"{space} noise", "noise sigma", {0.0: CLEAN}))
            if float(sigma) > 0:
                kind.names[float(sigma)] = f"noise/{space}/{sigma}/accuracy"
        return list(found.values())

    return _figure(material.compared, "noise", "Accuracy against noise", caption, kinds)


def accuracy_by_frequency(material: Material) -> Figure | None:
    """One panel for each student and kind of corruption."""
    caption = (
        "Noise of equal energy in each of eight bands of frequency (1 to 4 below the images’ "
        "Nyquist frequency, 5 to 8 above it), and accuracy after low-pass and high-pass filters. "
        "Dashed: the teacher, at its own input size; dotted: chance. Where accuracy falls in one "
        "band alone, it depends on details of that size."
    )

    def kinds(setting: Setting) -> list[Kind]:
        found: dict[str, Kind] = {}
        for pattern, xlabel in AXES.values():
            for name in setting.metrics:
                if match := re.fullmatch(pattern, name):
                    title = match[1].replace("band_noise/", "band noise ").replace("_", "-")
                    kind = found.setdefault(match[1], Kind(title, xlabel, {}))
                    kind.names[float(match[2])] = name.removeprefix("test/")
        return list(found.values())

    title = "Accuracy by frequency of the noise"
    return _figure(material.compared, "frequency", title, caption, kinds)


def _figure(
    compared: Compared, name: str, title: str, caption: str, kinds_of: Any
) -> Figure | None:
    panels: list[tuple[str, Draw]] = []
    words: list[str] = []
    for setting in compared.settings:
        for kind in kinds_of(setting):
            for panel in compared.panel_names:
                if members := setting.in_panel(panel):
                    where = ", ".join(filter(None, (panel, kind.title)))
                    panels.append((titled(setting, where), _panel(compared, setting, panel, kind)))
                    for group in members:
                        means = [
                            f"{100 * stat.mean:.0f} at {x:g}"
                            for x, metric in sorted(kind.names.items())
                            if (stat := group.stat(f"test/{metric}"))
                        ]
                        words.append(f"{group.label}, {kind.title}: {', '.join(means)}")
    alt = f"Accuracy, %: {'; '.join(words)}."
    marks = "lines" if compared.marks else ""
    return Figure(name, title, caption, alt, panels, marks=marks, teacher=True) if panels else None


def _panel(compared: Compared, setting: Setting, panel_name: str, kind: Kind) -> Draw:
    """Thin lines are seeds, thick ones their mean; the teacher is dashed, chance dotted."""
    names = dict(sorted(kind.names.items()))

    def draw(panel: Panel) -> None:
        for group in setting.in_panel(panel_name):
            look = compared.line(group)
            lines = np.array([group.values(f"test/{metric}") for metric in names.values()])
            if group.n > 1:
                for line in lines.T:
                    panel.axis.plot(list(names), 100 * line, lw=0.7, alpha=0.4, **look)
            pairs = [(x, group.stat(f"test/{metric}"), metric) for x, metric in names.items()]
            known = [(x, stat, metric) for x, stat, metric in pairs if stat]
            means = [100 * stat.mean for _, stat, _ in known]
            xs = [x for x, *_ in known]
            panel.axis.plot(xs, means, lw=2.2, marker="o", ms=4, mec="#fffffe", mew=0.6, **look)
            for x, stat, metric in known:
                ends = stat.interval(metric)
                interval = f" [{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if ends else ""
                text = f"{group.label} at {x:g}: {100 * stat.mean:.1f} %{interval}"
                panel.tooltip(x, 100 * stat.mean, text, look)
        own = [(x, setting.teacher.get(f"teacher/{metric}")) for x, metric in names.items()]
        reference = [(x, 100 * stat.mean) for x, stat in own if stat]
        panel.axis.plot(*np.array(reference).reshape(-1, 2).T, **TEACHER)
        for x, value in reference:
            panel.tooltip(x, value, f"teacher at {x:g}: {value:.1f} %", TEACHER)
        if math.isfinite(setting.chance):
            panel.axis.axhline(100 * setting.chance, **GUIDE)
        panel.axis.set(ylim=(0, 103), xlabel=kind.xlabel, ylabel="accuracy, %")
        if len(names) < TICKS:
            panel.axis.set_xticks(list(names))

    return draw


def fourier_maps(material: Material) -> Figure | None:
    """Accuracy under single waves, mean over seeds: one map for each group and strength.

    Axes are horizontal and vertical frequency as shares of the images' Nyquist frequency. Images
    are real, so a wave of the frequency (-y, -x) is that of (y, x): half of the plane is measured
    and the other half mirrored.

    Source: Yin et al., "A Fourier Perspective on Model Robustness in Computer Vision", 2019.
    """
    panels: list[tuple[str, Draw]] = []
    words: list[str] = []
    for setting in material.compared.settings:
        for group in setting.groups:
            arrays = [material.arrays(str(trial)) for trial in group.trials["trial"]]
            strengths = {m[1] for one in arrays for n in one if (m := WAVES.fullmatch(n))}
            for strength in sorted(strengths, key=natural):
                stem = f"test/fourier/{strength}"
                waves: dict[tuple[float, float], list[float]] = {}
                for one in arrays:
                    if f"{stem}/accuracy" in one:
                        lists = (one[f"{stem}/{part}"] for part in ("down", "across", "accuracy"))
                        for down, across, accuracy in zip(*lists, strict=True):
                            waves.setdefault((down, across), []).append(accuracy)
                means = {wave: float(np.mean(values)) for wave, values in waves.items()}
                title = f"{titled(setting, group.label)}, strength {strength}"
                panels.append((title, _map(means)))
                low, high = 100 * min(means.values()), 100 * max(means.values())
                words.append(f"{title}: {low:.0f} to {high:.0f}")
    caption = (
        "Accuracy of the clean-fitted probe where one wave of the given strength is added to every "
        "image: dark where the students depend on that frequency; the lowest frequencies are in "
        "the middle. Mean over seeds."
    )
    alt = f"Accuracy, %, under single waves: {'; '.join(words)}."
    return Figure("fourier", "Single waves", caption, alt, panels, series=False) if panels else None


def _map(means: dict[tuple[float, float], float]) -> Draw:
    def draw(panel: Panel) -> None:
        points = [(y, x, value) for (y, x), value in means.items()]
        points += [(-y, -x, value) for y, x, value in points]
        rows, columns = (sorted({point[i] for point in points}) for i in (0, 1))
        percent_YX = np.full((len(rows), len(columns)), np.nan)
        for y, x, value in points:
            percent_YX[rows.index(y), columns.index(x)] = 100 * value
            panel.tooltip(x, y, f"down {y:g}, across {x:g}: {100 * value:.1f} %", {})
        axis = panel.axis
        image = axis.pcolormesh(
            columns, rows, percent_YX, vmin=0, vmax=100, cmap="viridis", rasterized=True
        )
        axis.grid(visible=False)
        axis.set(aspect="equal", xlabel="across, share of Nyquist", ylabel="down")
        axis.figure.colorbar(image, ax=axis, label="accuracy, %", shrink=0.85)

    return draw
