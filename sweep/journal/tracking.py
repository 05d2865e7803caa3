"""MLflow, filled from the journal: each trial one run, each row once, and no training step waits.

A thread of the driver follows the journal and uploads, trial by trial. What MLflow has acknowledged
is kept beside the journal (`sweep.journal.acknowledged`). After a crash, events may be sent again:
a run is searched by its tag before it is created, and a row that is sent twice has the same key,
step, timestamp and value, which MLflow stores once.

What MLflow refuses for good is left out, named by `Tracker.warnings` and tried again by the next
command only. Everything else is retried.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.support.metric_names import metric_name_error
from sweep.journal.acknowledged import Acknowledged
from sweep.journal.events import NAME, Event, FailedEvent, ResultEvent, StartEvent
from sweep.journal.metric_rows import VALUE_LENGTH, config_of, metrics_of, params_of, tags_of
from sweep.journal.mlflow_uri import default_uri

TRIAL, SWEEP, FOLDER, ERROR = "sweep.trial", "sweep.id", "sweep.folder", "sweep.error"
CHANGED = "sweep.changed."  # + a parameter that a later attempt had another value of
PARENT = "mlflow.parentRunId"
METRICS_A_BATCH, OTHERS_A_BATCH = 900, 100
# MLflow's codes of errors that the same request would get again.
REFUSALS = {
    *("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"),
    *("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS", "INVALID_STATE", "NOT_IMPLEMENTED"),
}
# An internal error may be of the moment or of the request. After so many for one trial, while the
# server answers other requests, it is of the request.
ATTEMPTS = 3
LAST_PAUSES = (1.0, 2.0, 4.0)  # seconds before further attempts at the end of a sweep
NAMED = 10  # trials that one warning names


@dataclass
class _Run:
    """A trial's run in MLflow, as far as it is known here."""

    id: str
    params: dict[str, str]
    tags: dict[str, str]


