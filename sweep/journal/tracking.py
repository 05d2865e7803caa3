"""MLflow, fed from the journal: each trial one run, each row once, and no training step waits.

A thread of the driver follows the journal and uploads. The offset up to which the tracking server
has acknowledged is kept beside the journal. After a crash, lines may be sent again: a run is
looked up by its tag before it is created, and a row that is sent twice has the same key, step,
timestamp and value, which MLflow stores once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.support import storage
from sweep.journal.events import (
    NAME,
    EpochEvent,
    Event,
    FailedEvent,
    ProbeEvent,
    ResultEvent,
    StartEvent,
    read_events,
)
from trainers.results.record import TrialResult

TRIAL, SWEEP, FOLDER, ERROR = "sweep.trial", "sweep.id", "sweep.folder", "sweep.error"
PARENT = "mlflow.parentRunId"
BATCH = 900


def default_uri(folder: Path) -> str:
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"


class Tracker:
    """Uploads one sweep's journal to one tracking server."""

    def __init__(self, folder: Path, name: str, uri: str) -> None:
        self.folder, self.name, self.uri = folder, name, uri
        digest = hashlib.sha256(uri.encode()).hexdigest()[:8]
        self._mark = folder / f".uploaded-{digest}"
        self._runs: dict[str, str] = {}
        self._client: Any = None
        self._experiment = self._parent = ""
        self._status = "RUNNING"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.error = ""

    def start(self) -> None:
        self._thread.start()

    def finish(self, seconds: float = 30.0, status: str = "FINISHED") -> bool:
        """Upload what is left, for at most `seconds`; whether all of it arrived.

        `status` is what the sweep's own run ends as: FINISHED or FAILED.
        """
        self._status = status
        self._stop.set()
        self._thread.join(seconds)
        return not self._thread.is_alive() and not self.error

    def _follow(self) -> None:
        delay = 1.0
        while True:
            last = self._stop.is_set()
            try:
                self._upload()
                self.error, delay = "", 1.0
            except Exception as error:  # whatever the client raises, the sweep goes on
                self.error = " ".join(str(error).split())[:300] or type(error).__name__
                delay = min(60.0, delay * 2)
            if last:
                return
            self._stop.wait(delay)

    def _offset(self) -> tuple[int, str]:
        """(bytes acknowledged, status of the sweep's run)."""
        text = self._mark.read_text().split() if self._mark.exists() else []
        return (int(text[0]), text[1]) if len(text) == 2 else (0, "")

    def _acknowledge(self, end: int, status: str) -> None:
        storage.write(str(self._mark), f"{end} {status}".encode())

    def _upload(self) -> None:
        """All events behind the mark; metrics of a trial go together in batches."""
        rows: dict[str, list[Any]] = {}
        ends: dict[str, ResultEvent | FailedEvent] = {}
        versions: dict[str, dict[str, int]] = {}
        wanted, (start, status) = self._status, self._offset()
        end = start
        for offset, event in read_events(self.folder / NAME, start):
            end = offset
            if isinstance(event, StartEvent | FailedEvent):
                self._run(event.trial, event)
            else:
                rows.setdefault(event.trial, []).extend(_rows(event))
                versions.setdefault(event.trial, {}).update(_versions(event))
            if isinstance(event, ResultEvent | FailedEvent):
                ends[event.trial] = event
        for trial, metrics in rows.items():
            for first in range(0, len(metrics), BATCH):
                batch = metrics[first : first + BATCH]
                self._connect().log_batch(self._run(trial), metrics=batch)
        for trial, event in ends.items():
            self._end(trial, event)
        for trial, measured in versions.items():
            for probe, version in measured.items():
                self._connect().set_tag(self._run(trial), f"probe.{probe}.version", str(version))
        if wanted != "RUNNING" and (end > start or status != wanted):
            self._connect().set_terminated(self._parent, wanted)
            self._acknowledge(end, wanted)
        elif end > start:
            self._acknowledge(end, wanted)

    def _end(self, trial: str, event: ResultEvent | FailedEvent) -> None:
        client, run = self._connect(), self._run(trial)
        if isinstance(event, FailedEvent):
            client.set_tag(run, ERROR, event.error[:500])
            client.set_terminated(run, "FAILED", end_time=event.time_ms)
            return
        for name, value in _tags(event.record).items():
            client.set_tag(run, name, str(value)[:500])
        if ERROR in client.get_run(run).data.tags:
            client.delete_tag(run, ERROR)
        client.set_terminated(run, "FINISHED", end_time=event.time_ms)

    def _connect(self) -> Any:
        """The client, once the experiment and the sweep's own run are there."""
        if not self._parent:
            from mlflow.tracking import MlflowClient

            # It would print a page for every attempt; `error` says it in a line, at the end.
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
            self._client = client = MlflowClient(self.uri)
            folder = self.folder.resolve()
            found = client.get_experiment_by_name(self.name)
            self._experiment = (
                found.experiment_id
                if found
                else client.create_experiment(self.name, (folder / "mlartifacts").as_uri())
            )
            sweep = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
            parent = self._find({SWEEP: sweep})
            if parent:
                client.update_run(parent, status="RUNNING")
            self._parent = parent or self._create(self.name, {SWEEP: sweep, FOLDER: str(folder)})
        return self._client

    def _find(self, tags: dict[str, str]) -> str | None:
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def _create(self, name: str, tags: dict[str, str], time_ms: int | None = None) -> str:
        run = self._client.create_run(self._experiment, time_ms, tags, name)
        return run.info.run_id

    def _run(self, trial: str, event: StartEvent | FailedEvent | None = None) -> str:
        """The trial's run: known, found by its tags, or created from `event` with parameters."""
        client = self._connect()
        if trial not in self._runs:
            tags = {TRIAL: trial, PARENT: self._parent}
            run = self._find(tags)
            if event is not None:
                from mlflow.entities import Param

                config = event.config
                name = f"{config['student']} {config['arm']} seed {config['seed']}"
                run = run or self._create(name, tags, event.time_ms)
                params = [Param(key, str(value)[:500]) for key, value in config.items()]
                client.log_batch(run, params=params)
            if run is None:
                raise ValueError(f"journal: trial {trial} reports before it starts")
            self._runs[trial] = run
        return self._runs[trial]


