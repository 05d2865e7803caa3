"""The trials of a study as a report compares them: settings, groups, and how figures show them.

A group holds the trials that differ in their seed alone. Groups share a figure whatever else the
study varies, but a panel only where their numbers may be compared: same data, teacher weights,
numbers of images and input resolution. Such a set of groups is a setting, and several settings
(two teachers, two data sets, two runs of other recipes) stand side by side in panels of their own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sweep.analysis.values import configured
from sweep.reporting.stat import Frame, Stat, metrics_in, stat_of_metric, values_of

SEED = "seed"
# A number of one of these settings must not be compared with one of another.
SETTING = (
    *("dataset", "teacher", "weights_sha256", "teacher_dim", "teacher_size", "classes"),
    *("data.train", "data.test", "image_size", "input"),
)
# Choices of training that no one compares by accident: runs that differ in them stand apart.
RECIPE = (
    *("epochs", "duration", "batch_size", "accumulate", "optimizer", "lr", "weight_decay"),
    *("momentum", "clip_norm", "schedule", "warmup", "ema", "precision", "data_seed"),
)
VERSIONS = "probe_versions"
FIRST = ("student", "arm", "objective")  # the order of columns; others follow as they come
# A number in a text: with sign, thousands separators and exponent where it stands alone (-1, 1,024,
# 1e-05), and bare digits inside a word (the 2 of params:2M).
NUMBER = re.compile(
    r"((?<!\w)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?!\.?\w)|\d+(?:\.\d+)?)"
)
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.4, 1.2, 1.4)))
MARKERS = "osD^vP*X<>ph8d"


@dataclass(frozen=True)
class Group:
    """Trials that differ in their seed alone, and how figures show them.

    trials: their rows of the study. colour, panel, mark: what the group has in the field that
    each of them stands for, as text; "" where no field does.
    """

    fields: dict[str, Any]
    trials: Frame
    label: str
    colour: str
    panel: str
    mark: str

    @property
    def n(self) -> int:
        return len(self.trials)

    @property
    def parameters(self) -> float:
        """Parameters of the student, trunk and head; NaN where it has none (teacher_pca)."""
        value = self.fields.get("student.parameters")
        return float(value) if isinstance(value, int | float) and value > 0 else math.nan

    def values(self, metric: str) -> list[float]:
        """One value a seed, NaN where a seed has none."""
        return values_of(self.trials, metric)

    def stat(self, metric: str) -> Stat | None:
        """Over the seeds; its n is below the group's where a seed lacks a finite value."""
        if metric not in self._stats:
            self._stats[metric] = stat_of_metric(self.trials, metric)
        return self._stats[metric]

    @cached_property
    def _stats(self) -> dict[str, Stat | None]:
        """Those that were computed: tables and figures read the same ones many times."""
        return {}


@dataclass(frozen=True)
class Setting:
    """Groups whose numbers may be compared. `name` tells it from the study's other settings."""

    name: str
    fields: dict[str, Any]
    groups: list[Group]

    @property
    def chance(self) -> float:
        """Accuracy of guessing, 1 / classes."""
        return float(self.fields.get("data.chance") or math.nan)

    @cached_property
    def teacher(self) -> dict[str, Stat]:
        """The teacher's values, `teacher/...`: means over the trials that measured them."""
        rows: Frame = pd.concat([group.trials for group in self.groups])
        names = metrics_in(rows, "teacher/")
        return {name: stat for name in names if (stat := stat_of_metric(rows, name))}

    @cached_property
    def metrics(self) -> list[str]:
        """Names of the students' metrics that any trial has."""
        groups = [(group, metrics_in(group.trials, "test/")) for group in self.groups]
        return sorted({n for group, names in groups for n in names if group.stat(n)}, key=natural)

    def in_panel(self, panel: str) -> list[Group]:
        return [group for group in self.groups if group.panel == panel]


