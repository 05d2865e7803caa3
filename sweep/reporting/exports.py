"""A study's tables as files for other programs: CSV and Parquet of its trials, LaTeX of a summary.

CSV and Parquet have a row a trial and the columns of docs/results.md; LaTeX has a row for each set
of trials that differ in their seed alone, with mean and standard deviation (ddof = 1) over seeds.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pandas as pd

from shards.support import storage
from sweep.analysis.frame import FINISHED, Study
from sweep.reporting.groups import compare
from sweep.reporting.stat import Stat
from sweep.reporting.summary import columns_of, measures_of, rows_of

LATEX_NOTE = "%: probe accuracy; InfoNCE in nats, lower is better; +-: sd over seeds, ddof = 1"
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

    Its groups are those of the report. Raises: ValueError where no trial is finished.
    """
    found: Any = study.trials[study.trials["status"] == FINISHED]
    if found.empty:
        raise ValueError("LaTeX: expected a finished trial, found none")
    compared = compare(study.trials, study.axes)
    measures = [m for m in measures_of(compared) if f"test/{m[0]}" in found]
    columns = columns_of(compared)
    head = [*columns, "parameters", "n", *(title for _, title, _, _ in measures)]
    rows: list[list[str]] = []
    for keys, n, stats in rows_of(compared, measures):
        pairs = zip(stats, measures, strict=True)
        cells = [_cell(stat, by, digits, n) for stat, (_, _, by, digits) in pairs]
        rows.append([*map(_escaped, keys), *cells])
    table = pd.DataFrame(rows, columns=[_escaped(title) for title in head])
    layout = "l" * len(columns) + "r" * (2 + len(measures))
    text = table.to_latex(index=False, escape=False, column_format=layout)
    return f"% {LATEX_NOTE}\n{text}".encode()


def _cell(stat: Stat | None, by: float, digits: int, n: int | None = None) -> str:
    """`$71.1 \\pm 0.4$`, without a deviation for the teacher (n is None) or where there is none."""
    if stat is None:
        return "--"
    mean = f"{'>' * bool(stat.censored)}{stat.mean * by:.{digits}f}"
    if n is not None and stat.sd is not None:
        mean += f" \\pm {stat.sd * by:.{digits}f}"
    lacking = f" ($n={stat.n}$)" if n is not None and stat.n < n else ""
    return f"${mean}$" + lacking


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
