"""MLflow, fed from the journal: every row once, whatever is killed, and no trial waits for it.

A `Tracker` follows the journal and uploads, trial by trial; it runs in a process of its own (see
`sweep.journal.uploader`). What MLflow has acknowledged is kept beside the journal
(`sweep.journal.acknowledged`). After a crash, events may be sent again: a run is searched by its
tag before it is created, and a row that is sent twice has the same key, step, timestamp and value,
which MLflow stores once. A trial that was run again has another result, see
`sweep.journal.events`: it gets another run, and the earlier one is deleted, so that no run holds
values of both.

What MLflow refuses for good is left out, named by `Tracker.warnings` and tried again by the next
command only. Everything else is retried.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shards.support.command import without_password
from shards.support.metric_names import metric_name_error
from sweep.journal.acknowledged import Acknowledged
from sweep.journal.artifacts import log_bank, store_artifacts
from sweep.journal.events import (
    NAME,
    WITHOUT_RESULT,
    Event,
    FailedEvent,
    ProbeEvent,
    ResultEvent,
    StartEvent,
    digest_of,
    read_events,
)
from sweep.journal.last_run import ROWS, is_again, of_last_run, open_trials
from sweep.journal.metric_rows import (
    CUT,
    EARLIER,
    TEACHER,
    Reference,
    bare,
    config_of,
    metrics_of,
    name_of,
    params_of,
    reference_of,
    tag_text,
    tags_of,
)
from sweep.journal.mlflow_errors import code_of, is_of_connection, is_refusal, reason
from sweep.journal.mlflow_uri import default_uri
from sweep.journal.patience import Patience
from sweep.journal.registry import register_student
from sweep.journal.run_record import id_before_records, read_record
from sweep.journal.server import ERROR, PARENT, RESULT, TRIAL, KnownRun, Server
from sweep.journal.sqlite_file import error_of_file
from sweep.journal.uploader import lacking

CHANGED = "sweep.changed."  # + a parameter that a later attempt had another value of
REFERENCE = "sweep.teacher"  # tag of a trial: under which name its teacher's values are
REPORT = "sweep.report.sha256"  # tag of the sweep's run: of the report that it has
# An internal error may be of the moment or of the request. After so many for one trial, while the
# server answers other requests, it is of the request.
ATTEMPTS = 3
LAST_PAUSES = (1.0, 2.0, 4.0)  # seconds before further attempts at the end of a sweep
NAMED = 10  # trials that one warning names


class LostError(Exception):
    """The server has nothing of the sweep any more: everything is to be sent again."""


class Tracker:
    """Uploads one sweep's journal to one tracking server.

    folder: of the run. name: of the experiment. uri: of the server. register: the registered model
    of which every finished student becomes a version at the end; "" registers none.

    Attributes:
        error: why some events have not arrived yet, in one line; empty where all have.
        refused: {trial: reason} of the trials that MLflow refuses for good.
        cut: parameters of which MLflow has the beginning only.
        progress_at: when something last arrived, on the monotonic clock.
    """

    def __init__(self, folder: Path, name: str, uri: str, register: str = "") -> None:
        self.folder, self.uri, self._register = folder, uri, register
        self.error = ""
        self.refused: dict[str, str] = {}
        self.cut: set[str] = set()
        self.progress_at = time.monotonic()
        record = read_record(folder)
        sweep = record.id if record else id_before_records(folder)
        self._store = record.store_of(folder) if record else str(folder)
        self.server = Server(folder, sweep, name, uri)
        self._acknowledged = Acknowledged(folder, uri)
        if uri == default_uri(folder) and not (folder / "mlflow.db").exists():
            self._acknowledged.restart()
        self._runs: dict[str, KnownRun] = {}
        self._failures: dict[str, int] = {}
        self._failed: set[str] = set()  # trials whose upload failed at least once
        self._waiting = ""
        self._status = "RUNNING"
        self._report: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self, status: str, report: Path | None = None) -> None:
        """Upload what is left and leave.

        status: what the sweep's own run ends as. report: a file that is stored with it.
        """
        self._status, self._report = status, report
        self.progress_at = time.monotonic()
        self._stop.set()

    def finish(
        self,
        seconds: float = 30.0,
        status: str = "FINISHED",
        on_wait: Callable[[], None] = lambda: None,
    ) -> bool:
        """Upload what is left, as long as it makes progress; whether all of it arrived.

        seconds: how long to wait without progress, see Patience. status: FINISHED, FAILED or
        KILLED. on_wait: called several times a second meanwhile.
        """
        self.end(status)
        wait, progress_at = Patience(seconds, os.getpid()), self.progress_at
        while not self.join(0.2) and not wait.is_over():
            if self.progress_at > progress_at:
                progress_at = self.progress_at
                wait.renew()
            on_wait()
        if self._thread.is_alive():
            self.error = self.error or f"no progress for {seconds:g} s"
        return not self.warnings()

    def join(self, seconds: float) -> bool:
        """Wait for the upload to end; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def experiment(self) -> str:
        """Id of the experiment, "" where the server was never reached."""
        return self.server.experiment or self._acknowledged.experiment

    def share(self) -> float:
        """How much of the journal has arrived, 0 to 1."""
        return self._acknowledged.share()

    def warnings(self) -> list[str]:
        """What MLflow lacks and why, in one line for each reason."""
        kept = f"the values are in {self.folder / NAME}"
        lines: list[str] = []
        trials_of: dict[str, list[str]] = {}
        for trial, why in sorted(self.refused.items()):
            trials_of.setdefault(why, []).append(trial)
        for why, trials in trials_of.items():
            more = f" and {len(trials) - NAMED} more" if len(trials) > NAMED else ""
            named = ", ".join(trials[:NAMED]) + more
            lines.append(f"MLflow at {self.uri} refused trial {named}: {why}; {kept}")
        for name in sorted(self.server.unnamed):
            error = metric_name_error(name)
            lines.append(f"MLflow does not take metric `{name}`: it {error}; {kept}")
        for name in sorted(self.cut):
            lines.append(f"MLflow has the beginning of parameter `{name}` only, it is long; {kept}")
        if self.error:
            lines.append(lacking(self.folder, self.uri, self.error))
        return [without_password(line) for line in lines]

    # ---- the thread ----

    def _follow(self) -> None:
        delay, tries = 1.0, 0
        while True:
            last, progress_at = self._stop.is_set(), self.progress_at
            try:
                self._upload()
                self.error = self._waiting
            except Exception as error:  # whatever the client raises, the sweep goes on
                self.error = reason(error_of_file(error, self.uri) or error)
            progress = self.progress_at > progress_at
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
        ends = wanted != "RUNNING"
        open_end = ends and (wanted != stored.status or bool(self._register))
        if not (stored.has_new() or self._behind() or open_end):
            return
        self._connect()
        try:
            try:
                self._send_all()
            except LostError:  # once more from the start; if that is lost as well, in a later pass
                self._send_all()
            if ends:
                self._end_open_trials()
                # First, for files may be refused: that is no reason to be shown as running.
                self.server.terminate(self._parent(), wanted)
                self._register_students()
                self._log_report()
            stored.status = wanted
        finally:
            stored.save()

    def _send_all(self) -> None:
        """Raises: LostError; what stands in the way of every trial."""
        sent: set[str] = set()
        while (found := self._acknowledged.read_new()) is not None:
            sent |= found.keys()
            for trial, events in found.items():
                self._send(trial, events)
        behind = [trial for trial in self._behind() if trial not in sent]
        for trial, events in self._acknowledged.read_behind(behind).items():
            self._send(trial, events)

    def _behind(self) -> list[str]:
        return [trial for trial in self._acknowledged.behind if trial not in self.refused]

    def _connect(self) -> bool:
        """Whether the server has what it was sent before; False where everything is sent again."""
        if self.server.parent is not None:
            return True
        known = self.server.connect()
        if not known:
            # It has nothing of this sweep, whatever was sent before.
            self._runs.clear()
            self._failures.clear()
            self.refused.clear()
            self._acknowledged.restart()
        self._acknowledged.experiment = self.server.experiment
        self.progress_at = time.monotonic()
        return known

    def _parent(self) -> KnownRun:
        assert self.server.parent is not None
        return self.server.parent

    def _send(self, trial: str, events: list[Event]) -> None:
        """Upload a trial's events, or note why not.

        Raises: LostError; what concerns other trials as well.
        """
        if trial in self.refused:
            return
        try:
            try:
                self._record(trial, events)
            except Exception as error:
                if not is_refusal(error):
                    raise
                # The experiment or the run may have been deleted since it was searched.
                self._runs.pop(trial, None)
                self.server.parent = None
                if not self._connect():
                    raise LostError("MLflow has lost what it had, and gets it again") from None
                self._record(trial, events)
        except LostError:
            raise
        except Exception as error:
            self._runs.pop(trial, None)
            self._failed.add(trial)
            self._acknowledged.postpone(trial)
            self._note_failure(trial, error)
        else:
            self._acknowledged.acknowledge(trial)
            self.progress_at = time.monotonic()
            self._failures.pop(trial, None)

    def _note_failure(self, trial: str, error: Exception) -> None:
        if not is_refusal(error):
            # One of the connection would count against whichever trial was being sent.
            if code_of(error) != "INTERNAL_ERROR" or is_of_connection(error):
                raise error
            # Raises where the server does not answer at all.
            self.server.client.get_run(self._parent().id)
            self._failures[trial] = self._failures.get(trial, 0) + 1
            if self._failures[trial] < ATTEMPTS:
                self._waiting = reason(error)
                return
        self.refused[trial] = reason(error)

    # ---- one trial ----

    def _record(self, trial: str, events: list[Event]) -> None:
        run, events = self._run(trial, of_last_run(events))
        result = next((e for e in reversed(events) if isinstance(e, ResultEvent)), None)
        anew = result is not None and self._is_of_another(run, trial, digest_of(result.record))
        if anew:
            self.server.replace(run)
            events = of_last_run(self._acknowledged.read_from_start(trial))
            run = self._create(trial, events)
        anew |= is_again(events[0])
        late = _is_of_earlier_version(run)
        tags: dict[str, str] = {}
        for event in events:
            tags |= tags_of(event)
            if isinstance(event, ResultEvent | ProbeEvent):
                tags |= self._log_teacher(run, event, anew)
            if isinstance(event, ResultEvent) and not late:
                tags[RESULT] = digest_of(event.record)
        params = self._params(run, events, tags)
        ends = (ResultEvent, *WITHOUT_RESULT)
        end = next((e for e in reversed(events) if isinstance(e, ends)), None)
        if isinstance(end, WITHOUT_RESULT):
            tags[ERROR] = tag_text(end.error)
        metrics = [metric for event in events for metric in metrics_of(event, late)]
        for _ in self.server.log(run, metrics, params, tags):
            if trial not in self._failed:  # batches that are sent again are no progress
                self.progress_at = time.monotonic()
        if end is None:
            times = [event.time_ms for event in events if isinstance(event, ROWS)]
            ended = run.status in ("FAILED", "KILLED")
            if ended and max(times, default=0) > run.end_ms:
                self.server.reopen(run)
            return
        early = "FAILED" if isinstance(end, FailedEvent) else "KILLED"
        status = "FINISHED" if isinstance(end, ResultEvent) else early
        self.server.terminate(run, status, end.time_ms)
        if isinstance(end, ResultEvent):
            self._complete(run, end)

    def _params(self, run: KnownRun, events: list[Event], tags: dict[str, str]) -> dict[str, str]:
        """Parameters of a trial; `tags` gets what a later attempt had other values of.

        MLflow keeps the first value of a parameter and refuses another. Parameters that are no part
        of a trial's identity may change between its attempts.
        """
        params: dict[str, str] = {}
        for event in events:
            for name, value in params_of(config_of(event) or {}).items():
                first = run.params.setdefault(name, value)
                params[name] = first
                self.cut |= {name} if value.endswith(CUT) else set()
                same = value == first or (len(first) == EARLIER and value.startswith(first))
                if not same or CHANGED + name in run.tags | tags:
                    tags[CHANGED + name] = value
        return params

    def _complete(self, run: KnownRun, event: ResultEvent) -> None:
        """What a finished trial has besides values."""
        client = self.server.client
        if run.tags.pop(ERROR, None) is not None:
            client.delete_tag(run.id, ERROR)
        if event.result:
            log_bank(client, run.id, event)
            store_artifacts(client, run.id, event, self._store)

    def _is_of_another(self, run: KnownRun, trial: str, digest: str) -> bool:
        """Whether a trial's run in MLflow has a result of an earlier run of the trial."""
        if not _is_of_earlier_version(run):
            return run.tags.get(RESULT, digest) != digest
        return is_again(of_last_run(self._acknowledged.read_from_start(trial))[0])

    def _log_teacher(
        self, run: KnownRun, event: ResultEvent | ProbeEvent, anew: bool
    ) -> dict[str, str]:
        """Store teacher values with the sweep's own run, each once; returns the trial's tag.

        anew: whether the trial was run again: then its values replace others of the same name.
        """
        parent = self._parent()
        if isinstance(event, ProbeEvent):
            name = run.tags.get(REFERENCE, "")
            if not name or event.step:
                return {}
            found = bare(event.result.values.teacher).items()
            new = {n: v for n, v in found if parent.metrics.get(f"{name}/{n}") != v}
        else:
            reference = reference_of(event)
            if reference is None:
                return {}
            name = self._reference_name(parent, reference)
            found, had = reference.values.items(), parent.metrics
            new = {n: v for n, v in found if f"{name}/{n}" not in had}
            new |= {n: v for n, v in found if anew and had.get(f"{name}/{n}") != v}
        if new:
            from mlflow.entities import Metric

            rows = [Metric(f"{name}/{n}", v, event.time_ms, 0) for n, v in new.items()]
            for _ in self.server.log(parent, rows, {}, {name: parent.tags[name]}):
                pass
        run.tags[REFERENCE] = name
        return {REFERENCE: name}

    def _reference_name(self, parent: KnownRun, reference: Reference) -> str:
        """`teacher`, or `teacher 2` and so on where the sweep has several."""
        number = 1
        while True:
            name = TEACHER if number == 1 else f"{TEACHER} {number}"
            if parent.tags.setdefault(name, reference.label) == reference.label:
                return name
            number += 1

    def _run(self, trial: str, events: list[Event]) -> tuple[KnownRun, list[Event]]:
        """The trial's run and what to send to it: more than `events` where it had to be remade."""
        if trial in self._runs:
            return self._runs[trial], events
        tags = {TRIAL: trial, PARENT: self._parent().id}
        run = self.server.find(tags)
        if run is None:
            if not isinstance(events[0], StartEvent):
                events = of_last_run(self._acknowledged.read_from_start(trial))
            return self._create(trial, events), events
        self._runs[trial] = run
        return run, events

    def _create(self, trial: str, events: list[Event]) -> KnownRun:
        """Make a run for the trial. Raises: ValueError where no event has its config."""
        known = ((event.time_ms, config_of(event)) for event in events)
        time_ms, config = next(((t, c) for t, c in known if c is not None), (0, None))
        if config is None:
            raise ValueError(f"{NAME} has no config of trial {trial}")
        tags = {TRIAL: trial, PARENT: self._parent().id}
        run = self._runs[trial] = self.server.create(name_of(config), tags, time_ms)
        return run

    def _end_open_trials(self) -> None:
        """End the runs of trials that no process works on any more, without an end of their own."""
        for trial, time_ms in open_trials(self.folder / NAME).items():
            tags = {TRIAL: trial, PARENT: self._parent().id}
            run = self._runs.get(trial) or self.server.find(tags)
            if run is not None and run.status == "RUNNING":
                self.server.terminate(run, "KILLED", time_ms)

    def _register_students(self) -> None:
        """Make every finished student a version of the registered model, if one was requested."""
        if not self._register:
            return
        found = (event for _, event in read_events(self.folder / NAME))
        last = {event.trial: event for event in found if isinstance(event, ResultEvent)}
        for event in last.values():
            tags = {TRIAL: event.trial, PARENT: self._parent().id}
            run = self._runs.get(event.trial) or self.server.find(tags)
            if run is not None:
                register_student(self.server.client, self._register, run.id, event, self._store)
                self.progress_at = time.monotonic()

    def _log_report(self) -> None:
        """Store the report with the sweep's own run, unless that has it already."""
        if self._report is None:
            return
        digest = hashlib.sha256(self._report.read_bytes()).hexdigest()
        parent = self._parent()
        if parent.tags.get(REPORT) != digest:
            self.server.client.log_artifact(parent.id, str(self._report))
            self.server.client.set_tag(parent.id, REPORT, digest)


def _is_of_earlier_version(run: KnownRun) -> bool:
    """Whether a trial's result was uploaded by a version that tells no two results apart."""
    return "shards" in run.tags and RESULT not in run.tags
