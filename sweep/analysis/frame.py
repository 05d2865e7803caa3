"""The trials of one or several runs as tables: the one place where numbers are read.

    import sweep

    study = sweep.load("runs/demo")                          # a run folder
    study = sweep.load("s3://bucket/sweep")                  # a store
    study = sweep.load("http://HOST:5000#demo")              # an experiment of MLflow
    study = sweep.load("runs/clip", "runs/dino", where={"arm": "clean"})
    study.trials                                             # a row a trial
    study.curves                                             # a row a step that was observed
    study.arrays("0123456789abcdef")                         # spectra and the like of one trial

docs/results.md describes the columns. What a trial does not have is NaN or None. A probe that was
run again has its newest values, and values of older versions of a probe are left out, which
`study.notes` says.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from shards.support import storage
from shards.support.command import without_password
from shards.support.registry import closest
from shards.teachers import has_random_weights
from sweep.journal.events import NAME
from sweep.journal.mlflow_runs import TrackedTrial, read_server
from sweep.journal.mlflow_uri import is_tracking_uri
from sweep.journal.records import Run, newest_only, read_run, store_of, with_arrays
from sweep.journal.store_runs import is_store, read_store
from trainers.canonical import trial_fields
from trainers.config.recipe import RECIPE_FIELD, recipe_of
from trainers.config.schema import NO_VALIDATION, PLUGINS, VALIDATION, TrialConfig
from trainers.results.record import Embeddings, TrialResult

SEED = "seed"
FINISHED, FAILED, DIVERGED, UNFINISHED = "finished", "failed", "diverged", "unfinished"
STOPPED = "stopped early"
# Of several ends of one trial the first in this order counts, whichever run was named first.
ENDS = (FINISHED, DIVERGED, STOPPED, FAILED, UNFINISHED)
FIRST = ("run", "trial", "status", "error")
DIVERGENCE = re.compile(r"(\w+: )?diverged at step \d+")  # how DivergedError begins
TEACHER = ("weights_sha256", *(f"teacher.{name}" for name in Embeddings.model_fields))
VERSION = re.compile(r"probe\.(.+)\.version")
SIZES = {"total": "parameters", "trunk": "trunk", "head": "head", "macs": "macs"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """Trials of one or several runs.

    trials: a row a trial. curves: a row a (trial, step). notes: what was left out, and why.
    fields: the fields of a trial's configuration that the trials have, in their order.
    """

    trials: pd.DataFrame
    curves: pd.DataFrame
    notes: list[str]
    fields: tuple[str, ...]
    _results: Mapping[str, TrialResult] = field(repr=False)
    _stores: Mapping[str, str] = field(repr=False)

    @property
    def axes(self) -> list[str]:
        """The fields of the configuration that vary between trials, without the seed.

        `views` is none of them where each arm has one number of views: it only follows the arm. So
        do plugins, and the fields that they add, where they follow from the other fields.
        """
        cells = {name: list(map(json.dumps, self.trials[name])) for name in self.fields}
        by_arm = set(zip(cells.get("arm", []), cells.get("views", []), strict=False))
        implied = {SEED, "views"} if len(by_arm) == len(dict(by_arm)) else {SEED}
        added = [n for n in self.fields if n == PLUGINS or n not in TrialConfig.model_fields]
        added = [n for n in added if n == PLUGINS or "null" in cells[n]]
        others = [cells[n] for n in self.fields if n not in (SEED, *added)]
        for name in added:
            rows = set(zip(*others, cells[name], strict=True))
            if len(rows) == len({row[:-1] for row in rows}):
                implied.add(name)
        return [n for n in self.fields if n not in implied and len(set(cells[n])) > 1]

    def config(self, trial: str) -> dict[str, Any]:
        """The fields of a finished trial, to train another one with some of them changed.

        Raises: KeyError, as `arrays`.
        """
        return dict(self._results[trial].config)

    @property
    def results(self) -> list[TrialResult]:
        """The whole results of the finished trials; those of trials read from MLflow are not."""
        return list(self._results.values())

    def arrays(self, trial: str) -> dict[str, list[float]]:
        """A finished trial's lists by name, such as `test/spectrum` and `teacher/spectrum`.

        They are read from the run's store. Raises: KeyError for a trial without a result, or one
        that was read from MLflow; OSError and ValueError where the store does not give them.
        """
        return with_arrays(self._stores[trial], self._results[trial]).arrays


def load(*runs: str | Path, where: Mapping[str, Any] | None = None) -> Study:
    """The trials of run folders, stores and MLflow experiments, together.

    A trial that is in several of them counts once: as finished if it finished in any of them, else
    as diverged, stopped early, failed or unfinished, in this order; of two such ends the first one
    counts. Its arrays are read from the store of the run whose result counts.
    where: {column: value} of the trials to keep.
    Raises: ValueError where a location holds no run, where one trial read other images or weights
    in two of them, or for a column in `where` that there is not.
    """
    if not runs:
        raise ValueError("load: expected a run folder, a store or the URI of MLflow")
    gathered = _Gathered()
    local: list[tuple[str, Run]] = []
    for location in map(str, runs):
        if is_tracking_uri(location):
            found = read_server(location)
            gathered.notes += _cut_fields(location, found)
            for tracked in found:
                gathered.fields |= dict.fromkeys(tracked.config)
                gathered.add(location, _tracked_row(tracked), _tracked_lines(tracked))
        else:
            local.append((location, _read(location)))
    stores = {location: _store_of(location) for location, _ in local}
    for location, run in _in_one_version(local, gathered.notes):
        for config in _configs(run):
            gathered.fields |= dict.fromkeys(config)
        for row, result in _rows(run):
            lines = _lines(result) if result else []
            gathered.add(location, row, lines, result, stores[location])
    return gathered.study(where or {})


class _Gathered:
    """Rows of all runs so far, one a trial."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.fields = dict.fromkeys(trial_fields())  # and those that plugins have added
        self.lines: dict[str, list[Row]] = {}
        self.results: dict[str, TrialResult] = {}
        self.stores: dict[str, str] = {}
        self.notes: list[str] = []

    def add(
        self,
        run: str,
        row: Row,
        lines: list[Row],
        result: TrialResult | None = None,
        store: str = "",
    ) -> None:
        """Take a trial's row, unless one that says as much of it or more is there; see `ENDS`.

        store: where the arrays of `result` lie. Raises: ValueError where the two rows are of other
        images or weights.
        """
        trial = row["trial"]
        before = self.rows.get(trial)
        if before is not None:
            one, other = before.get("source"), row.get("source")
            if one and other and one != other:
                raise ValueError(
                    f"trial {trial} read other images, draws, prompts or teacher weights in "
                    f"{before['run']} ({one[:16]}) than in {run} ({other[:16]}); load them apart"
                )
            if ENDS.index(row["status"]) >= ENDS.index(before["status"]):
                return
        self.rows[trial] = {"run": run} | row
        self.lines[trial] = [{"run": run, "trial": trial} | line for line in lines]
        if result is not None:
            self.results[trial] = result
            self.stores[trial] = store

    def study(self, where: Mapping[str, Any]) -> Study:
        known = dict.fromkeys(name for row in self.rows.values() for name in row)
        for name in where:
            if name not in known:
                raise ValueError(f"where: no column `{name}`; {closest(name, list(known))}")
        wanted = {name: _cell(value) for name, value in where.items()}
        rows = [r for r in self.rows.values() if all(r.get(n) == v for n, v in wanted.items())]
        fields = tuple(name for name in self.fields if name in known)
        trials = pd.DataFrame(rows, columns=_ordered(rows, (*FIRST, *fields)))
        lines = [line for row in rows for line in self.lines[row["trial"]]]
        curves = pd.DataFrame(lines, columns=_ordered(lines, ("run", "trial", "step", "epoch")))
        for name in (n for n in fields if any(row.get(n) is None for row in rows)):
            # pandas would turn 5 beside None into 5.0 beside NaN.
            trials[name] = pd.Series([row.get(name) for row in rows], dtype=object)
        results = {
            row["trial"]: self.results[row["trial"]] for row in rows if row["trial"] in self.results
        }
        return Study(trials, curves, self.notes, fields, results, self.stores)


