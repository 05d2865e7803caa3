"""Figures of one number a trial: against capacity, and against another number of the same trial."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sweep.reporting.drawing import GUIDE, TEACHER, Draw, Figure, Panel, finite, size
from sweep.reporting.groups import Compared, Group, Setting, natural, number
from sweep.reporting.material import Material, noises

RANK = "test/rank/effective"
CLEAN = "test/linear/paper/accuracy"
COSINE = "test/cosine_to_teacher"
SHRUNK = "test/retained/rank/effective"
RATIO = "test/retained/rank/ratio"
WITHIN = "test/variance/within_class"


def at_a_glance(material: Material) -> Figure | None:
    """Rank, clean accuracy and accuracy under noise against capacity: the first figure.

    Of the noises that claims are about, so that what a verdict says can be seen.
    """
    compared, panels, words = material.compared, [], []
    for setting in compared.settings:
        wanted = [(RANK, 1.0, "Effective rank"), (CLEAN, 100.0, "Accuracy on clean images, %")]
        for kind, sigma in claimed_noises(material, setting):
            wanted.append((f"test/noise/{kind}/{sigma}/accuracy", 100.0,
                           f"Accuracy under {kind} noise {sigma}, %"))  # fmt: skip
        for metric, by, title in wanted:
            if means := means_of(setting, metric, by, title):
                draw = against_size(compared, setting, metric, by, title, zero=metric == RANK)
                panels.append((titled(setting, title), draw))
                words.append(means)
    if not panels:
        return None
    caption = (
        "Small points are seeds, large ones their mean, bars 95 % t intervals of the mean (none "
        "where n = 1). Groups of equal size are drawn side by side. The dashed line is the "
        f"teacher. Ranks from zero: what is small here is small.{_without_size(compared)}"
    )
    marks = "points" if compared.marks or _beside(compared) else ""
    return Figure(
        "glance", "At a glance", caption, sentence(words), panels, marks=marks, teacher=True
    )


def rank_by_size(material: Material) -> Figure | None:
    """Effective rank, both conventions, and participation ratio, the students alone."""
    compared, panels, words = material.compared, [], []
    wanted = (
        (RANK, "Effective rank (p from s²)"),
        ("test/rank/roy_vetterli", "Effective rank (p from s)"),
        ("test/rank/participation", "Participation ratio"),
    )
    for setting in compared.settings:
        for metric, title in wanted:
            if means := means_of(setting, metric, 1, title):
                draw = against_size(compared, setting, metric, 1, title, teacher=False)
                panels.append((titled(setting, title), draw))
                words.append(means)
    if not panels:
        return None
    caption = (
        "The students alone, axes not from zero, so that differences are visible; three measures "
        "of the same spectrum. A difference that only one of them shows depends on the "
        f"convention.{_without_size(compared)}"
    )
    marks = "points" if compared.marks or _beside(compared) else ""
    return Figure("rank", "Rank against capacity", caption, sentence(words), panels, marks=marks)


def rank_against_robustness(material: Material) -> Figure | None:
    """One point a trial: accuracy under noise against effective rank, all groups together."""
    compared, panels, words = material.compared, [], []
    for setting in compared.settings:
        found = middle_noise(setting)
        names = [(CLEAN, "Accuracy on clean images, %")]
        if found:
            kind, sigma = found
            title = f"Accuracy under {kind} noise {sigma}, %"
            names.append((f"test/noise/{kind}/{sigma}/accuracy", title))
        for metric, title in names:
            pairs = pairs_of(setting, RANK, metric)
            if len(pairs):
                draw = scatter(compared, setting, (RANK, 1, "effective rank"), (metric, 100, ""))
                panels.append((titled(setting, title), draw))
                words.append(f"{titled(setting, title)}: {_correlation(pairs)}")
    if not panels:
        return None
    caption = (
        "One point for each trial. The rank correlation (Spearman) mixes differences between "
        "groups with those between seeds: it says whether rank and robustness go together in this "
        f"study, not that one causes the other. {sentence(words)}"
    )
    return Figure(
        "robustness", "Rank against robustness", caption, sentence(words), panels, marks="points"
    )


def collapse(material: Material) -> Figure | None:
    """Whether a low rank may come from shrinkage, from underfitting or from class count."""
    compared, panels, words = material.compared, [], []
    rank = (RANK, 1, "effective rank")
    for setting in compared.settings:
        classes = setting.fields.get("data.classes")
        for x, title, extra in (
            ((SHRUNK, 1, "rank that shrinkage alone would give"), "Shrinkage?", _diagonal),
            ((COSINE, 1, "cosine to the teacher"), "Underfitting?", None),
            ((WITHIN, 100, "variance inside classes, %"), "Class count?", _classes(classes)),
        ):
            if len(pairs_of(setting, x[0], RANK)):
                panels.append((titled(setting, title), scatter(compared, setting, x, rank, extra)))
        ratios = [f"{g.label} {s.mean:.2f}" for g in setting.groups if (s := g.stat(RATIO))]
        if ratios:
            words.append(f"rank over that of shrinkage: {', '.join(ratios)}")
    if not panels:
        return None
    caption = (
        "One point for each trial. Left: a best linear prediction of the teacher loses rank by "
        "regression to the mean alone; on the diagonal shrinkage explains the student's rank, "
        "below it directions have collapsed, above it is variation unrelated to the teacher. "
        "Middle: if all points lie on one rising line, differences in rank may be no more than "
        "differences in fit. Right: near C − 1 dimensions (dotted) and with little variance inside "
        "classes, a student keeps classes and little else."
    )
    title = "Collapse, shrinkage, underfitting or class count?"
    return Figure("collapse", title, caption, sentence(words), panels, marks="points")


# ---- panels ----


def against_size(
    compared: Compared,
    setting: Setting,
    metric: str,
    by: float,
    title: str,
    zero: bool = False,
    teacher: bool = True,
) -> Draw:
    """A metric against parameters, or by colour where the students are all of one size."""

    def draw(panel: Panel) -> None:
        axis, known = panel.axis, [g for g in setting.groups if g.stat(metric)]
        place = _places(compared, known, axis)
        for group in known:
            x = place(group)
            look = compared.point(group, "panel" if _beside(compared) else "colour")
            stat = group.stat(metric)
            assert stat is not None
            for seed, value in zip(group.trials["seed"], group.values(metric), strict=True):
                if group.n > 1:
                    axis.plot(x, by * value, ls="", ms=4, alpha=0.4, mec="none", **look)
                    panel.tooltip(
                        x, by * value, f"{group.label}, seed {seed}: {by * value:.4g}", look
                    )
            words = f"{group.label}: {by * stat.mean:.4g}"
            if ends := stat.interval(metric):
                low, high = by * ends[0], by * ends[1]
                bar = [[by * stat.mean - low], [high - by * stat.mean]]
                axis.errorbar(x, by * stat.mean, bar, lw=1.6, capsize=3, ls="", **_lined(look))
                words += f" [{low:.4g}, {high:.4g}], n = {stat.n}"
            axis.plot(x, by * stat.mean, ls="", ms=8, mec="#fffffe", mew=1, **look)
            panel.tooltip(x, by * stat.mean, words, look)
        reference = setting.teacher.get(metric.replace("test/", "teacher/", 1))
        if teacher and reference:
            panel.rule(by * reference.mean, f"teacher {by * reference.mean:.4g}", TEACHER)
        low, high = axis.get_ylim()
        if zero:
            axis.set_ylim(0, 1.08 * high)
        elif by == 100:  # a share: no room for what cannot be
            high = min(high, 100)
            axis.set_ylim(max(low, 0), high + 0.08 * (high - low))

    return draw


def _places(compared: Compared, known: list[Group], axis: Any) -> Callable[[Group], float]:
    """x of a group, so that groups of one size do not cover each other; sets the axis."""
    totals = sorted({g.parameters for g in known if math.isfinite(g.parameters)})
    beside = _beside(compared) and len(totals) > 1

    def key(group: Group) -> tuple[str, ...]:
        return (group.colour, group.mark, *([group.panel] if beside else []))

    series = sorted(set(map(key, known)), key=lambda names: list(map(natural, names)))

    def offset(group: Group) -> float:
        return series.index(key(group)) - (len(series) - 1) / 2

    # A student without parameters (teacher_pca) has no place on an axis of parameters.
    apart = [g for g in known if not math.isfinite(g.parameters)]
    if len(totals) < 2:
        names = list(dict.fromkeys(g.panel or g.colour for g in known))
        step = min(0.16, 0.7 / max(1, len(series)))
        axis.set_xticks(range(len(names)), [_short(name) for name in names])
        axis.set_xlim(-0.6, len(names) - 0.4)
        axis.grid(visible=False, axis="x")
        moved = any(g.panel for g in known)
        return lambda g: names.index(g.panel or g.colour) + (step * offset(g) if moved else 0)
    step = min(1.07, (totals[-1] / totals[0]) ** (0.35 / max(1, len(series)) / len(totals)))
    ticks = [totals[0]]
    for total in totals[1:]:
        ticks += [total] if total > 1.35 * ticks[-1] else []
    axis.set(xscale="log", xlabel="parameters of the student")
    left = totals[0] / 1.3
    names = [size(t) for t in ticks]
    if apart:
        outside = left / (totals[-1] / totals[0]) ** 0.15
        axis.axvline(left, **GUIDE)
        ticks, names = [outside, *ticks], ["none", *names]
        left = left / (totals[-1] / totals[0]) ** 0.3
    axis.set_xlim(left, totals[-1] * 1.3)
    axis.set_xticks(ticks, names)
    axis.set_xticks([], minor=True)
    return lambda g: (g.parameters if math.isfinite(g.parameters) else ticks[0]) * step ** offset(g)


def _beside(compared: Compared) -> bool:
    """Whether groups of one size differ in what panels stand for, as with `--by student`."""
    sized = {group.parameters for group in compared.groups if math.isfinite(group.parameters)}
    return len(sized) > 1 and compared.panel not in ("", "student")


def _without_size(compared: Compared) -> str:
    """Where students without parameters stand; empty where there are none, or no axis of sizes."""
    sized = {group.parameters for group in compared.groups if math.isfinite(group.parameters)}
    if len(sized) < 2 or all(math.isfinite(group.parameters) for group in compared.groups):
        return ""
    return " Students without parameters (teacher_pca) stand apart, on the left."


def scatter(
    compared: Compared,
    setting: Setting,
    x: tuple[str, float, str],
    y: tuple[str, float, str],
    extra: Callable[[Panel], None] | None = None,
) -> Draw:
    """One point a trial; x and y: metric, factor, label."""

    def draw(panel: Panel) -> None:
        for group in setting.groups:
            look = compared.point(group)
            pairs = zip(group.values(x[0]), group.values(y[0]), group.trials["seed"], strict=True)
            for right, up, seed in pairs:
                at, height = x[1] * right, y[1] * up
                panel.axis.plot(at, height, ls="", ms=7, alpha=0.85, mec="#fffffe", **look)
                where = f"{x[2]} {at:.4g}, {y[2]} {height:.4g}".replace(",  ", ", ")
                panel.tooltip(at, height, f"{group.label}, seed {seed}: {where}", look)
        panel.axis.set(xlabel=x[2], ylabel=y[2])
        if extra:
            extra(panel)

    return draw


def _diagonal(panel: Panel) -> None:
    (left, right), (low, high) = panel.axis.get_xlim(), panel.axis.get_ylim()
    ends = (min(left, low), max(right, high))
    panel.axis.plot(ends, ends, **GUIDE)
    panel.axis.set(xlim=ends, ylim=ends)


def _classes(classes: object) -> Callable[[Panel], None]:
    def draw(panel: Panel) -> None:
        if isinstance(classes, int | float) and classes > 1:
            panel.rule(float(classes) - 1, f"C − 1 = {int(classes) - 1}", GUIDE)

    return draw


def pairs_of(setting: Setting, x: str, y: str) -> np.ndarray:
    """(trials, 2): two metrics of every trial of a setting that has both."""
    columns = [(group.values(x), group.values(y)) for group in setting.groups]
    return finite(pair for one, other in columns for pair in zip(one, other, strict=True))


# ---- words ----


def means_of(setting: Setting, metric: str, by: float, title: str, digits: int = 1) -> str:
    """`Effective rank: width:1 15.9, width:2 16.6`; empty where no group has the metric."""
    stats = [(group.label, group.stat(metric)) for group in setting.groups]
    means = [f"{label} {by * stat.mean:.{digits}f}" for label, stat in stats if stat]
    return f"{titled(setting, title)}: {', '.join(means)}" if means else ""


def claimed_noises(material: Material, setting: Setting) -> list[tuple[str, str]]:
    """(space, sigma) of the noises that the run's claims are about; else of a middle one."""
    found = [pair for pair in noises(setting)
             if f"test/noise/{pair[0]}/{pair[1]}/accuracy" in material.claimed]  # fmt: skip
    middle = middle_noise(setting)
    return found or ([middle] if middle else [])


