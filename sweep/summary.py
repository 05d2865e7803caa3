"""What a run found: its records, grouped by everything but the seed.

    run = read_run("runs/demo")          # records and failures, from the run's journal
    print(table(run.records))            # for a terminal (rich)
    json.dumps(as_plain(run.records))    # for machines

Trials belong to one group only if they agree in every field of their configuration but `seed`,
and in the data they were measured on: an effective rank depends on N, so different N never meet.
Means and standard deviations (ddof = 1) are over the seeds of a group.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rich.table import Table

Record = dict[str, Any]
JOURNAL = "journal.jsonl"
REPLICATE = "seed"  # the one field of a configuration that may differ inside a group
NEEDED = {
    "config": ("dataset", "teacher", "student", "arm", REPLICATE),
    "student": ("total",),
    "data": ("train", "test"),
    "metrics": (),
}
DATA_FIELDS = ("train", "test", "dim")
NOISE = re.compile(r"test/noise/([^/]+)/([0-9.]+(?:e-?[0-9]+)?)/accuracy")
AGREE = 1e-3  # relative spread of a teacher's value between trials that is not worth a note


@dataclass(frozen=True)
class Run:
    """Results and failures of one sweep; `notes` say what was left out of `records`, and why."""

    records: list[Record]
    failures: list[Record] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Stat:
    """Mean, standard deviation (ddof = 1, None where n = 1) and count of finite values."""

    mean: float
    sd: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % t interval of the mean, t(0.975, n - 1) sd / sqrt(n); None at n = 1."""
        if self.sd is None:
            return None
        from scipy.stats import t

        return float(t.ppf(0.975, self.n - 1)) * self.sd / math.sqrt(self.n)


def stat_of(values: Iterable[Any]) -> Stat | None:
    """Stat of the finite numbers among `values`; None if there is none."""
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not numbers:
        return None
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Stat(float(np.mean(numbers)), sd, len(numbers))


@dataclass(frozen=True)
class Group:
    """Trials that differ in their seed alone. `config` is flat (`a.b` for nested fields)."""

    config: dict[str, Any]
    data: dict[str, Any]
    student: dict[str, Any]
    records: tuple[Record, ...]

    @property
    def n(self) -> int:
        return len(self.records)

    @property
    def seeds(self) -> list[Any]:
        return [record["config"][REPLICATE] for record in self.records]

    @property
    def fields(self) -> dict[str, Any]:
        """What tells groups apart: the configuration and `data.train`, `data.test`, `data.dim`."""
        return self.config | {f"data.{name}": self.data.get(name) for name in DATA_FIELDS}

    def stat(self, metric: str) -> Stat | None:
        """Over the seeds; its n is below the group's where a seed lacks a finite value."""
        return stat_of(record["metrics"].get(metric) for record in self.records)


@dataclass(frozen=True)
class Teacher:
    """The teacher's own values on one data set; means over the trials that measured them."""

    fields: dict[str, Any]
    metrics: dict[str, Stat]
    spectrum: list[float]
    unsteady: list[str]  # metrics whose value differs between trials


# ---- reading ----


def read_run(run_dir: str | Path) -> Run:
    """Records and failures of RUN/journal.jsonl, in the order of their last event.

    The last result of a trial wins; a failure counts unless a result of that trial follows it.
    Unknown events and a last line cut short are ignored. ValueError for a missing file and for
    any other line that cannot be read, by file and line.
    """
    path = Path(run_dir) / JOURNAL
    if not path.is_file():
        what = f"no {JOURNAL} in it" if Path(run_dir).is_dir() else "no such folder"
        raise ValueError(f"{run_dir}: {what}; expected a run folder written by `sweep.run`")
    records: dict[str, Record] = {}
    failures: dict[str, Record] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        event = _event(line, place, may_be_cut=number == len(lines))
        if event.get("event") == "result":
            record = _checked(event, place)
            failures.pop(event["trial"], None)
            records.pop(event["trial"], None)
            records[event["trial"]] = record
        elif event.get("event") == "failed":
            _is_table(event.get("config"), f"{place}: config")
            failures[_trial(event, place)] = {"id": event["trial"], **event}
    kept, notes = _latest(list(records.values()))
    return Run(kept, list(failures.values()), notes)


def _event(line: bytes, place: str, may_be_cut: bool) -> Record:
    if not line.strip():
        return {}
    try:
        event = json.loads(line)
    except ValueError as error:
        if may_be_cut:
            return {}
        reason = str(error).splitlines()[0]
        raise ValueError(f"{place}: not JSON ({reason}); expected one object a line") from None
    if may_be_cut and not isinstance(event, dict):
        return {}
    return _is_table(event, place)


