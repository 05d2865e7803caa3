"""Tables of a report: cells with a text, a value to sort by, and words for who points at them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sweep.reporting.groups import Compared, Group, Setting, natural, number, text_of
from sweep.reporting.material import noises_of, some_noises
from sweep.reporting.stat import Frame, Stat
from trainers.probes.names import arrow, metric_of

Measure = tuple[str, str, float, int]  # metric without its prefix, title, factor, digits
GEOMETRY: list[Measure] = [
    ("rank/effective", "effective rank (p from s²)", 1, 2),
    ("rank/roy_vetterli", "effective rank (p from s)", 1, 2),
    ("rank/rankme", "RankMe", 1, 2),
    ("rank/participation", "participation ratio", 1, 2),
    ("rank/within_class/effective", "rank inside classes", 1, 2),
    ("retained/rank/ratio", "rank over shrinkage’s", 1, 2),
    ("dims/90", "dims for 90 %", 1, 1),
    ("dims/99", "dims for 99 %", 1, 1),
    ("uniformity", "uniformity", 1, 3),
]
AGREEMENT: list[Measure] = [
    ("cosine_to_teacher", "cosine to teacher", 1, 3),
    ("cka/debiased", "CKA", 1, 3),
    ("retained/share", "teacher’s variance retained, %", 100, 1),
    ("infonce/paper", "InfoNCE, batches of 64", 1, 3),
    ("infonce/tuned/bound", "information bound, nats", 1, 2),
    ("infonce/retrieval1", "retrieval @ 1, %", 100, 1),
    ("zero_shot/accuracy", "zero-shot, %", 100, 1),
    ("knn/accuracy", "k-NN, %", 100, 1),
]


@dataclass(frozen=True)
class Cell:
    """sub: small, below or behind the text. tip: for who points at it. colour: of its series."""

    text: str
    sort: float | str = ""
    sub: str = ""
    tip: str = ""
    colour: int | None = None
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under titles; `head` cells of a row stay in view, `marked` rows stand out."""

    name: str
    title: str
    columns: list[Cell]
    rows: list[list[Cell]]
    note: str = ""
    marked: set[int] = field(default_factory=set[int])


def stat_cell(stat: Stat | None, measure: Measure, n: int | None = None) -> Cell:
    """`71.1` with `± 0.4` and the interval for who points at it; nothing of these at n = 1.

    `> 0.43` where values are censored, so that the mean is a lower bound.
    """
    name, _, by, digits = measure
    if stat is None:
        return Cell("–", math.nan, number=True)
    text, sub, tip = number(by * stat.mean, digits), "", ""
    if stat.sd is not None and n is not None:
        sub = f"± {number(by * stat.sd, digits)}"
        ends = stat.interval(name)
        assert ends is not None
        low, high = (number(by * end, digits) for end in ends)
        tip = f"95 % t interval of the mean: {low} to {high}; n = {stat.n}"
    if stat.censored:
        text = f"> {text}"
        tip = f"a lower bound: of {stat.censored} of {stat.n} values only a bound is known"
    if n is not None and stat.n < n:
        sub += f" (n = {stat.n})"
    return Cell(text, by * stat.mean, sub, tip, number=True)


def main_tables(compared: Compared) -> list[Table]:
    """Accuracy, geometry and agreement with the teacher, a row a group; empty ones are left out."""
    clean: Measure = ("linear/paper/accuracy", "probe, clean, %", 100, 2)
    accuracy = [clean, *noise_measures(compared)]
    made = [
        _by_group(compared, "accuracy", "Accuracy", accuracy, sizes=True),
        _by_group(compared, "geometry", "Geometry of the test embeddings", GEOMETRY),
        _by_group(compared, "agreement", "Agreement with the teacher", AGREEMENT),
    ]
    return [table for table in made if table]


def noise_measures(compared: Compared) -> list[Measure]:
    found = [(space, sigma) for space, sigma in noises_of(compared) if float(sigma) > 0]
    return [
        (f"noise/{space}/{sigma}/accuracy", f"{space} noise {sigma}, %", 100, 2)
        for space, sigma in some_noises(found)
    ]


def _by_group(
    compared: Compared, name: str, title: str, measures: list[Measure], sizes: bool = False
) -> Table | None:
    known = [m for m in measures if any(g.stat(f"test/{m[0]}") for g in compared.groups)]
    if not known:
        return None
    columns = key_columns(compared)
    if sizes:
        columns += [Cell("parameters", number=True), Cell("MMAC", number=True)]
    columns += [Cell("n", tip="finished seeds", number=True)]
    columns += [title_cell(measure) for measure in known]
    rows: list[list[Cell]] = []
    marked = set[int]()
    for setting in compared.settings:
        marked.add(len(rows))
        keys = [Cell(setting.name)] if len(compared.settings) > 1 else []
        keys += [Cell("teacher"), *[Cell("")] * (len(columns) - len(known) - len(keys) - 1)]
        own = [stat_cell(setting.teacher.get(f"teacher/{m[0]}"), m) for m in known]
        rows.append([*keys, *own])
        for group in setting.groups:
            cells = key_cells(compared, setting, group)
            if sizes:
                parameters, macs = group.parameters, float(group.fields.get("student.macs") or 0)
                whole = f"{parameters:,.0f}" if math.isfinite(parameters) else "–"
                cells += [Cell(whole, parameters, number=True)]
                cells += [Cell(f"{macs / 1e6:,.1f}", macs, number=True)]
            cells += [Cell(str(group.n), group.n, number=True)]
            cells += [stat_cell(group.stat(f"test/{m[0]}"), m, group.n) for m in known]
            rows.append(cells)
    return Table(name, title, columns, rows, marked=marked)