@dataclass(frozen=True)
class Compared:
    """All of a study that a report compares.

    by: the field that colours stand for. panel, marks: the fields that panels and markers (line
    styles) stand for. colours, panel_names, mark_names: their values, in order.
    """

    settings: list[Setting]
    axes: list[str]
    by: str
    panel: str
    marks: list[str]
    colours: list[str]
    panel_names: list[str]
    mark_names: list[str]

    @property
    def groups(self) -> list[Group]:
        return [group for setting in self.settings for group in setting.groups]

    def line(self, group: Group) -> dict[str, Any]:
        """Colour and dashes of a group's lines; `gid` is the series that a reader can hide."""
        index = self.mark_names.index(group.mark)
        series = self.colours.index(group.colour)
        look = {"color": f"C{series % 8}", "gid": f"series{series}"}
        return {"ls": DASHES[index % len(DASHES)], **look}

    def point(self, group: Group, otherwise: str = "panel") -> dict[str, Any]:
        """Colour and marker of a group's points.

        otherwise: what the marker stands for where no further field varies: the `panel`, or the
        `colour`, so that a page printed in grey can be read.
        """
        names, own = self.mark_names, group.mark
        if len(names) == 1:
            colour = otherwise == "colour"
            names, own = (self.colours, group.colour) if colour else (self.panel_names, group.panel)
        series = self.colours.index(group.colour)
        marker = MARKERS[names.index(own) % len(MARKERS)]
        return {"color": f"C{series % 8}", "gid": f"series{series}", "marker": marker}


def text_of(value: Any) -> str:
    """A field's value for a reader: 1,438, 0.001, a name as it is, a dash for none."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return value if isinstance(value, str) else json.dumps(value, default=str)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def natural(value: Any) -> list[tuple[int, float, str]]:
    """Sorting key by number where there is one: width:2 before width:10, clean first.

    Also of a number as `text_of` shows it: 64 before 1,024, and 1e-05 before 0.001.
    """
    parts = NUMBER.split("" if value == "clean" else str(value))
    keys = enumerate(parts)
    return [(0, float(p.replace(",", "")), "") if i % 2 else (1, 0.0, p) for i, p in keys]


def number(value: float, digits: int) -> str:
    """With a minus sign, not a hyphen; no `-0.00`."""
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.replace("-", "")


def compare(trials: Frame, axes: Iterable[str], by: str | None = None) -> Compared:
    """The finished trials of a study, ready for tables and figures.

    trials: a row a trial, see sweep.analysis.frame. axes: the fields that the study varies. by: the
    field that colours stand for; without it `arm`, or the first that varies beside the student.
    Raises: ValueError where `by` does not vary.
    """
    finished = finished_of(trials)
    apart = _apart(finished)
    # On another kind of device the same seed gives other bits: it is no further seed of a group.
    axes = [n for n in (*axes, "device") if n not in (*SETTING, SEED) and n in finished]
    axes = [name for name in axes if _varies(finished, name, apart)]
    axes.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    if by is not None and by not in axes:
        raise ValueError(f"--by {by}: does not vary in this study; varying: {', '.join(axes)}")
    beside = [name for name in axes if name != "student"]
    by = by or ("arm" if "arm" in axes else next(iter([*beside, *axes]), "arm"))
    rest = [name for name in ("student", *beside) if name != by and name in axes]
    panel, marks = (rest[0], rest[1:]) if rest else ("", [])
    groups: dict[str, list[Group]] = {}
    about: dict[str, dict[str, Any]] = {}
    for rows in _members(finished):
        first = _plain(rows.iloc[0].to_dict())
        where = {name: first.get(name) for name in apart}
        key = json.dumps(where, default=str)
        about[key] = first
        group = Group(
            first,
            rows.sort_values(SEED),
            " · ".join(text_of(first.get(name)) for name in axes) or text_of(first.get("student")),
            text_of(first.get(by)),
            text_of(first.get(panel)) if panel else "",
            " · ".join(text_of(first.get(name)) for name in marks),
        )
        groups.setdefault(key, []).append(group)
    runs = short_names({str(run) for run in finished.get("run", ())})
    names = {key: _name(key, apart, runs) for key in groups}
    settings = [
        Setting(names[key], about[key], sorted(members, key=lambda g: _order(g, axes)))
        for key, members in sorted(groups.items(), key=lambda item: natural(names[item[0]]))
    ]
    every = [group for setting in settings for group in setting.groups]
    return Compared(
        settings, axes, by, panel, marks,
        sorted({group.colour for group in every}, key=natural),
        list(dict.fromkeys(group.panel for group in sorted(every, key=lambda g: _size(g, panel)))),
        sorted({group.mark for group in every}, key=natural),
    )  # fmt: skip


def finished_of(trials: Frame) -> Frame:
    """The finished trials. Whole numbers are integers, also where an unfinished trial has none."""
    rows: Frame = trials[trials["status"] == "finished"].copy()
    for name in (n for n in rows.columns if "/" not in n and rows[n].dtype == "float64"):
        if rows[name].notna().all() and (rows[name] % 1 == 0).all():
            rows[name] = rows[name].astype("int64")
    return rows


def differences(trials: Frame) -> list[str]:
    """Fields of the recipe and probe versions that are constant in each run, but differ between."""
    found = []
    if "run" not in trials or trials["run"].nunique() < 2:
        return found
    for name in (*RECIPE, VERSIONS):
        if name in trials:
            values = trials[name].map(lambda v: json.dumps(v, default=str)).groupby(trials["run"])
            if (values.nunique() == 1).all() and values.first().nunique() > 1:
                found.append(name)
    return found


def _apart(trials: Frame) -> list[str]:
    """The fields that make settings of this study: those that vary, and the runs' differences."""
    names = ["run"] if differences(trials) else []
    names += [name for name in SETTING if name in trials and _count(trials[name]) > 1]
    # Two names of one thing (a teacher and its weights) make one label.
    kept: list[str] = []
    for name in names:
        if not any(_same_split(trials, name, other) for other in kept):
            kept.append(name)
    return kept