def middle_noise(setting: Setting) -> tuple[str, str] | None:
    """(space, sigma) of a middle noise: 0.1 where it was measured, pixel noise first."""
    found = [pair for pair in noises(setting) if float(pair[1]) > 0]
    spaces = [space for space, _ in found]
    own = [pair for pair in found if pair[0] == ("pixel" if "pixel" in spaces else spaces[0])]
    tenth = [pair for pair in own if float(pair[1]) == 0.1]
    return (tenth or own[len(own) // 2 :] or [None])[0]


def _correlation(pairs: np.ndarray) -> str:
    from scipy.stats import spearmanr

    if len(pairs) < 4:
        return f"{len(pairs)} trials, too few for a correlation"
    if min(np.ptp(pairs, axis=0)) == 0:
        return f"{len(pairs)} trials, equal in one of the two: no correlation"
    found: Any = spearmanr(*pairs.T)
    return f"Spearman’s ρ = {number(float(found.statistic), 2)}, {len(pairs)} trials"


def titled(setting: Setting, title: str) -> str:
    return f"{setting.name}: {title}" if setting.name else title


def sentence(words: list[str]) -> str:
    return "; ".join(words) + "." if words else ""


def _short(name: str) -> str:
    return name if len(name) < 14 else f"{name[:12]}…"


def _lined(look: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in look.items() if name != "marker"}