def _ordered(rows: list[Row], first: tuple[str, ...]) -> list[str]:
    """Names of columns: `first`, then others as they come, metrics in alphabetical order last."""
    names = dict.fromkeys(name for row in rows for name in row)
    others = [name for name in names if name not in first]
    return [*first, *(n for n in others if "/" not in n), *sorted(n for n in others if "/" in n)]


def _read(location: str) -> Run:
    """Of a run folder by its journal, else of a store."""
    if storage.is_local(location):
        folder = storage.local_path(location)
        if (folder / NAME).is_file() or not is_store(location):
            return read_run(folder)
    elif not is_store(location):
        raise ValueError(f"{location}: no trials/ in it; expected the store of a sweep")
    return read_store(location)


def _store_of(location: str) -> str:
    """The store of a run folder; a store is its own."""
    return store_of(storage.local_path(location)) if storage.is_local(location) else location


def _in_one_version(runs: list[tuple[str, Run]], notes: list[str]) -> list[tuple[str, Run]]:
    """The runs with each probe's values in the newest version that any of them has."""
    for _, run in runs:
        notes += run.notes
    every = [result for _, run in runs for result in run.results]
    kept, left_out = newest_only(every)
    notes += left_out
    rest = iter(kept)
    return [(where, replace(run, results=[next(rest) for _ in run.results])) for where, run in runs]


# ---- rows ----


