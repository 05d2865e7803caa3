"""Figures of the training: loss, and rank and fit while it lasted."""

from __future__ import annotations

from typing import Any

import numpy as np

from sweep.analysis.curves import VALIDATION, images_of
from sweep.reporting.by_size import sentence, titled
from sweep.reporting.drawing import TEACHER, Draw, Figure, Panel
from sweep.reporting.groups import Compared, Setting
from sweep.reporting.material import Material, mean_curve

POINTS = 120  # of a loss curve; longer ones are averaged in blocks, to keep the page small
LOSS, RANK, COSINE = "loss", "rank/effective", "cosine_to_teacher"  # columns of the curves


def rank_by_epoch(material: Material) -> Figure | None:
    """One line for each group, its mean over seeds: effective rank, and cosine to the teacher.

    Of epochs at which all seeds were observed; a group without any has no line.
    """
    panels: list[tuple[str, Draw]] = []
    words: list[str] = []
    compared = material.compared
    for setting in compared.settings:
        for name, title in ((RANK, "Rank during training"), (COSINE, "Cosine during training")):
            curves = [
                (group, curve)
                for group in setting.groups
                if len(curve := mean_curve(_lines(material, group.trials["trial"], name)))
            ]
            if curves:
                panels.append(
                    (titled(setting, title), _mean_lines(compared, setting, name, curves))
                )
            for group, curve in curves if name == RANK else []:
                first, last = curve[0, 1], curve[-1, 1]
                highest = curve[:, 1].max()
                words.append(f"{group.label} {first:.1f}, at most {highest:.1f}, then {last:.1f}")
    if not panels:
        return None
    caption = (
        f"Measured during training on a fixed subset of {images_of(material.curves)} (where these "
        "are fewer than the whole test set, ranks are lower than the final ones); "
        "dashed: the teacher on the same images. A rank that falls while the cosine rises is lost "
        "in training; where both still rise at the end, the student has not converged; where both "
        "level off below the teacher, this is what the student can do."
    )
    alt = f"Effective rank during training: {sentence(words)}"
    return Figure(
        "curves", "Rank against epochs", caption, alt, panels, marks="points", teacher=True
    )


def _lines(material: Material, trials: Any, name: str) -> list[np.ndarray]:
    found = [material.curve_of(str(trial), name) for trial in trials]
    return [line for line in found if len(line)]


def _mean_lines(compared: Compared, setting: Setting, name: str, curves: list) -> Draw:
    def draw(panel: Panel) -> None:
        for group, curve in curves:
            look = compared.line(group) | compared.point(group)
            every = max(1, len(curve) // 8)
            panel.axis.plot(*curve.T, lw=2, ms=6, mec="#fffffe", markevery=every, **look)
            for epoch, value in curve[:: max(1, len(curve) // 24)]:
                panel.tooltip(epoch, value, f"{group.label}, epoch {epoch:g}: {value:.4g}", look)
        names = (f"teacher/curve/{VALIDATION}{name}", f"teacher/curve/{name}")
        own = next((setting.teacher[n] for n in names if n in setting.teacher), None)
        if own and name == RANK:
            panel.rule(own.mean, f"teacher {own.mean:.4g}", TEACHER)
        panel.axis.set_xlabel("epoch")
        # From zero, so that what is small looks small; a mean cosine may be below it.
        lowest = min(float(curve[:, 1].min()) for _, curve in curves)
        panel.axis.set_ylim(1.08 * min(0, lowest), max(0, 1.08 * panel.axis.get_ylim()[1]))

    return draw


def loss_curves(material: Material) -> Figure | None:
    """Training loss by epoch, one line for each seed."""
    panels: list[tuple[str, Draw]] = []
    words: list[str] = []
    compared = material.compared
    for setting in compared.settings:
        low = top = 0.0  # losses such as KoLeo's may be below zero
        drawn: list[tuple[str, list]] = []
        for panel in compared.panel_names:
            curves = []
            for group in setting.in_panel(panel):
                own = zip(group.trials["seed"], group.trials["trial"], strict=True)
                by_seed = {seed: material.curve_of(str(trial), LOSS) for seed, trial in own}
                lines = [line for line in by_seed.values() if len(line)]
                if lines:
                    curves.append((group, {s: _blocks(ln) for s, ln in by_seed.items() if len(ln)}))
                    ends = [line[-1, 1] for line in lines]
                    words.append(f"{group.label} {np.mean(ends):.3f}")
                    low = min(low, *(line[:, 1].min() for line in lines))
                    top = max(top, *(line[:, 1].max() for line in lines))
            if curves:
                drawn.append((panel, curves))
        for panel, curves in drawn:
            panels.append(
                (titled(setting, panel or "Training loss"), _losses(compared, curves, low, top))
            )
    if not panels:
        return None
    caption = (
        "One line for each seed. Where a curve still falls at its end, the student has not "
        "converged: its rank may still change. Losses of different objectives have different units."
    )
    alt = f"Training loss, at the end: {sentence(words)}"
    marks = "lines" if compared.marks else ""
    return Figure("loss", "Training loss", caption, alt, panels, marks=marks)


def _losses(compared: Compared, curves: list, low: float, top: float) -> Draw:
    def draw(panel: Panel) -> None:
        for group, lines in curves:
            look = compared.line(group)
            for seed, line in lines.items():
                marker = "o" if len(line) == 1 else ""
                panel.axis.plot(*line.T, lw=1.2, alpha=0.85, marker=marker, **look)
                epoch, value = line[-1]
                panel.tooltip(
                    epoch, value, f"{group.label}, seed {seed}: {value:.4g} at the end", look
                )
        panel.axis.set(xlabel="epoch", ylabel="loss", xlim=(0, None))
        if top > low:
            panel.axis.set_ylim(1.05 * low, 1.05 * top)

    return draw


def _blocks(line: np.ndarray) -> np.ndarray:
    blocks = np.array_split(line, max(1, min(len(line), POINTS)))
    return np.array([block.mean(axis=0) for block in blocks if len(block)])
