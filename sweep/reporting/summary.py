"""What a run found: its results, grouped by everything but the seed.

Trials of a group agree in every field of their configuration but `seed`, and in the data they
were measured on: an effective rank depends on N, so different N never meet. Means and standard
deviations (ddof = 1) are over the seeds of a group.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from shards.teachers import has_random_weights
from trainers.config.recipe import RECIPE_FIELD, recipe_of
from trainers.probes.censored import bound_of, uncensored
from trainers.results.record import Cost, Data, TrialResult

REPLICATE = "seed"  # the one field of a configuration that may differ inside a group
DATA = ("train", "test", "dim")
SIZES = ("trunk", "head", "total", "macs")
SETTING = ("dataset", "teacher", "data.train", "data.test", "data.dim", "classes")
CAPTION = "%: probe accuracy. InfoNCE in nats, lower is better. ±: sd over seeds, ddof = 1."
NOISE = re.compile(r"test/noise/([^/]+)/([0-9.]+(?:e-?[0-9]+)?)/accuracy")


@dataclass(frozen=True)
class Stat:
    """Mean, standard deviation (ddof = 1, None where n = 1) and count of finite values.

    censored: of how many of the n values only a bound is known (`trainers.probes.censored`). Where
    there are any, the mean takes them at their bounds, so it is itself a lower bound, and there is
    no standard deviation.
    """

    mean: float
    sd: float | None
    n: int
    censored: int = 0


def stat_of(values: Iterable[Any]) -> Stat | None:
    """Stat of the finite numbers among `values`; None if there is none."""
    numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Stat(float(np.mean(numbers)), sd, len(numbers)) if numbers else None


def stat_of_metric(trials: Iterable[Mapping[str, float]], name: str) -> Stat | None:
    """Stat of a metric over the metrics of several trials, censored values included."""
    values: list[float | None] = []
    censored = 0
    for metrics in trials:
        bound = bound_of(metrics, name)
        censored += bound is not None
        values.append(metrics.get(name) if bound is None else bound)
    stat = stat_of(values)
    return replace(stat, sd=None, censored=censored) if stat and censored else stat


def _names(trials: Iterable[Mapping[str, float]]) -> list[str]:
    """Names of the metrics of any trial, those included of which all values are censored."""
    return sorted({n for metrics in trials for name in metrics for n in (name, uncensored(name))})


@dataclass(frozen=True)
class Group:
    """Trials that differ in their seed alone. `config` is flat (`a.b` for nested fields)."""

    config: dict[str, Any]
    data: Data
    student: Cost
    results: tuple[TrialResult, ...]

    @property
    def n(self) -> int:
        return len(self.results)

    @property
    def seeds(self) -> list[Any]:
        return [result.config[REPLICATE] for result in self.results]

    @property
    def fields(self) -> dict[str, Any]:
        """What tells groups apart: configuration, amount of data, recipe, kind of device."""
        device = self.results[0].environment.device
        recipe = {RECIPE_FIELD: recipe_of(self.config)}
        return self.config | recipe | _data_fields(self.data) | {"device": device}

    def stat(self, metric: str) -> Stat | None:
        """Over the seeds; its n is below the group's where a seed lacks a finite value."""
        return stat_of_metric((result.metrics for result in self.results), metric)


@dataclass(frozen=True)
class Teacher:
    """The teacher's values on one data set; means over the trials that measured them."""

    fields: dict[str, Any]
    metrics: dict[str, Stat]
    spectrum: list[float]  # shares of variance, descending; empty if no trial has it


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name in sorted(config):
        value = config[name]
        nested = isinstance(value, dict) and value
        flat.update(_flat(value, f"{prefix}{name}.") if nested else {prefix + name: value})
    return flat


def _data_fields(data: Data) -> dict[str, int]:
    return {f"data.{name}": getattr(data, name) for name in DATA}


def _key(result: TrialResult) -> str:
    """Equal for trials of one group."""
    config = {name: v for name, v in result.config.items() if name not in (REPLICATE, RECIPE_FIELD)}
    sizes = {name: getattr(result.student, name) for name in SIZES}
    # On another kind of device the same seed gives other bits: it is no further seed of the group.
    device = result.environment.device
    parts = [_flat(config), recipe_of(result.config), _data_fields(result.data), sizes, device]
    return json.dumps(parts, sort_keys=True)