def _rows(run: Run) -> list[tuple[Row, TrialResult | None]]:
    """A row for each trial that was started; a later end replaces an earlier one."""
    found: dict[str, tuple[Row, TrialResult | None]] = {}
    for trial, start in run.starts.items():
        found[trial] = {"status": UNFINISHED, "error": None} | _config_row(start.config), None
    for failure in run.failures:
        status = DIVERGED if DIVERGENCE.match(failure.error) else FAILED
        row = {"status": status, "error": failure.error} | _config_row(failure.config)
        found[failure.trial] = row, None
    for stop in run.stopped:
        row = {"status": STOPPED, "error": stop.error} | _config_row(stop.config)
        found[stop.trial] = row, None
    for result in run.results:
        found[result.id] = {"status": FINISHED, "error": None} | _result_row(result), result
    for trial, (row, result) in found.items():
        start = run.starts.get(trial)
        times = {
            "started_ms": start.time_ms if start else None,
            "ended_ms": run.ended_ms.get(trial),
            "trial_seconds": run.seconds.get(trial),
        }
        found[trial] = {"trial": trial} | row | times, result
    return list(found.values())


def _configs(run: Run) -> list[Mapping[str, Any]]:
    events = [*run.starts.values(), *run.failures, *run.results]
    return [event.config for event in events]


def _config_row(config: Mapping[str, Any]) -> Row:
    absent = {RECIPE_FIELD: recipe_of(config), VALIDATION: NO_VALIDATION}
    row = absent | {name: _cell(v) for name, v in config.items()}
    return row | {"teacher.random_weights": has_random_weights(str(config.get("teacher")))}


def _result_row(result: TrialResult) -> Row:
    environment = {n: v for n, v in result.environment.entries().items() if n != "threads"}
    versions = sorted(result.versions().items())
    embeddings = result.embeddings.model_dump() if result.embeddings else {}
    return {
        **environment,
        **_config_row(result.config),  # has the field `threads`
        **{f"student.{to}": getattr(result.student, name) for name, to in SIZES.items()},
        **{f"data.{name}": value for name, value in result.data.model_dump().items()},
        "source": result.source,
        "weights_sha256": result.weights_sha256,
        **{f"teacher.{n}": v for n, v in embeddings.items()},
        "steps": result.last_step,
        "probe_versions": ", ".join(f"{probe} {version}" for probe, version in versions),
        **result.metrics,
        **result.teacher,
    }


def _lines(result: TrialResult) -> list[Row]:
    """A line a step, of the training log and of the observations together."""
    found: dict[int, Row] = {}
    for row in result.epochs:
        found[row.step] = {"step": row.step, "epoch": row.epoch, "loss": row.loss}
    for seen in result.observations.rows:
        line = found.setdefault(seen.step, {"step": seen.step, "epoch": seen.epoch})
        line |= seen.values
    return [found[step] for step in sorted(found)]


def _cut_fields(location: str, found: list[TrackedTrial]) -> list[str]:
    """A note for each field of which MLflow has the beginning only."""
    counts = Counter(name for tracked in found for name in tracked.cut)
    shown = without_password(location)
    return [
        f"{shown}: `{name}` of {count} trials is left out: MLflow has its beginning only"
        for name, count in sorted(counts.items())
    ]


def _tracked_row(tracked: TrackedTrial) -> Row:
    """The same columns, from what MLflow has."""
    tags, config = tracked.tags, tracked.config
    status = {"FINISHED": FINISHED, "FAILED": FAILED}.get(tracked.status, UNFINISHED)
    if status == FAILED and DIVERGENCE.match(tracked.error or ""):
        status = DIVERGED
    if tracked.status == "KILLED" and tracked.error:
        status = STOPPED
    groups = {
        name: {n.removeprefix(f"{name}."): v for n, v in tags.items() if n.startswith(f"{name}.")}
        for name in ("environment", "student", "data")
    }
    versions = [VERSION.fullmatch(name) for name in tags]
    named = sorted((found[1], tags[found[0]]) for found in versions if found)
    return {
        "trial": tracked.trial,
        "status": status,
        "error": tracked.error,
        **{name: v for name, v in groups["environment"].items() if name != "threads"},
        **_config_row(config),
        **{f"student.{SIZES[n]}": v for n, v in groups["student"].items() if n in SIZES},
        **{f"data.{name}": value for name, value in groups["data"].items()},
        **({"source": tags["shards"]} if "shards" in tags else {}),
        **{name: tags[name] for name in TEACHER if name in tags},
        "steps": max(tracked.curves, default=0),
        "probe_versions": ", ".join(f"{probe} {version}" for probe, version in named),
        "started_ms": tracked.started_ms,
        "ended_ms": tracked.ended_ms,
        "trial_seconds": tracked.seconds,
        **tracked.metrics,
    }


def _tracked_lines(tracked: TrackedTrial) -> list[Row]:
    return [{"step": step} | values for step, values in tracked.curves.items()]


def _cell(value: Any) -> Any:
    """A value of a configuration as a cell: a list as a tuple, which can be grouped by."""
    return tuple(value) if isinstance(value, list) else value
