"""Tables of whole designs: two factors and their interaction, students less their teacher, and
ranks where the fit to the teacher is the same.

They are no verdicts: nothing in them was declared, and no p is corrected.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep.analysis.layout import at_matched, less_teacher, matched_level, two_way
from sweep.analysis.values import Row, configured, same
from sweep.analysis.words import p_value
from sweep.reporting.by_size import CLEAN, RANK, claimed_noises
from sweep.reporting.groups import Group, Setting, differences, finished_of, number
from sweep.reporting.material import Material
from sweep.reporting.stat import Frame, Stat, stat_of
from sweep.reporting.tables import Cell, Measure, Table, key_cells, key_columns, stat_cell

# Fields by which a trial without a result, of whose images nothing is known, belongs to a setting.
CONFIGURED = ("dataset", "teacher", "classes", "image_size", "input", "teacher_dim", "teacher_size")
ALL_LOST = "combinations without a result"


def design_tables(
    material: Material, trials: Frame, axes: Sequence[str]
) -> tuple[list[Table], list[str]]:
    """Those of the three tables that the study has the trials for, and notes about the others.

    trials, axes: of the study. The notes are of tables that trials without a result have cost.
    """
    rest = _Unfinished(trials)
    two_factors, notes = layout(material, trials, rest, axes)
    made = (matched(material), two_factors, teacher_gaps(material, trials, rest))
    return [table for table in made if table], notes


# ---- two factors ----


def layout(
    material: Material, trials: Frame, rest: _Unfinished, axes: Sequence[str]
) -> tuple[Table | None, list[str]]:
    """F tests of two factors and their interaction, three rows a measure; and notes.

    Of settings in which exactly two fields vary and every cell has a value; others are left out,
    as the effect of a further field would count as spread between seeds. A note names a setting
    that would be there if all of its trials had results.
    """
    compared = material.compared
    several = len(compared.settings) > 1
    columns = [Cell(name) for name in (["setting"] if several else []) + ["measure", "effect of"]]
    columns += [Cell(name, number=True) for name in ("F", "degrees of freedom", "p")]
    columns += [Cell("partial η²", tip="SS / (SS + SS residual), 0 to 1", number=True)]
    columns += [Cell("n", tip="trials", number=True)]
    rows: list[list[Cell]] = []
    lost: dict[str, Mapping[str, int]] = {}
    notes: list[str] = []
    for setting in compared.settings:
        factors = [name for name in compared.axes if _varies(setting, name)]
        beside = rest.beside(setting)
        if len(factors) != 2:
            planned = [n for n in axes if n in factors or _varies(setting, n, beside)]
            if len(planned) == 2:
                one = next(name for name in planned if name not in factors)
                notes.append(_no_table(setting, planned, f"one value of {one} alone has results"))
            continue
        own = trials[trials["trial"].isin(_ids(setting.groups) | rest.like(setting.groups))]
        why, before = "", len(rows)
        for name, title, *_ in _measures(material, setting):
            try:
                found = two_way(own, f"test/{name}", *factors)
            except ValueError as error:  # an empty cell, or one seed a cell
                why = why or str(error)
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
        if len(rows) > before:
            lost |= _all_lost(setting, beside)
        elif why and (beside or rest.like(setting.groups)):
            notes.append(_no_table(setting, factors, why))
    if not rows:
        return None, notes
    note = (
        "Analysis of variance with sums of squares of type II, equal variances assumed. No p is "
        "corrected, and none was declared: a hint, no verdict. Where the interaction is large, a "
        f"main effect is a mean over unlike things.{_left_out(lost)}"
    )
    return Table("layout", "Two factors and their interaction", columns, rows, note), notes


def _varies(setting: Setting, name: str, beside: Iterable[Row] = ()) -> bool:
    """Whether a field varies between groups, or between these and trials `beside` them."""
    first, *others = [group.fields.get(name) for group in setting.groups]
    return not all(same(value, first) for value in (*others, *(row.get(name) for row in beside)))


def _no_table(setting: Setting, factors: Sequence[str], why: str) -> str:
    where = f" ({setting.name})" if setting.name else ""
    return (
        f"There is no analysis of {' and '.join(factors)}{where}, as trials have no result: {why}."
    )


# ---- student less teacher ----


def teacher_gaps(material: Material, trials: Frame, rest: _Unfinished) -> Table | None:
    """Student less teacher, a row a group: mean, deviation and interval over its seeds."""
    compared = material.compared
    measures = {m[0]: m for setting in compared.settings for m in _measures(material, setting)}
    columns = [*key_columns(compared), Cell("n", tip="finished seeds", number=True)]
    titles = [title.replace(", %", ", points") for _, title, *_ in measures.values()]
    columns += [Cell(title, number=True) for title in titles]
    rows: list[list[Cell]] = []
    lost: dict[str, Mapping[str, int]] = {}
    for setting in compared.settings:
        lost |= _all_lost(setting, rest.beside(setting))
        for group in setting.groups:
            own = trials[trials["trial"].isin(_ids([group]) | rest.like([group]))]
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


class _Unfinished:
    """The trials without a result, of whose images nothing is known, by their configuration."""

    def __init__(self, trials: Frame) -> None:
        fields = trials[[name for name in map(str, trials.columns) if "/" not in name]]
        self._rows: list[Row] = fields[fields["status"] != "finished"].to_dict("records")
        # Runs that differ in their recipe stand apart, also where these trials do not.
        self._run = ["run"] if differences(finished_of(trials)) else []
        self._names = [*configured(fields.to_dict("records")), *self._run]

    def like(self, groups: Iterable[Group]) -> set[str]:
        """Those that differ from one of the groups in their seed alone."""
        return {row["trial"] for row in self._rows if self._in(row, groups)}

    def beside(self, setting: Setting) -> list[Row]:
        """Those of a setting that are like none of its groups: no trial like them has a result."""
        names = [*CONFIGURED, *self._run]
        own = [row for row in self._rows if _alike(row, setting.fields, names)]
        return [row for row in own if not self._in(row, setting.groups)]

    def _in(self, row: Row, groups: Iterable[Group]) -> bool:
        return any(_alike(row, group.fields, self._names) for group in groups)


def _alike(row: Row, fields: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a row has these values in the fields `names`.

    A group has the whole number 1 where the study's table, of which some trials have no number,
    has 1.0; so values are compared, and not how they are written.
    """
    return all(same(row.get(name), fields.get(name)) for name in names)


def _ids(groups: Iterable[Group]) -> set[str]:
    return {str(trial) for group in groups for trial in group.trials["trial"]}


def _all_lost(setting: Setting, beside: Sequence[Row]) -> dict[str, Mapping[str, int]]:
    """For `_left_out`, trials that are in no row at all."""
    label = f"{setting.name}, {ALL_LOST}" if setting.name else ALL_LOST
    return {label: Counter(str(row["status"]) for row in beside)}


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
