"""One sweep's experiment and runs on a tracking server; found by tags before they are created."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.support.metric_names import metric_name_error
from sweep.journal.experiment_note import experiment_note
from sweep.journal.sqlite_file import make_database

TRIAL, SWEEP, FOLDER, ERROR = "sweep.trial", "sweep.id", "sweep.folder", "sweep.error"
RESULT = "sweep.result"  # of a trial with a result: `digest_of` it
REPLACED = "sweep.replaced"  # of a trial's run that another one of the trial has replaced
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
METRICS_A_BATCH, OTHERS_A_BATCH = 800, 100  # MLflow takes 1,000 entities a request


@dataclass
class KnownRun:
    """A run in MLflow, as far as it is known here; `metrics` are the newest values.

    status: MLflow's. end_ms: when it ended last, milliseconds since 1970.
    """

    id: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    status: str = "RUNNING"
    end_ms: int = 0


class Server:
    """A connection for one sweep. Raises, in every method: what MLflow's client raises.

    folder: of the run. sweep: the run's id. name: of the experiment.

    Attributes:
        experiment: its id, once connected.
        parent: the sweep's own run, once connected.
        unnamed: metrics whose names MLflow does not take; only these values are left out.
    """

    def __init__(self, folder: Path, sweep: str, name: str, uri: str) -> None:
        self.folder, self.sweep, self.name, self.uri = folder.resolve(), sweep, name, uri
        self.client: Any = None
        self.experiment = ""
        self.parent: KnownRun | None = None
        self.unnamed: set[str] = set()

    def connect(self) -> bool:
        """Find or make the experiment and the sweep's own run; restore them where deleted.

        Returns whether the sweep's run was there: False where it had to be made.
        """
        from mlflow.tracking import MlflowClient

        # It would print a page for every attempt; the tracker has it in a line, at the end.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        make_database(self.uri)
        self.client = client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.name)
        if found is None:
            # A server has a place for artifacts; that of a database of our own is beside it.
            remote = self.uri.startswith("http")
            place = None if remote else (self.folder / "mlartifacts").as_uri()
            self.experiment = client.create_experiment(self.name, place)
        else:
            self.experiment = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(self.experiment)
        # Also where an earlier attempt made the experiment, and its reply was lost.
        if found is None or NOTE not in found.tags:
            client.set_experiment_tag(self.experiment, NOTE, experiment_note())
        parent = self.find({SWEEP: self.sweep})
        existed = parent is not None
        if parent is None:
            tags = {SWEEP: self.sweep, FOLDER: str(self.folder)}
            parent = self.create(self.folder.name, tags)
        client.update_run(parent.id, status="RUNNING")
        self.parent = parent
        return existed

    def find(self, tags: dict[str, str]) -> KnownRun | None:
        """The run with these tags; one that was deleted is restored, unless there is another.

        One that was replaced is passed over, and deleted if that was not done.
        """
        from mlflow.entities import ViewType

        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        every = self.client.search_runs([self.experiment], query, ViewType.ALL, max_results=100)
        found = [run for run in every if REPLACED not in run.data.tags]
        for run in every:
            if REPLACED in run.data.tags and run.info.lifecycle_stage != "deleted":
                self.client.delete_run(run.info.run_id)
        if not found:
            return None
        run = min(found, key=lambda run: run.info.lifecycle_stage == "deleted")
        if run.info.lifecycle_stage == "deleted":
            self.client.restore_run(run.info.run_id)
        data, info = run.data, run.info
        values = dict(data.params), dict(data.tags), dict(data.metrics)
        return KnownRun(info.run_id, *values, info.status, info.end_time or 0)

    def terminate(self, run: KnownRun, status: str, end_ms: int | None = None) -> None:
        """End a run as FINISHED, FAILED or KILLED, now unless `end_ms` is given."""
        self.client.set_terminated(run.id, status, end_time=end_ms)
        run.status, run.end_ms = status, end_ms or 0

    def reopen(self, run: KnownRun) -> None:
        """Note that what a run shows goes on, in place of how it had ended."""
        self.client.update_run(run.id, status="RUNNING")
        if run.tags.pop(ERROR, None) is not None:
            self.client.delete_tag(run.id, ERROR)
        run.status = "RUNNING"

    def replace(self, run: KnownRun) -> None:
        """Delete a run in whose place another one comes. MLflow keeps it until `mlflow gc`."""
        self.client.set_tag(run.id, REPLACED, "true")  # a run that is deleted takes no tags
        self.client.delete_run(run.id)

    def create(self, name: str, tags: dict[str, str], time_ms: int | None = None) -> KnownRun:
        run = self.client.create_run(self.experiment, time_ms, tags, name)
        return KnownRun(run.info.run_id, {}, dict(tags))

    def log(
        self, run: KnownRun, metrics: list[Any], params: dict[str, str], tags: dict[str, str]
    ) -> Iterator[None]:
        """Store values of a run in as few requests as MLflow allows; yields after each."""
        from mlflow.entities import Param, RunTag

        taken = [metric for metric in metrics if not metric_name_error(metric.key)]
        self.unnamed |= {metric.key for metric in metrics} - {metric.key for metric in taken}
        all_params = [Param(name, value) for name, value in params.items()]
        all_tags = [RunTag(name, value) for name, value in tags.items()]
        first = other = 0
        while first < len(taken) or other < max(len(all_params), len(all_tags)):
            few = slice(other, other + OTHERS_A_BATCH)
            batch = taken[first : first + METRICS_A_BATCH]
            self.client.log_batch(run.id, batch, all_params[few], all_tags[few])
            first, other = first + METRICS_A_BATCH, other + OTHERS_A_BATCH
            yield
        run.params |= params
        run.tags |= tags
        run.metrics |= {metric.key: metric.value for metric in taken}
