"""Tables of whole designs: two factors and their interaction, students less their teacher, and
ranks where the fit to the teacher is the same.

They are no verdicts: nothing in them was declared, and no p is corrected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from sweep.analysis.layout import at_matched, less_teacher, matched_level, two_way
from sweep.analysis.values import same
from sweep.analysis.words import p_value
from sweep.reporting.by_size import CLEAN, RANK, claimed_noises
from sweep.reporting.groups import Group, Setting, number
from sweep.reporting.material import Material
from sweep.reporting.stat import Frame, Stat, stat_of
from sweep.reporting.tables import Cell, Measure, Table, key_cells, key_columns, stat_cell

# Fields by which a trial without a result, of whose images nothing is known, belongs to a setting.
CONFIGURED = ("dataset", "teacher", "classes", "image_size", "input", "teacher_dim", "teacher_size")


def design_tables(material: Material, trials: Frame) -> list[Table]:
    """Those of the three tables that the study has the trials for. trials: `Study.trials`."""
    made = (matched(material), layout(material, trials), teacher_gaps(material, trials))
    return [table for table in made if table]


# ---- two factors ----


def layout(material: Material, trials: Frame) -> Table | None:
    """F tests of two factors and their interaction, three rows a measure.

    Of settings in which exactly two fields vary and every cell has a value; others are left out,
    as the effect of a further field would count as spread between seeds.
    """
    compared = material.compared
    several = len(compared.settings) > 1
    columns = [Cell(name) for name in (["setting"] if several else []) + ["measure", "effect of"]]
    columns += [Cell(name, number=True) for name in ("F", "degrees of freedom", "p")]
    columns += [Cell("partial η²", tip="SS / (SS + SS residual), 0 to 1", number=True)]
    columns += [Cell("n", tip="trials", number=True)]
    rows: list[list[Cell]] = []
    lost: dict[str, Mapping[str, int]] = {}
    for setting in compared.settings:
        factors = [name for name in compared.axes if _varies(setting, name)]
        if len(factors) != 2:
            continue
        own = _trials_of(setting, trials)
        for name, title, *_ in _measures(material, setting):
            try:
                found = two_way(own, f"test/{name}", *factors)
            except ValueError:  # an empty cell, or one seed a cell
                continue
            lost[setting.name] = found.lost
            rest = found.n - own[factors[0]].nunique() * own[factors[1]].nunique()
            for source in found.sources:
                cells = [Cell(setting.name)] if several else []
                cells += [Cell(title.replace(", %", "")), Cell(source.name)]
                cells += [_number(source.f, 2), Cell(f"{source.df:g}, {rest}", number=True)]
                cells += [Cell(p_value(source.p).removeprefix("p = "), source.p, number=True)]
                cells += [_number(source.share, 3), Cell(str(found.n), found.n, number=True)]
                rows.append(cells)
    if not rows:
        return None
    note = (
        "Analysis of variance with sums of squares of type II, equal variances assumed. No p is "
        "corrected, and none was declared: a hint, no verdict. Where the interaction is large, a "
        f"main effect is a mean over unlike things.{_left_out(lost)}"
    )
    return Table("layout", "Two factors and their interaction", columns, rows, note)


def _varies(setting: Setting, name: str) -> bool:
    return len({str(group.fields.get(name)) for group in setting.groups}) > 1


# ---- student less teacher ----


def teacher_gaps(material: Material, trials: Frame) -> Table | None:
    """Student less teacher, a row a group: mean, deviation and interval over its seeds."""
    compared = material.compared
    measures = {m[0]: m for setting in compared.settings for m in _measures(material, setting)}
    columns = [*key_columns(compared), Cell("n", tip="finished seeds", number=True)]
    titles = [title.replace(", %", ", points") for _, title, *_ in measures.values()]
    columns += [Cell(title, number=True) for title in titles]
    rows: list[list[Cell]] = []
    lost: dict[str, Mapping[str, int]] = {}
    for setting in compared.settings:
        whole = _trials_of(setting, trials)
        for group in setting.groups:
            own = _trials_of_group(compared.axes, group, whole)
            cells = [*key_cells(compared, setting, group), Cell(str(group.n), group.n, number=True)]
            for name, title, by, digits in measures.values():
                gap: Stat | None = None
                if name in _shared(setting):
                    try:
                        found = less_teacher(own, name, group.label)
                    except ValueError:  # no trial of this group has both values
                        cells.append(stat_cell(None, ("", title, by, digits)))
                        continue
                    lost[group.label] = found.lost
                    gap = Stat(found.mean, found.sd, found.n)
                # Without the metric's name: a difference of shares is not kept inside 0 and 1.
                cells.append(stat_cell(gap, ("", title, by, digits), group.n))
            rows.append(cells)
    if not any(_shared(setting) for setting in compared.settings) or not measures:
        return None
    note = (
        "The teacher is measured once on the same images, so that the spread is the student’s over "
        f"seeds.{_left_out(lost)}"
    )
    return Table("less_teacher", "Students less their teacher", columns, rows, note)


def _shared(setting: Setting) -> set[str]:
    """Names of the metrics that the teacher has."""
    return {name.removeprefix("teacher/") for name in setting.teacher}


# ---- rank at the same fit ----


def matched(material: Material) -> Table | None:
    """Rank during training where students first had the same cosine to the teacher."""
    compared = material.compared
    columns = [*key_columns(compared), Cell("n", tip="finished seeds", number=True)]
    columns += [Cell("at cosine", number=True), Cell("effective rank there", number=True)]
    columns += [Cell("at the end of training", number=True)]
    rows: list[list[Cell]] = []
    for setting in compared.settings:
        ids = {str(trial) for group in setting.groups for trial in group.trials["trial"]}
        curves = material.curves
        own = curves[curves["trial"].isin(ids)] if "trial" in curves else curves
        level = matched_level(own) if len(own) else None
        if level is None or len(setting.groups) < 2:
            continue
        there = at_matched(own, level=level)
        for group in setting.groups:
            trials = [str(trial) for trial in group.trials["trial"]]
            lines = [material.curve_of(trial, "rank/effective") for trial in trials]
            ends = [float(line[-1, 1]) for line in lines if len(line)]
            cells = [*key_cells(compared, setting, group), Cell(str(group.n), group.n, number=True)]
            cells.append(_number(level, 3))
            for values in ([there[t] for t in trials if t in there], ends):
                cells.append(stat_cell(stat_of(values), ("", "", 1, 2), group.n))
            rows.append(cells)
    if not rows:
        return None
    note = (
        "Students that fit their teacher unequally well differ in rank for that alone. Here each "
        "is taken where its mean cosine first reached the highest value that all trials reached, "
        "interpolated between observations, on the images of the curves. Trials that begin above "
        "it are left out, which n says."
    )
    return Table("matched", "Rank where the fit is the same", columns, rows, note)


# ---- what they share ----


def _measures(material: Material, setting: Setting) -> list[Measure]:
    """Rank, clean accuracy, and accuracy under the noises of the first figure."""
    found: list[Measure] = [
        (RANK.removeprefix("test/"), "effective rank", 1, 2),
        (CLEAN.removeprefix("test/"), "probe, clean, %", 100, 2),
    ]
    found += [
        (f"noise/{space}/{sigma}/accuracy", f"{space} noise {sigma}, %", 100, 2)
        for space, sigma in claimed_noises(material, setting)
    ]
    return [measure for measure in found if f"test/{measure[0]}" in setting.metrics]


def _trials_of(setting: Setting, trials: Frame) -> Frame:
    """The setting's trials, with those that have no result but are configured alike."""
    ids = {str(trial) for group in setting.groups for trial in group.trials["trial"]}
    return trials[trials["trial"].isin(ids) | _without_result(trials, CONFIGURED, setting.fields)]