def _varies(trials: Frame, name: str, apart: list[str]) -> bool:
    """Whether a field varies inside one setting at least: only there are values compared."""
    if not apart:
        return _count(trials[name]) > 1
    keys = trials[apart].map(str).agg("|".join, axis=1)
    return any(_count(rows[name]) > 1 for _, rows in trials.groupby(keys))


def _same_split(trials: Frame, one: str, other: str) -> bool:
    pairs = {(str(a), str(b)) for a, b in zip(trials[one], trials[other], strict=True)}
    return len(pairs) == _count(trials[one]) == _count(trials[other])


def _count(values: Any) -> int:
    return len({str(value) for value in values})


def _members(trials: Frame) -> list[Frame]:
    """The rows of each group: equal in every field of the configuration but the seed.

    And in the kind of device, the teacher's weights, and the sizes of data and student.
    """
    columns = [name for name in map(str, trials.columns) if "/" not in name]
    names = configured(trials[columns].to_dict("records"))
    names += [n for n in columns if "." in n or n in ("device", "weights_sha256")]
    names += ["run"] if differences(trials) else []
    keys = trials[names].map(lambda value: json.dumps(value, default=str)).agg("|".join, axis=1)
    members = [rows for _, rows in trials.groupby(keys, sort=False)]
    for rows in members:
        _check(rows)
    return members


def _check(rows: Frame) -> None:
    """Raises: ValueError for a group with a seed twice, or of trials that read other data."""
    ids = [str(trial) for trial in rows["trial"]]
    if rows[SEED].duplicated().any():
        raise ValueError(f"trials {', '.join(ids)}: a seed occurs twice; expected one a seed")
    sources = list(map(str, rows.get("source", ())))  # MLflow may have none
    for trial, source in zip(ids, sources, strict=bool(sources)):
        if source != (first := sources[0]):
            raise ValueError(
                f"trials {ids[0]} and {trial} differ in their seed alone, but read other images, "
                f"draws or teacher weights ({first[:16]} and {source[:16]}): delete the "
                "older one and run it again"
            )


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """NumPy's scalars as Python's, so that they are written as such."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in row.items()}


def short_names(runs: Iterable[str]) -> dict[str, str]:
    """{run: the shortest end of its path that no other run has}: `full`, or `x/full` and `y/full`.

    The whole path where it is the end of another one.
    """
    paths = {run: run.rstrip("/").split("/") for run in runs}
    names: dict[str, str] = {}
    for run, path in paths.items():
        others = [other for name, other in paths.items() if name != run]
        ends = (path[-k:] for k in range(1, len(path) + 1))
        unlike = (end for end in ends if not any(o[-len(end) :] == end for o in others))
        names[run] = "/".join(next(unlike, path))
    return names


def _name(key: str, apart: list[str], runs: Mapping[str, str]) -> str:
    """What tells a setting from the others: `open_clip:ViT-B-32:openai`, `N 359`.

    runs: their short names.
    """
    words = {"data.test": "N ", "data.train": "train N ", "weights_sha256": "weights "}
    values = json.loads(key)
    parts = []
    for name in apart:
        value = text_of(values[name])
        bare = name in ("teacher", "dataset", "run")
        value = runs[value] if name == "run" else value
        value = value[:12] if name == "weights_sha256" else value
        parts.append(value if bare else words.get(name, f"{name} ") + value)
    return ", ".join(parts)


def _size(group: Group, field_name: str) -> tuple[float, Any]:
    by_size = field_name == "student" and math.isfinite(group.parameters)
    return (group.parameters if by_size else 0.0, natural(group.panel))


def _order(group: Group, axes: Iterable[str]) -> tuple[Any, ...]:
    sized = group.parameters if math.isfinite(group.parameters) else 0.0
    student = natural(group.fields.get("student"))
    rest = [natural(group.fields.get(name)) for name in axes if name != "student"]
    return (sized, student, rest)