def natural(value: Any) -> list[tuple[int, float, str]]:
    """Sorting key by number where there is one: width:2 before width:10."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(value))
    return [(0, float(p), "") if i % 2 else (1, 0.0, p) for i, p in enumerate(parts)]


def arm_order(arm: str) -> tuple[bool, list[tuple[int, float, str]]]:
    """`clean` first, then by name and strength."""
    return arm != "clean", natural(arm)


def setting(fields: dict[str, Any]) -> list[Any]:
    """Order by data set, teacher and amount of data; equal only where all of them are."""
    return [natural(fields.get(name)) for name in SETTING]


def group_results(results: Iterable[TrialResult]) -> list[Group]:
    """One Group per combination of everything but the seed; by capacity, then arm, clean first.

    Raises: ValueError if a seed occurs twice in one group, or if trials that ought to differ in
    their seed alone read other images, draws or teacher weights.
    """
    members: dict[str, list[TrialResult]] = {}
    _check_teachers(results := list(results))
    for result in results:
        members.setdefault(_key(result), []).append(result)
    groups: list[Group] = []
    for trials in members.values():
        trials.sort(key=lambda result: natural(result.config[REPLICATE]))
        first = trials[0]
        config = {name: v for name, v in first.config.items() if name != REPLICATE}
        group = Group(_flat(config), first.data, first.student, tuple(trials))
        if len({str(seed) for seed in group.seeds}) < group.n:
            ids = ", ".join(result.id for result in trials)
            raise ValueError(f"trials {ids}: a seed occurs twice; expected one result a seed")
        others = [result for result in trials if result.source != first.source]
        if others:
            raise ValueError(
                f"trials {first.id} and {others[0].id} differ in their seed alone, but read other "
                f"images, draws or teacher weights ({first.source[:16]} and "
                f"{others[0].source[:16]}): delete the older one and run it again"
            )
        groups.append(group)
    extra = columns(groups)

    def order(group: Group) -> list[Any]:
        arm, student = arm_order(str(group.config["arm"])), natural(group.config["student"])
        rest = [natural(group.fields.get(name)) for name in extra]
        return [setting(group.fields), group.student.total, student, arm, rest]

    return sorted(groups, key=order)


def _check_teachers(results: list[TrialResult]) -> None:
    """Raises: ValueError where one teacher's name stands for different weights."""
    seen: dict[str, TrialResult] = {}
    for result in results:
        teacher = str(result.config["teacher"])
        first = seen.setdefault(teacher, result)
        if first.weights_sha256 != result.weights_sha256:
            raise ValueError(
                f"trials {first.id} and {result.id}: teacher {teacher} has weights "
                f"{first.weights_sha256[:16]} in one and {result.weights_sha256[:16]} in the "
                "other: they cannot be compared in one report"
            )


def columns(groups: list[Group]) -> list[str]:
    """Fields beside student and arm in which groups differ: each needs a column of its own."""
    names = dict.fromkeys(name for group in groups for name in group.fields)
    values = {name: {json.dumps(group.fields.get(name, "-")) for group in groups} for name in names}
    return [name for name in names if len(values[name]) > 1 and name not in ("student", "arm")]


def teachers(results: Iterable[TrialResult]) -> list[Teacher]:
    """One per (data set, teacher, amount of data), in the order of the groups."""
    members: dict[str, list[TrialResult]] = {}
    for result in results:
        fields = result.config | _data_fields(result.data)
        key = json.dumps({name: fields.get(name) for name in SETTING})
        members.setdefault(key, []).append(result)
    found: list[Teacher] = []
    for key, trials in members.items():
        values = [result.teacher for result in trials]
        stats = {n: stat for n in _names(values) if (stat := stat_of_metric(values, n))}
        spectra = (result.arrays.get("teacher/spectrum") for result in trials)
        found.append(Teacher(json.loads(key), stats, next((list(s) for s in spectra if s), [])))
    return sorted(found, key=lambda teacher: setting(teacher.fields))


def severities(results: Iterable[TrialResult]) -> list[tuple[str, str]]:
    """(space, sigma) of every noise that any trial was measured under, by space and strength."""
    names = {name for result in results for name in result.metrics}
    found = {(m[1], m[2]) for name in names if (m := NOISE.fullmatch(name))}
    return sorted(found, key=lambda pair: (natural(pair[0]), float(pair[1])))