def _is_table(value: Any, place: str) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: got {str(value)[:40]!r}; expected a JSON object")
    return value


def _trial(event: Record, place: str) -> str:
    if not isinstance(event.get("trial"), str):
        raise ValueError(f"{place}: trial: got {event.get('trial')!r}; expected the trial's id")
    return event["trial"]


def _checked(event: Record, place: str) -> Record:
    _trial(event, place)
    record = _is_table(event.get("record"), f"{place}: record")
    for part, names in NEEDED.items():
        held = _is_table(record.get(part), f"{place}: record.{part}")
        for name in names:
            if name not in held:
                found = ", ".join(sorted(held)) or "nothing"
                raise ValueError(f"{place}: record.{part}.{name} is missing; found {found}")
    return {"id": event["trial"], **record}


def _latest(records: list[Record]) -> tuple[list[Record], list[str]]:
    """Of trials with one configuration and seed under two ids, the one that ended last."""
    last: dict[str, Record] = {}
    notes = []
    for record in records:
        key = json.dumps([_key(record), record["config"][REPLICATE]])
        if key in last:
            old = last.pop(key)["id"]
            notes.append(f"trial {old} is left out: {record['id']} repeats it and ended later")
        last[key] = record
    return list(last.values()), notes


# ---- grouping ----


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name in sorted(config):
        value = config[name]
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


def _key(record: Record) -> str:
    config = {name: v for name, v in record["config"].items() if name != REPLICATE}
    data = {name: record["data"].get(name) for name in (*DATA_FIELDS, "views_per_sample")}
    sizes = {name: record["student"].get(name) for name in ("trunk", "head", "total", "macs")}
    return json.dumps([_flat(config), data, sizes], sort_keys=True)


def natural(value: Any) -> list[tuple[int, float, str]]:
    """Sorting key in which noise:0.1 precedes noise:0.05x10 by number and not by letter."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(value))
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def arm_order(arm: str) -> tuple[bool, list[tuple[int, float, str]]]:
    """`clean` first, then by name and strength."""
    return arm != "clean", natural(arm)


def _section(fields: dict[str, Any]) -> list[Any]:
    """Order by data set, teacher and amount of data."""
    names = ("dataset", "teacher", *(f"data.{name}" for name in DATA_FIELDS))
    return [natural(fields.get(name)) for name in names]


def group_records(records: Iterable[Record]) -> list[Group]:
    """One Group per combination of everything but the seed; by capacity, then arm, clean first.

    ValueError if a seed occurs twice in one group (`read_run` leaves only the later of them).
    """
    members: dict[str, list[Record]] = {}
    for record in records:
        members.setdefault(_key(record), []).append(record)
    groups = []
    for found in members.values():
        found.sort(key=lambda record: natural(record["config"][REPLICATE]))
        for a, b in zip(found, found[1:], strict=False):
            if a["config"][REPLICATE] == b["config"][REPLICATE]:
                seed = a["config"][REPLICATE]
                raise ValueError(
                    f"trials {a.get('id')} and {b.get('id')}: same configuration and seed {seed}; "
                    "expected one record a trial"
                )
        config = {name: v for name, v in found[0]["config"].items() if name != REPLICATE}
        groups.append(Group(_flat(config), found[0]["data"], found[0]["student"], tuple(found)))
    extra = columns(groups)

    def order(group: Group) -> list[Any]:
        rest = [natural(group.fields.get(name)) for name in extra]
        total, arm = group.student["total"], arm_order(str(group.config["arm"]))
        return [_section(group.fields), total, natural(group.config["student"]), arm, rest]

    return sorted(groups, key=order)


def columns(groups: list[Group]) -> list[str]:
    """Fields beside student and arm in which groups differ: each needs a column of its own."""
    seen: dict[str, set[str]] = {}
    names = dict.fromkeys(name for group in groups for name in group.fields)
    for name in names:
        seen[name] = {json.dumps(group.fields.get(name, "-")) for group in groups}
    return [name for name in names if len(seen[name]) > 1 and name not in ("student", "arm")]


def teachers(records: Iterable[Record]) -> list[Teacher]:
    """One per (data set, teacher, amount of data), in the order of the groups."""
    members: dict[str, list[Record]] = {}
    for record in records:
        data = {f"data.{name}": record["data"].get(name) for name in DATA_FIELDS}
        about = {name: record["config"][name] for name in ("dataset", "teacher")} | data
        members.setdefault(json.dumps(about, sort_keys=True), []).append(record)
    found = []
    for key, held in members.items():
        names = dict.fromkeys(name for record in held for name in record.get("teacher") or {})
        values = {name: [(r.get("teacher") or {}).get(name) for r in held] for name in names}
        stats = {name: stat for name in names if (stat := stat_of(values[name]))}
        unsteady = [name for name, s in stats.items() if (s.sd or 0) > AGREE * abs(s.mean)]
        spectra = [(record.get("arrays") or {}).get("teacher/spectrum") for record in held]
        spectrum = next((list(s) for s in spectra if s), [])
        found.append(Teacher(json.loads(key), stats, spectrum, unsteady))
    return sorted(found, key=lambda teacher: _section(teacher.fields))


def severities(records: Iterable[Record]) -> list[tuple[str, str]]:
    """(space, sigma) of every noise that any record was measured under, by space and strength."""
    names = {name for record in records for name in record["metrics"]}
    found = {(m[1], m[2]) for name in names if (m := NOISE.fullmatch(name))}
    return sorted(found, key=lambda pair: (natural(pair[0]), float(pair[1])))


# ---- showing ----


def as_plain(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Teacher rows, then one row per group: fields, seeds and {metric: {mean, sd, n}}."""
    records = list(records)
    rows: list[dict[str, Any]] = [
        {"kind": "teacher", **t.fields, "metrics": _plain(t.metrics)} for t in teachers(records)
    ]
    for group in group_records(records):
        names = sorted({name for record in group.records for name in record["metrics"]})
        stats = {name: stat for name in names if (stat := group.stat(name))}
        about = {"config": group.config, "parameters": group.student, "data": group.data}
        about |= {"student": group.config["student"], "arm": group.config["arm"]}
        seeds = {"seeds": group.seeds, "n": group.n}
        rows.append({"kind": "student", **about, **seeds, "metrics": _plain(stats)})
    return rows


