"""A study's tables as files for other programs: CSV and Parquet of its trials, LaTeX of a summary.

CSV and Parquet have a row a trial and the columns of docs/results.md; LaTeX has a row for each set
of trials that differ in their seed alone, with mean and standard deviation (ddof = 1) over seeds.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from shards.support import storage
from sweep.analysis.frame import FINISHED, SEED, Study
from sweep.reporting.summary import NOISE, arm_order, natural, some_severities, stat_of

LATEX_NOTE = "%: probe accuracy; InfoNCE in nats, lower is better; +-: sd over seeds, ddof = 1"
# What keeps trials of one configuration apart all the same.
APART = ("data.train", "data.test", "data.dim", "weights_sha256", "device")
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
SPECIAL |= {"^": r"\textasciicircum{}"}


def as_csv(study: Study) -> bytes:
    """A line a trial, in UTF-8; a list is written with spaces between its items."""
    table = study.trials.convert_dtypes()
    for name in table.columns:
        table[name] = [" ".join(map(str, v)) if isinstance(v, tuple) else v for v in table[name]]
    return table.to_csv(index=False, lineterminator="\n").encode()


def as_parquet(study: Study) -> bytes:
    """A row a trial; a column whose cells are of several types, such as 1 and `all`, is text."""
    table = study.trials.convert_dtypes()
    for name in table.columns:
        if len({type(cell) for cell in table[name] if cell is not None and cell is not pd.NA}) > 1:
            table[name] = [None if cell is None else str(cell) for cell in table[name]]
    out = io.BytesIO()
    table.to_parquet(out, index=False)
    return out.getvalue()


def as_latex(study: Study) -> bytes:
    """A tabular for the package booktabs: mean and deviation, the teacher's row above its students.

    Raises: ValueError where no trial is finished.
    """
    found: Any = study.trials[study.trials["status"] == FINISHED]
    if found.empty:
        raise ValueError("LaTeX: expected a finished trial, found none")
    columns = [name for name in (*study.axes, *APART) if name not in ("student", "arm")]
    columns = [name for name in columns if len(set(map(str, found[name]))) > 1]
    measures = _measures(found)
    head = ["student", "arm", *columns, "parameters", "n", *(title for _, title, _, _ in measures)]
    rows: list[list[str]] = []
    of_teacher = [name for name in ("dataset", "teacher", "classes", *APART) if name in found]
    fields = [name for name in (*study.fields, *APART) if name != SEED and name in found]
    for own in _sets(found, of_teacher):
        first = own.iloc[0]
        shown = [str(first[name]) if name in of_teacher else "" for name in columns]
        cells = [_cell(own, f"teacher/{m}", by, digits, False) for m, _, by, digits in measures]
        rows.append([*map(_escaped, ("teacher", "", *shown)), "", "", *cells])
        for group in _sets(own, fields):
            first = group.iloc[0]
            shown = [str(first[name]) for name in ("student", "arm", *columns)]
            shown += [f"{int(first['student.parameters']):,}", str(len(group))]
            cells = [_cell(group, f"test/{m}", by, digits) for m, _, by, digits in measures]
            rows.append([*map(_escaped, shown), *cells])
    table = pd.DataFrame(rows, columns=[_escaped(title) for title in head])
    layout = "l" * (2 + len(columns)) + "r" * (2 + len(measures))
    text = table.to_latex(index=False, escape=False, column_format=layout)
    return f"% {LATEX_NOTE}\n{text}".encode()


def _measures(found: Any) -> list[tuple[str, str, float, int]]:
    """(metric without its prefix, title, factor, digits) of what any trial has."""
    noises = {(m[1], m[2]) for name in found.columns if (m := NOISE.fullmatch(name))}
    ordered = sorted(noises, key=lambda pair: (natural(pair[0]), float(pair[1])))
    measures = [("rank/effective", "rank", 1.0, 1), ("linear/paper/accuracy", "clean %", 100.0, 1)]
    measures += [
        (f"noise/{space}/{sigma}/accuracy", f"{space} {sigma} %", 100.0, 1)
        for space, sigma in some_severities(ordered)
    ]
    measures.append(("infonce/paper", "InfoNCE", 1.0, 2))
    return [measure for measure in measures if f"test/{measure[0]}" in found]


def _sets(rows: Any, names: list[str]) -> list[Any]:
    """The rows in sets that agree in all of these columns, smaller students and `clean` first."""
    keys = [
        json.dumps([row[name] for name in names], default=str) for row in rows.to_dict("records")
    ]
    found = [part for _, part in rows.groupby(pd.Series(keys, index=rows.index), sort=False)]
    return sorted(found, key=_order)


def _order(rows: Any) -> Any:
    first = rows.iloc[0]
    return first["student.parameters"], natural(first["student"]), arm_order(str(first["arm"]))


def _cell(rows: Any, metric: str, by: float, digits: int, spread: bool = True) -> str:
    stat = stat_of(rows[metric]) if metric in rows else None
    if stat is None:
        return "--"
    mean = f"{stat.mean * by:.{digits}f}"
    if stat.sd is None or not spread:
        return f"${mean}$"
    lacking = f" ($n={stat.n}$)" if stat.n < len(rows) else ""
    return f"${mean} \\pm {stat.sd * by:.{digits}f}$" + lacking


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


FORMATS: dict[str, Callable[[Study], bytes]] = {
    "csv": as_csv,
    "latex": as_latex,
    "parquet": as_parquet,
}


def export(study: Study, kind: str, target: str) -> None:
    """Write the study to a path or URL as one of FORMATS. Raises: ValueError; OSError."""
    storage.write(target, FORMATS[kind](study))