class Tracker:
    """Uploads one sweep's journal to one tracking server.

    Attributes:
        error: why some events have not arrived yet, in one line; empty where all have.
        refused: {trial: reason} of the trials that MLflow refuses for good.
        unnamed: metrics whose names MLflow does not take; only these values are left out.
    """

    def __init__(self, folder: Path, name: str, uri: str) -> None:
        self.folder, self.name, self.uri = folder, name, uri
        self.error = ""
        self.refused: dict[str, str] = {}
        self.unnamed: set[str] = set()
        self._acknowledged = Acknowledged(folder, uri)
        if uri == default_uri(folder) and not (folder / "mlflow.db").exists():
            self._acknowledged.restart()
        self._runs: dict[str, _Run] = {}
        self._failures: dict[str, int] = {}
        self._failed: set[str] = set()  # trials whose upload failed at least once
        self._client: Any = None
        self._experiment = self._parent = ""
        self._waiting = ""
        self._status = "RUNNING"
        self._progress_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, seconds: float = 30.0, status: str = "FINISHED") -> bool:
        """Upload what is left, as long as it makes progress; whether all of it arrived.

        seconds: how long to wait without progress. status: what the sweep's own run ends as,
        FINISHED or FAILED.
        """
        self._status = status
        self._progress_at = time.monotonic()
        self._stop.set()
        while self._thread.is_alive() and time.monotonic() - self._progress_at < seconds:
            self._thread.join(0.2)
        if self._thread.is_alive():
            self.error = self.error or f"no progress for {seconds:g} s"
        return not self.warnings()

    def warnings(self) -> list[str]:
        """What MLflow lacks and why, in one line for each reason."""
        kept = f"the values are in {self.folder / NAME}"
        lines: list[str] = []
        trials_of: dict[str, list[str]] = {}
        for trial, reason in sorted(self.refused.items()):
            trials_of.setdefault(reason, []).append(trial)
        for reason, trials in trials_of.items():
            more = f" and {len(trials) - NAMED} more" if len(trials) > NAMED else ""
            named = ", ".join(trials[:NAMED]) + more
            lines.append(f"MLflow at {self.uri} refused trial {named}: {reason}; {kept}")
        for name in sorted(self.unnamed):
            error = metric_name_error(name)
            lines.append(f"MLflow does not take metric `{name}`: it {error}; {kept}")
        if self.error:
            lines.append(
                f"MLflow at {self.uri} lacks some values ({self.error}); nothing is lost: once "
                "that is put right, the same command uploads the rest"
            )
        return lines

    # ---- the thread ----

    def _follow(self) -> None:
        delay, tries = 1.0, 0
        while True:
            last, progress_at = self._stop.is_set(), self._progress_at
            try:
                self._upload()
                self.error = self._waiting
            except Exception as error:  # whatever the client raises, the sweep goes on
                self.error = _one_line(error)
            progress = self._progress_at > progress_at
            if not self.error or progress:
                delay, tries = 1.0, 0
            else:
                delay, tries = min(60.0, delay * 2), tries + last
            if not last:
                self._stop.wait(delay)
            elif not self.error or tries > len(LAST_PAUSES):
                return
            else:
                time.sleep(LAST_PAUSES[max(0, tries - 1)])

    def _upload(self) -> None:
        """One pass over all that MLflow lacks. Raises: what stands in the way of every trial."""
        wanted, stored = self._status, self._acknowledged
        self._waiting = ""
        open_end = wanted not in ("RUNNING", stored.status)
        if not (stored.has_new() or self._behind() or open_end):
            return
        self._connect()
        try:
            sent: set[str] = set()
            while (found := stored.read_new()) is not None:
                sent |= found.keys()
                for trial, events in found.items():
                    self._send(trial, events)
            behind = [trial for trial in self._behind() if trial not in sent]
            for trial, events in stored.read_behind(behind).items():
                self._send(trial, events)
            if wanted != "RUNNING":
                self._client.set_terminated(self._parent, wanted)
            stored.status = wanted
        finally:
            stored.save()

    def _behind(self) -> list[str]:
        return [trial for trial in self._acknowledged.behind if trial not in self.refused]

    def _send(self, trial: str, events: list[Event]) -> None:
        """Upload a trial's events, or note why not. Raises: what concerns other trials as well."""
        if trial in self.refused:
            return
        try:
            try:
                self._record(trial, events)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                # The experiment or the run may have been deleted since it was searched.
                self._runs.pop(trial, None)
                self._parent = ""
                self._connect()
                self._record(trial, events)
        except Exception as error:
            self._runs.pop(trial, None)
            self._failed.add(trial)
            self._acknowledged.postpone(trial)
            self._note_failure(trial, error)
        else:
            self._acknowledged.acknowledge(trial)
            self._progress_at = time.monotonic()
            self._failures.pop(trial, None)

    def _note_failure(self, trial: str, error: Exception) -> None:
        if not _is_refusal(error):
            if _code(error) != "INTERNAL_ERROR":
                raise error
            self._client.get_run(self._parent)  # raises where the server does not answer at all
            self._failures[trial] = self._failures.get(trial, 0) + 1
            if self._failures[trial] < ATTEMPTS:
                self._waiting = _one_line(error)
                return
        self.refused[trial] = _one_line(error)

    # ---- one trial ----

    def _record(self, trial: str, events: list[Event]) -> None:
        run, events = self._run(trial, events)
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for event in events:
            tags |= tags_of(event)
            for name, value in params_of(config_of(event) or {}).items():
                # MLflow keeps the first value of a parameter and refuses another. Parameters that
                # are no part of a trial's identity may change between its attempts.
                first = run.params.setdefault(name, value)
                params[name] = first
                if value != first or CHANGED + name in run.tags | tags:
                    tags[CHANGED + name] = value
        end = next((e for e in reversed(events) if isinstance(e, ResultEvent | FailedEvent)), None)
        if isinstance(end, FailedEvent):
            tags[ERROR] = end.error[:VALUE_LENGTH]
        self._log(run, params, tags)
        for batch in self._batches(events):
            self._client.log_batch(run.id, metrics=batch)
            if trial not in self._failed:  # batches that are sent again are no progress
                self._progress_at = time.monotonic()
        run.tags |= tags
        if end is None:
            return
        if isinstance(end, ResultEvent) and ERROR in run.tags:
            self._client.delete_tag(run.id, ERROR)
            del run.tags[ERROR]
        status = "FAILED" if isinstance(end, FailedEvent) else "FINISHED"
        self._client.set_terminated(run.id, status, end_time=end.time_ms)

    def _log(self, run: _Run, params: dict[str, str], tags: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        all_params = [Param(name, value) for name, value in params.items()]
        all_tags = [RunTag(name, value) for name, value in tags.items()]
        for first in range(0, max(len(all_params), len(all_tags)), OTHERS_A_BATCH):
            batch = slice(first, first + OTHERS_A_BATCH)
            self._client.log_batch(run.id, params=all_params[batch], tags=all_tags[batch])

    def _batches(self, events: list[Event]) -> Iterator[list[Any]]:
        """The metrics of events, without those whose names MLflow does not take."""
        batch: list[Any] = []
        for metric in (metric for event in events for metric in metrics_of(event)):
            if metric_name_error(metric.key):
                self.unnamed.add(metric.key)
                continue
            batch.append(metric)
            if len(batch) == METRICS_A_BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def _run(self, trial: str, events: list[Event]) -> tuple[_Run, list[Event]]:
        """The trial's run and what to send to it: more than `events` where it had to be remade."""
        if trial in self._runs:
            return self._runs[trial], events
        tags = {TRIAL: trial, PARENT: self._parent}
        run = self._find(tags)
        if run is None:
            if not isinstance(events[0], StartEvent):
                events = self._acknowledged.read_from_start(trial)
            known = ((event.time_ms, config_of(event)) for event in events)
            time_ms, config = next(((t, c) for t, c in known if c is not None), (0, None))
            if config is None:
                raise ValueError(f"{NAME} has no config of trial {trial}")
            name = f"{config.get('student')} {config.get('arm')} seed {config.get('seed')}"
            run = self._create(name, tags, time_ms)
        self._runs[trial] = run
        return run, events

    # ---- the server ----

    def _connect(self) -> None:
        """Find or make the experiment and the sweep's own run; restore them where deleted."""
        if self._parent:
            return
        from mlflow.tracking import MlflowClient

        # It would print a page for every attempt; `error` has it in a line, at the end.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        self._client = client = MlflowClient(self.uri)
        folder = self.folder.resolve()
        found = client.get_experiment_by_name(self.name)
        if found is None:
            artifacts = (folder / "mlartifacts").as_uri()
            self._experiment = client.create_experiment(self.name, artifacts)
        else:
            self._experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(self._experiment)
        sweep = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        parent = self._find({SWEEP: sweep})
        if parent is None:
            parent = self._create(self.name, {SWEEP: sweep, FOLDER: str(folder)})
            # It has nothing of this sweep, whatever was sent before.
            self._runs.clear()
            self._acknowledged.restart()
        client.update_run(parent.id, status="RUNNING")
        self._parent = parent.id
        self._progress_at = time.monotonic()

    def _find(self, tags: dict[str, str]) -> _Run | None:
        """The run with these tags; one that was deleted is restored, unless there is another."""
        from mlflow.entities import ViewType

        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = self._client.search_runs([self._experiment], query, ViewType.ALL, max_results=10)
        if not found:
            return None
        run = min(found, key=lambda run: run.info.lifecycle_stage == "deleted")
        if run.info.lifecycle_stage == "deleted":
            self._client.restore_run(run.info.run_id)
        return _Run(run.info.run_id, dict(run.data.params), dict(run.data.tags))

    def _create(self, name: str, tags: dict[str, str], time_ms: int | None = None) -> _Run:
        run = self._client.create_run(self._experiment, time_ms, tags, name)
        return _Run(run.info.run_id, {}, dict(tags))


def _code(error: Exception) -> str:
    return str(getattr(error, "error_code", ""))


def _is_refusal(error: Exception) -> bool:
    """Whether the same request would fail again, whatever the state of the server."""
    code = _code(error)
    return code in REFUSALS if code else not isinstance(error, OSError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