def key_columns(compared: Compared) -> list[Cell]:
    """The columns that tell groups apart."""
    first = [Cell("setting")] if len(compared.settings) > 1 else []
    return [*first, *[Cell(name) for name in compared.axes or ["student"]]]


def key_cells(compared: Compared, setting: Setting, group: Group) -> list[Cell]:
    cells = [Cell(setting.name)] if len(compared.settings) > 1 else []
    for name in compared.axes or ["student"]:
        value = group.fields.get(name)
        colour = compared.colours.index(group.colour) % 8 if name == compared.by else None
        order = group.parameters if name == "student" else math.nan
        sort = order if math.isfinite(order) else _order(value)
        cells.append(Cell(text_of(value), sort, colour=colour))
    return cells


def _order(value: Any) -> float | str:
    """What a field's value is sorted by in the page: a number as such, as 1,024 is none there."""
    return value if isinstance(value, int | float) else text_of(value)


def title_cell(measure: Measure) -> Cell:
    known = metric_of(measure[0])
    text = f"{measure[1]}\u00a0{arrow(measure[0])}".rstrip()
    return Cell(text.replace(", %", ",\u00a0%"), tip=known.meaning if known else "", number=True)


def all_measures(compared: Compared) -> Table | None:
    """Every metric, a row each, a column a group: for who looks for one by name."""
    names: dict[str, None] = {}
    for setting in compared.settings:
        names |= dict.fromkeys(setting.metrics)
    if not names:
        return None
    several = len(compared.settings) > 1
    columns = [Cell("metric"), Cell("unit")]
    owners = [(s, g) for s in compared.settings for g in s.groups]
    for setting in compared.settings:
        columns.append(Cell(f"teacher {setting.name}".strip(), number=True))
    for setting, group in owners:
        colour = compared.colours.index(group.colour) % 8
        text = f"{setting.name} {group.label}" if several else group.label
        columns.append(Cell(text, colour=colour, number=True))
    rows: list[list[Cell]] = []
    for name in sorted(names, key=natural):
        bare, known = name.removeprefix("test/"), metric_of(name)
        row = [Cell(bare, bare, tip=known.meaning if known else "")]
        row.append(Cell(known.unit if known else ""))
        for setting in compared.settings:
            row.append(_digits(setting.teacher.get(f"teacher/{bare}"), bare, None))
        row += [_digits(group.stat(name), bare, group.n) for _, group in owners]
        rows.append(row)
    return Table("measures", "All measures", columns, rows)


def _digits(stat: Stat | None, name: str, n: int | None) -> Cell:
    size = abs(stat.mean) if stat else 0
    digits = 1 if size >= 100 else 2 if size >= 10 else 4
    return stat_cell(stat, (name, "", 1, digits), n)


def every_trial(compared: Compared) -> Table:
    """A row a finished trial."""
    measures: list[Measure] = [
        ("rank/effective", "effective rank", 1, 2),
        ("cosine_to_teacher", "cosine to teacher", 1, 3),
        ("linear/paper/accuracy", "probe, clean, %", 100, 2),
        *noise_measures(compared),
    ]
    columns = [*key_columns(compared), Cell("seed", number=True), Cell("trial")]
    columns += [title_cell(measure) for measure in measures]
    rows: list[list[Cell]] = []
    for setting in compared.settings:
        for group in setting.groups:
            keys = key_cells(compared, setting, group)
            for i, (seed, trial) in enumerate(
                zip(group.trials["seed"], group.trials["trial"], strict=True)
            ):
                row = [*keys, Cell(str(seed), float(seed), number=True), Cell(str(trial))]
                for measure in measures:
                    value = group.values(f"test/{measure[0]}")[i]
                    row.append(stat_cell(_one(value), measure))
                rows.append(row)
    return Table("trials", "Every trial", columns, rows)


def _one(value: float) -> Stat | None:
    return Stat(value, None, 1) if math.isfinite(value) else None


def unfinished(trials: Frame, axes: list[str]) -> Table | None:
    """What failed, diverged, was stopped early or did not end, and why; None where all finished."""
    rows_of = trials[trials["status"] != "finished"]
    if not len(rows_of):
        return None
    names = [name for name in axes or ["student", "arm"] if name in trials]
    columns = [Cell("trial"), *map(Cell, names), Cell("seed"), Cell("status"), Cell("error")]
    rows: list[list[Cell]] = []
    for row in rows_of.to_dict("records"):
        values: list[Any] = [row["trial"], *(row.get(name) for name in names), row.get("seed")]
        seed = values.pop()
        whole = int(seed) if isinstance(seed, float) and seed.is_integer() else seed
        cells = [Cell(text_of(value), _order(value)) for value in [*values, whole]]
        rows.append([*cells, Cell(str(row["status"])), Cell(text_of(row.get("error")))])
    return Table("unfinished", "Trials without a result", columns, rows)