def some_severities(found: list[tuple[str, str]], most: int = 3) -> list[tuple[str, str]]:
    """Of each space at most so many, evenly from the weakest to the strongest; not 0 then."""
    kept: list[tuple[str, str]] = []
    for space in dict.fromkeys(space for space, _ in found):
        own = [pair for pair in found if pair[0] == space]
        if len(own) > most:
            own = [pair for pair in own if float(pair[1]) > 0]
            own = [own[round(i * (len(own) - 1) / (most - 1))] for i in range(most)]
        kept += own
    return kept


def as_plain(results: Iterable[TrialResult]) -> list[dict[str, Any]]:
    """Teacher rows, then one row per group: fields, seeds and {metric: {mean, sd, n}}."""
    results = list(results)
    rows: list[dict[str, Any]] = []
    for teacher in teachers(results):
        metrics = {name: _plain(stat) for name, stat in teacher.metrics.items()}
        rows.append({"kind": "teacher", **teacher.fields, "metrics": metrics})
    for group in group_results(results):
        names = _names(result.metrics for result in group.results)
        metrics = {name: _plain(stat) for name in names if (stat := group.stat(name))}
        row = {name: group.config[name] for name in ("dataset", "teacher", "student", "arm")}
        row |= {"parameters": group.student.model_dump(), "data": group.data.model_dump()}
        row |= {"config": group.config, "seeds": group.seeds, "n": group.n, "metrics": metrics}
        rows.append({"kind": "student", **row})
    return rows


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


def random_teachers(results: Iterable[TrialResult]) -> list[str]:
    """Teachers whose weights were drawn at random (`none` in the place of a tag or a file)."""
    specs = dict.fromkeys(str(result.config["teacher"]) for result in results)
    return [spec for spec in specs if has_random_weights(spec)]


def random_teachers_warning(results: Iterable[TrialResult]) -> str:
    """One sentence for tables and reports; empty where every teacher was trained."""
    found = random_teachers(results)
    return (
        f"RANDOM WEIGHTS: {', '.join(found)}. These numbers show that the mechanics work; they say "
        "nothing of any trained teacher."
        if found
        else ""
    )


def table(results: Iterable[TrialResult]) -> Table:
    """The summary for a terminal: the teacher of each data set, then its groups by capacity.

    Three severities fit in 80 columns; print more with `soft_wrap=True`, or rich crops the lines.
    """
    groups = group_results(results := list(results))
    noises = some_severities(severities(results))
    by_arm = {(group.config["arm"], group.config.get("views")) for group in groups}
    # Where each arm has one number of views, a column of views would repeat the arm.
    implied = ["views"] if len(by_arm) == len(dict(by_arm)) else []
    extra = [name for name in columns(groups) if name not in implied]
    measures = [("rank/effective", "rank", 1, 1), ("linear/paper/accuracy", "clean %", 100, 1)]
    measures += [(f"noise/{a}/{b}/accuracy", f"{a}\n{b} %", 100, 1) for a, b in noises]
    measures += [("infonce/paper", "Info\nNCE", 1, 2)]
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    shown.caption = " ".join(filter(None, (CAPTION, random_teachers_warning(results))))
    roomy = len(extra) + len(noises) < 5
    for name in ("student", "arm", *extra):
        fixed = name == "student" or (name == "arm" and roomy)
        shown.add_column(Text(name), overflow="fold", no_wrap=fixed, min_width=6)
    for name in ("params", "n"):
        shown.add_column(name, justify="right", no_wrap=True)
    for _, name, _, _ in measures:
        shown.add_column(Text(name), justify="right", min_width=5)
    for teacher in teachers(results):
        shown.add_section()
        own = [str(teacher.fields.get(name, "")) for name in extra]
        cells = [short(teacher.metrics.get(f"teacher/{m}"), s, d) for m, _, s, d in measures]
        shown.add_row(*map(Text, ("teacher", "", *own, "", "", *cells)), style="bold")
        for group in groups:
            if setting(group.fields) == setting(teacher.fields):
                own = [str(group.config["student"]), str(group.config["arm"])]
                own += [str(group.fields.get(name, "-")) for name in extra]
                own += [f"{group.student.total:,}", str(group.n)]
                cells = [short(group.stat(f"test/{m}"), s, d, group.n) for m, _, s, d in measures]
                shown.add_row(*map(Text, (*own, *cells)))
    return shown
