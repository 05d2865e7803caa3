"""Figures of where the variance lies and how it agrees with the teacher's."""

from __future__ import annotations

import math

import numpy as np

from sweep.reporting.by_size import against_size, means_of, pairs_of, scatter, sentence, titled
from sweep.reporting.drawing import GUIDE, TEACHER, Draw, Figure, Panel
from sweep.reporting.groups import Compared, Setting
from sweep.reporting.material import Material
from sweep.reporting.stat import Stat

SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # numbers of components with words
Curves = list[tuple[str, dict[str, object], np.ndarray]]


def variance_curves(material: Material) -> Figure | None:
    """Cumulative share of variance against the number of principal components."""
    caption = (
        "Share of the centred variance of the test embeddings inside their own first k principal "
        "components: mean over seeds; dashed: the teacher. Dotted: 90 %. A curve that rises early "
        "uses few dimensions."
    )
    return _by_component(material, "variance", "Spectra", caption, "test/spectrum", True)


def subspace_curves(material: Material) -> Figure | None:
    """Share of the student's variance inside the teacher's first k components, for all k."""
    caption = (
        "Share of the student’s centred variance inside the teacher’s first k principal "
        "components: mean over seeds; dashed: the teacher’s own variance there. Above the dashed "
        "line, the student concentrates on the teacher’s leading directions; below it, it varies "
        "in directions that matter little to the teacher."
    )
    return _by_component(
        material, "subspace", "Alignment with the teacher’s subspace", caption, "test/subspace"
    )


def _by_component(
    material: Material, name: str, title: str, caption: str, array: str, summed: bool = False
) -> Figure | None:
    compared = material.compared
    panels: list[tuple[str, Draw]] = []
    words: list[str] = []
    for setting in compared.settings:
        own = teacher_curve(material, setting)
        for panel in compared.panel_names:
            curves: Curves = []
            for group in setting.in_panel(panel):
                lines = material.arrays_of(group, array)
                if lines:
                    curve = _mean([np.cumsum(line) for line in lines] if summed else lines)
                    curves.append((group.label, compared.line(group), curve))
                    words.append(f"{group.label} {curve[:20][-1]:.0f}")
            if curves:
                panels.append((titled(setting, panel or title), _curves(curves, own)))
    alt = f"Variance, %, in 20 components: {'; '.join(words)}."
    marks = "lines" if compared.marks else ""
    return Figure(name, title, caption, alt, panels, marks=marks, teacher=True) if panels else None


def teacher_curve(material: Material, setting: Setting) -> np.ndarray:
    """Cumulative percentages of the teacher's spectrum; empty where no trial has it."""
    for group in setting.groups:
        if found := material.arrays_of(group, "teacher/spectrum"):
            return 100 * np.cumsum(found[0])
    return np.empty(0)


def _mean(lines: list[np.ndarray]) -> np.ndarray:
    """Mean of cumulative curves in %; a shorter one stays at its last value."""
    longest = max(map(len, lines))
    padded = [np.concatenate([a, np.full(longest - len(a), a[-1])]) for a in lines]
    return 100 * np.mean(padded, axis=0)


def _curves(curves: Curves, own: np.ndarray) -> Draw:
    def draw(panel: Panel) -> None:
        axis = panel.axis
        if len(own):
            axis.plot(range(1, len(own) + 1), own, **TEACHER)
            for k in SHOWN:
                if k <= len(own):
                    panel.tooltip(k, own[k - 1], f"teacher, k = {k}: {own[k - 1]:.1f} %", TEACHER)
        for label, look, curve in curves:
            axis.plot(range(1, len(curve) + 1), curve, lw=2, **look)
            for k in SHOWN:
                if k <= len(curve):
                    panel.tooltip(k, curve[k - 1], f"{label}, k = {k}: {curve[k - 1]:.1f} %", look)
        axis.axhline(90, **GUIDE)
        axis.set(xscale="log", ylim=(0, 103), xlabel="principal components k")
        axis.set_ylabel("variance, %")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda *_: "")

    return draw


def _level(own: Stat | None) -> Draw:
    def draw(panel: Panel) -> None:
        if own:
            panel.rule(own.mean, f"teacher {own.mean:.3g}", TEACHER)

    return draw


def agreement(material: Material) -> Figure | None:
    """InfoNCE and uniformity: what links student and teacher, and how spread out embeddings are."""
    compared: Compared = material.compared
    panels: list[tuple[str, Draw]] = []
    words: list[str] = []
    wanted = (
        ("test/infonce/paper", "InfoNCE, batches of 64, nats"),
        ("test/infonce/tuned/bound", "Information bound, nats"),
    )
    for setting in compared.settings:
        for metric, title in wanted:
            if means := means_of(setting, metric, 1, title, digits=3):
                draw = against_size(compared, setting, metric, 1, title, teacher=False)
                panels.append((titled(setting, title), draw))
                words.append(means)
        names = ("test/alignment", "test/uniformity")
        if len(pairs_of(setting, *names)):
            x = (names[0], 1, "squared distance to the teacher")
            own = setting.teacher.get("teacher/uniformity")
            draw = scatter(compared, setting, x, (names[1], 1, "uniformity"), _level(own))
            panels.append((titled(setting, "Alignment and uniformity"), draw))
    if not panels:
        return None
    sizes = {int(g.fields["data.test"]) for g in compared.groups}
    largest = f"ln N = {math.log(sizes.pop()):.2f}" if len(sizes) == 1 else "ln N"
    caption = (
        "InfoNCE of student against teacher, lower is better; unrelated embeddings have about "
        f"ln 64 = 4.16. The bound is ln N − InfoNCE at a temperature chosen on train, at most "
        f"{largest}: a lower bound on mutual information, and a loose one. Uniformity is "
        "log E exp(−2‖x − y‖²) over distinct pairs: lower is more spread out."
    )
    title = "InfoNCE, uniformity and alignment"
    return Figure(
        "agreement", title, caption, sentence(words), panels, marks="points", teacher=True
    )