def _trials_of_group(axes: list[str], group: Group, trials: Frame) -> Frame:
    """The group's trials, with those of equal axes that have no result."""
    ids = set(group.trials["trial"])
    return trials[trials["trial"].isin(ids) | _without_result(trials, axes, group.fields)]


def _without_result(trials: Frame, names: Iterable[str], fields: Mapping[str, Any]) -> Any:
    """Which trials have no result and these values in the fields `names`, as a boolean Series.

    A group has the whole number 1 where the study's table, of which some trials have no number,
    has 1.0; so values are compared, and not how they are written.
    """
    alike: Any = trials["status"] != "finished"
    for name in names:
        if name in trials:
            alike &= trials[name].map(partial(same, value=fields.get(name)))
    return alike


def _left_out(lost: Mapping[str, Mapping[str, int]]) -> str:
    """` Left out: width:1 · clean: 2 diverged.`; empty where all trials have values."""
    parts = [
        f"{label}: {', '.join(f'{count} {why}' for why, count in own.items())}".removeprefix(": ")
        for label, own in lost.items()
        if own
    ]
    return f" Left out: {'; '.join(parts)}." if parts else ""


def _number(value: float, digits: int) -> Cell:
    return Cell(number(value, digits) if math.isfinite(value) else "–", value, number=True)
