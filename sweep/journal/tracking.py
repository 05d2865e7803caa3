"""MLflow, from the journal: each trial one run, each row once, and no step ever waits.

One thread of the driver reads the journal behind the sweep and uploads. The offset up to which
the tracking server has acknowledged is kept beside the journal. Lines may be sent again after a
crash: a run is looked up by its tag before it is created, and a row that is sent twice has the
same key, step, timestamp and value, which MLflow stores once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweep.journal import NAME, read_events

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
        partial = self._mark.with_suffix(".tmp")
        partial.write_text(f"{end} {status}")
        partial.rename(self._mark)

    def _upload(self) -> None:
        """Everything behind the mark; metrics of a trial go together in batches."""
        rows: dict[str, list[Any]] = {}
        ends: dict[str, dict[str, Any]] = {}
        versions: dict[str, dict[str, int]] = {}
        wanted, (start, status) = self._status, self._offset()
        end = start
        for offset, event in read_events(self.folder / NAME, start):
            trial, kind, end = event["trial"], event["event"], offset
            if kind in ("start", "failed"):
                self._run(trial, event)
            elif kind == "epoch":
                rows.setdefault(trial, []).extend(_metrics(event, event["values"], "train/"))
            elif kind in ("result", "probe"):
                at, metrics, told = _measured(event)
                rows.setdefault(trial, []).extend([*_metrics(at, metrics, ""), *_curves(event)])
                versions.setdefault(trial, {}).update(told)
            if kind in ("result", "failed"):
                ends[trial] = event
        for trial, metrics in rows.items():
            for at in range(0, len(metrics), BATCH):
                self._connect().log_batch(self._run(trial), metrics=metrics[at : at + BATCH])
        for trial, event in ends.items():
            self._end(trial, event)
        for trial, told in versions.items():
            for probe, version in told.items():
                self._connect().set_tag(self._run(trial), f"probe.{probe}.version", str(version))
        if wanted != "RUNNING" and (end > start or status != wanted):
            self._connect().set_terminated(self._parent, wanted)
            self._acknowledge(end, wanted)
        elif end > start:
            self._acknowledge(end, wanted)

    def _end(self, trial: str, event: dict[str, Any]) -> None:
        client, run = self._connect(), self._run(trial)
        if event["event"] == "failed":
            client.set_tag(run, ERROR, event["error"][:500])
            client.set_terminated(run, "FAILED", end_time=event["time_ms"])
            return
        for group in ("student", "data", "environment"):
            for name, value in event["record"][group].items():
                client.set_tag(run, f"{group}.{name}", str(value)[:500])
        if ERROR in client.get_run(run).data.tags:
            client.delete_tag(run, ERROR)
        client.set_terminated(run, "FINISHED", end_time=event["time_ms"])

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

    def _run(self, trial: str, event: dict[str, Any] | None = None) -> str:
        """The trial's run: known, found by its tags, or created from `event` with parameters."""
        client = self._connect()
        if trial not in self._runs:
            tags = {TRIAL: trial, PARENT: self._parent}
            run = self._find(tags)
            if event is not None:
                from mlflow.entities import Param

                config = event["config"]
                name = f"{config['student']} {config['arm']} seed {config['seed']}"
                run = run or self._create(name, tags, event["time_ms"])
                params = [Param(key, str(value)[:500]) for key, value in config.items()]
                client.log_batch(run, params=params)
            if run is None:
                raise ValueError(f"journal: trial {trial} reports before it starts")
            self._runs[trial] = run
        return self._runs[trial]


def _measured(event: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float], dict[str, int]]:
    """Of a trial's result, or of a probe run again: (event with its step, metrics, versions)."""
    if event["event"] == "probe":
        result = event["result"]
        return event, result["metrics"] | result["teacher"], {result["probe"]: result["version"]}
    record = event["record"]
    at = event | {"step": record["curve"][-1]["step"] if record["curve"] else 0}
    return at, record["metrics"] | record["teacher"], record.get("probe_versions", {})


def _curves(event: dict[str, Any]) -> Iterator[Any]:
    """What was looked at while it trained, by step; nothing of a probe run again.

    Rows have no time of their own. They get the result's, which a line sent again has too.
    """
    for row in event.get("record", {}).get("curves", []):
        values = {name: value for name, value in row.items() if name != "step"}
        yield from _metrics(event | {"step": row["step"]}, values, "curve/")


def _metrics(event: dict[str, Any], values: dict[str, float], prefix: str) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(prefix + name, value, event["time_ms"], int(event["step"]))
        for name, value in values.items()
        if math.isfinite(value)
    ]