def _plain(stats: dict[str, Stat]) -> dict[str, dict[str, Any]]:
    return {name: {"mean": s.mean, "sd": s.sd, "n": s.n} for name, s in stats.items()}


def short(stat: Stat | None, scale: float, digits: int, n: int | None = None) -> str:
    """`15.9 ±0.4`; `±-` where n = 1, `-` where nothing was measured, `n=2` if a seed lacks it."""
    if stat is None:
        return "-"
    mean = f"{stat.mean * scale:.{digits}f}"
    if n is None:
        return mean
    spread = "-" if stat.sd is None else f"{stat.sd * scale:.{digits}f}"
    return f"{mean} ±{spread}" + (f" n={stat.n}" if stat.n < n else "")


def table(records: Iterable[Record]) -> Table:
    """The summary for a terminal: the teacher of each data set, then its groups by capacity."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    records = list(records)
    groups, noises = group_records(records), severities(records)
    extra = columns(groups)
    measures = [("rank/effective", "rank", 1, 1), ("linear/accuracy", "clean %", 100, 1)]
    measures += [(f"noise/{a}/{b}/accuracy", f"{a} {b} %", 100, 1) for a, b in noises]
    measures += [("infonce/paper", "Info NCE", 1, 2)]
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.caption = (
        "rank: effective rank (variance). %: probe accuracy, clean and by noise. InfoNCE: nats, "
        "in batches as in the paper, lower is better. ±: sd over n seeds (ddof = 1)."
    )
    for name in ("student", "arm", *extra):
        shown.add_column(Text(name), overflow="fold", no_wrap=name == "student")
    for name in ("parameters", "n"):
        shown.add_column(name, justify="right", no_wrap=True)
    for _, name, _, _ in measures:
        shown.add_column(Text(name), justify="right")
    for teacher in teachers(records):
        shown.add_section()
        own = [str(teacher.fields.get(name, "")) for name in extra]
        cells = [short(teacher.metrics.get(f"teacher/{m}"), s, d) for m, _, s, d in measures]
        shown.add_row(*map(Text, ("teacher", "", *own, "", "", *cells)), style="bold")
        for group in groups:
            if _section(group.fields) != _section(teacher.fields):
                continue
            own = [str(group.fields.get(name, "-")) for name in extra]
            own += [f"{group.student['total']:,}", str(group.n)]
            cells = [short(group.stat(f"test/{m}"), s, d, group.n) for m, _, s, d in measures]
            about = (str(group.config["student"]), str(group.config["arm"]))
            shown.add_row(*map(Text, (*about, *own, *cells)))
    return shown
