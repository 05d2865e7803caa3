"""What a study found in short: a table for a terminal, and its numbers as plain objects.

Rows are the groups of `sweep.reporting.groups`: trials that differ in their seed alone. Means and
standard deviations (ddof = 1) are over the seeds of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sweep.analysis.frame import FINISHED, Study
from sweep.reporting.facts import random_weights
from sweep.reporting.groups import SEED, Compared, compare, text_of
from sweep.reporting.material import noises_of, some_noises
from sweep.reporting.stat import Stat, metrics_in
from sweep.reporting.tables import Measure

TEACHER = ("dataset", "teacher", "data.train", "data.test", "data.dim", "classes")
KEYS = ("student", "arm")
Row = tuple[list[str], int | None, list[Stat | None]]  # texts, seeds (None: the teacher), values
CAPTION = "%: probe accuracy. InfoNCE in nats, lower is better. ±: sd over seeds, ddof = 1."


def measures_of(compared: Compared, between: str = " ") -> list[Measure]:
    """The measures of a short table; between: what stands between the words of a title."""
    accuracies: list[Measure] = [
        (f"noise/{space}/{sigma}/accuracy", f"{space}{between}{sigma} %", 100, 1)
        for space, sigma in some_noises(noises_of(compared))
    ]
    return [
        ("rank/effective", "rank", 1, 1),
        ("linear/paper/accuracy", "clean %", 100, 1),
        *accuracies,
        ("infonce/paper", f"Info{between.strip(' ')}NCE", 1, 2),
    ]


def as_plain(study: Study) -> list[dict[str, Any]]:
    """Teacher rows, then one row per group: fields, seeds and {metric: {mean, sd, n}}.

    Trials that were read from MLflow have no `config`, `parameters` and `data`.
    """
    compared = compare(study.trials, study.axes)
    results = {result.id: result for result in study.results}
    rows: list[dict[str, Any]] = []
    for setting in compared.settings:
        fields = {name: setting.fields.get(name) for name in TEACHER}
        metrics = {name: _plain(stat) for name, stat in setting.teacher.items()}
        rows.append({"kind": "teacher", **fields, "metrics": metrics})
    for group in compared.groups:
        row = {name: group.fields[name] for name in ("dataset", "teacher", "student", "arm")}
        if result := results.get(str(group.trials["trial"].iloc[0])):
            config = {name: v for name, v in result.config.items() if name != SEED}
            row |= {"parameters": result.student.model_dump(), "data": result.data.model_dump()}
            row |= {"config": _flat(config)}
        names = metrics_in(group.trials, "test/")
        row |= {"seeds": group.trials[SEED].tolist(), "n": group.n}
        row |= {"metrics": {name: _plain(stat) for name in names if (stat := group.stat(name))}}
        rows.append({"kind": "student", **row})
    return rows


def _left_out(study: Study) -> list[str]:
    """How many trials are in no row, by how they ended."""
    ends = study.trials["status"].value_counts()
    counts = [f"{count} {status}" for status, count in ends.items() if status != FINISHED]
    return [f"Without a result: {', '.join(counts)}."] if counts else []


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name in sorted(config):
        value = config[name]
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


def _plain(stat: Stat) -> dict[str, float | int | None]:
    """The fields of a Stat; `censored` only where there are such values."""
    return {name: v for name, v in asdict(stat).items() if name != "censored" or v}


def short(stat: Stat | None, scale: float, digits: int, n: int | None = None) -> str:
    """`15.9 ±0.4`; `±-` where n = 1, `-` where nothing was measured, `n=2` if a seed lacks it.

    `>0.43` where values are censored, so that the mean is a bound.
    """
    if stat is None:
        return "-"
    mean = f"{'>' * bool(stat.censored)}{stat.mean * scale:.{digits}f}"
    if n is None or stat.censored:
        return mean + (f" n={stat.n}" if n is not None and stat.n < n else "")
    spread = "-" if stat.sd is None else f"{stat.sd * scale:.{digits}f}"
    return f"{mean} ±{spread}" + (f" n={stat.n}" if stat.n < n else "")


def columns_of(compared: Compared) -> list[str]:
    """The columns that tell rows apart, those of the student and the arm first."""
    setting = ["setting"] if len(compared.settings) > 1 else []
    return [*KEYS, *setting, *(name for name in compared.axes if name not in KEYS)]


def rows_of(compared: Compared, measures: list[Measure]) -> Iterator[Row]:
    """The teacher of each setting, then its groups: a table's rows from left to right."""
    columns = columns_of(compared)
    for setting in compared.settings:
        own = {"student": "teacher", "setting": setting.name}
        stats = [setting.teacher.get(f"teacher/{metric}") for metric, *_ in measures]
        yield [*(own.get(name, "") for name in columns), "", ""], None, stats
        for group in setting.groups:
            own = {name: text_of(group.fields.get(name)) for name in columns}
            own["setting"] = setting.name
            size = text_of(group.fields.get("student.parameters"))
            stats = [group.stat(f"test/{metric}") for metric, *_ in measures]
            yield [*(own[name] for name in columns), size, str(group.n)], group.n, stats


def table(study: Study) -> Table:
    """The summary for a terminal: the teacher of each setting, then its groups by capacity.

    Three severities fit in 80 columns; print more with `soft_wrap=True`, or rich crops the lines.
    """
    compared = compare(study.trials, study.axes)
    measures, columns = measures_of(compared, "\n"), columns_of(compared)
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    warnings = [part for banner in random_weights(compared) for part in banner]
    shown.caption = " ".join([CAPTION, *warnings, *_left_out(study)])
    roomy = len(columns) + len(measures) < 10
    for name in columns:
        fixed = name == "student" or (name == "arm" and roomy)
        shown.add_column(Text(name), overflow="fold", no_wrap=fixed, min_width=6)
    for name in ("params", "n"):
        shown.add_column(name, justify="right", no_wrap=True)
    for _, name, _, _ in measures:
        shown.add_column(Text(name), justify="right", min_width=5)
    for keys, n, stats in rows_of(compared, measures):
        if n is None:
            shown.add_section()
        cells = [
            short(stat, by, digits, n)
            for stat, (_, _, by, digits) in zip(stats, measures, strict=True)
        ]
        shown.add_row(*map(Text, (*keys, *cells)), style="bold" if n is None else "")
    return shown