# ---- from events to MLflow's rows and tags ----


def _rows(event: Event) -> Iterator[Any]:
    """The metrics of one event, each at a step.

    Observations have no time of their own. They get the result's, which is the same when a line
    is sent again.
    """
    if isinstance(event, EpochEvent):
        yield from _metrics(event.values, event.step, event.time_ms, "train/")
    elif isinstance(event, ProbeEvent):
        values = event.result.values
        yield from _metrics(values.metrics | values.teacher, event.step, event.time_ms)
    elif isinstance(event, ResultEvent):
        result = event.record
        yield from _metrics(result.metrics | result.teacher, result.last_step, event.time_ms)
        for row in result.observations.rows:
            values = row.values | {"epoch": row.epoch}
            yield from _metrics(values, row.step, event.time_ms, "curve/")


def _metrics(values: dict[str, float], step: int, time_ms: int, prefix: str = "") -> Iterator[Any]:
    from mlflow.entities import Metric

    for name, value in values.items():
        if math.isfinite(value):
            yield Metric(prefix + name, value, time_ms, step)


def _versions(event: Event) -> dict[str, int]:
    """{probe: version} of what an event brings."""
    if isinstance(event, ProbeEvent):
        return {event.result.probe: event.result.values.version}
    return event.record.versions() if isinstance(event, ResultEvent) else {}


def _tags(result: TrialResult) -> dict[str, object]:
    """Cost, data and environment of a result, as `group.name`."""
    groups: dict[str, dict[str, Any]] = {
        "student": result.student.model_dump(),
        "data": result.data.model_dump(),
        "environment": result.environment.entries(),
    }
    return {f"{group}.{name}": v for group, part in groups.items() for name, v in part.items()}
