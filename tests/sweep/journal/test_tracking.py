"""MLflow on a real SQLite store: every trial one run, every row once, whatever is replayed."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import shutil
import socket
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from sweep.analysis.frame import load
from sweep.environment import set_defaults
from sweep.journal import acknowledged, tracking
from sweep.journal.acknowledged import Acknowledged
from sweep.journal.events import (
    EpochEvent,
    Event,
    FailedEvent,
    Journal,
    ResultEvent,
    StartEvent,
)
from sweep.journal.mlflow_page import mlflow_command
from sweep.journal.mlflow_uri import check_tracking_uri, default_uri
from sweep.journal.stored import result_events
from sweep.journal.tracking import ERROR, PARENT, TRIAL, Tracker
from sweep.run import main
from tests.sweep.made import made
from trainers.results.record import TrialResult, parse_result

T0 = 1_700_000_000_000
EPOCHS = 3


def config(seed: int) -> dict[str, Any]:
    return {
        "dataset": "d",
        "teacher": "t",
        "student": "width:1",
        "arm": "clean",
        "seed": seed,
        "lr": 0.001,
        "probes": ["linear"],
    }


def result(seed: int) -> TrialResult:
    rows = [
        {"step": 4 * e, "epoch": e, "loss": 1 / e, "time_ms": T0 + 4 * e}
        for e in range(1, EPOCHS + 1)
    ]
    return made(
        {
            "config": config(seed),
            "metrics": {"test/linear/paper/accuracy": 0.5 + seed / 10, "test/rank/effective": 7.0},
            "teacher": {"teacher/linear/paper/accuracy": 0.9},
            "epochs": rows,
            "student": {"total": 10},
        }
    )


def begin(journal: Journal, trial: str, seed: int) -> None:
    journal.append(StartEvent(trial=trial, config=config(seed), time_ms=T0))
    for row in result(seed).epochs:
        values = {"loss": row.loss, "epoch": row.epoch}
        event = EpochEvent(trial=trial, step=row.step, values=values, time_ms=row.time_ms)
        journal.append(event)


@functools.cache
def empty_database() -> bytes:
    """MLflow takes seconds to make one."""
    from mlflow.tracking import MlflowClient

    set_defaults()
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep's journal with two finished trials."""
    set_defaults()
    folder = tmp_path / "it's a sweep"
    folder.mkdir()
    (tmp_path / "m.db").write_bytes(empty_database())
    journal = Journal(folder)
    for seed in range(2):
        begin(journal, f"trial{seed}", seed)
        journal.append(ResultEvent(trial=f"trial{seed}", record=result(seed), time_ms=T0 + 100))
    journal.close()
    return folder


def upload(folder: Path, uri: str, status: str = "FINISHED") -> Tracker:
    tracker = Tracker(folder, "small", uri)
    tracker.start()
    assert tracker.finish(status=status), tracker.error
    return tracker


def runs(uri: str) -> tuple[Any, list[Any], list[Any]]:
    """(client, parents, children)"""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    return (
        client,
        [run for run in found if PARENT not in run.data.tags],
        [run for run in found if PARENT in run.data.tags],
    )


def rows(base: Path) -> Counter[tuple[str, str, int]]:
    with contextlib.closing(sqlite3.connect(base)) as database:
        return Counter(database.execute("select run_uuid, key, step from metrics").fetchall())


def test_one_parent_one_child_a_trial_each_row_once(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    upload(folder, uri)
    client, parents, children = runs(uri)
    assert [run.info.status for run in parents] == ["FINISHED"]
    assert sorted(run.data.tags[TRIAL] for run in children) == ["trial0", "trial1"]
    for run in children:
        seed = int(run.data.tags[TRIAL][-1])
        assert run.data.tags[PARENT] == parents[0].info.run_id
        assert run.data.params == {k: str(v) for k, v in config(seed).items()} | {
            "probes": "linear"
        }
        assert run.data.metrics["test/linear/paper/accuracy"] == 0.5 + seed / 10
        assert run.data.metrics["teacher/linear/paper/accuracy"] == 0.9
        assert run.data.tags["student.total"] == "10"
        assert run.data.tags["environment.scikit-learn"] == "1.9"
        assert run.data.tags["probe.any.version"] == "1"
        assert (run.info.status, run.info.start_time, run.info.end_time) == (
            "FINISHED",
            T0,
            T0 + 100,
        )
        curve = client.get_metric_history(run.info.run_id, "train/loss")
        assert [(m.step, m.value, m.timestamp) for m in curve] == [
            (4 * (e + 1), 1 / (e + 1), T0 + 4 * (e + 1)) for e in range(EPOCHS)
        ]
    count = rows(tmp_path / "m.db")
    assert len(count) == 2 * (2 * EPOCHS + 3)
    assert set(count.values()) == {1}


def test_replay_of_the_whole_journal_adds_nothing(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    upload(folder, uri)
    before = rows(tmp_path / "m.db")
    for mark in folder.glob(".uploaded-*"):
        mark.unlink()
    upload(folder, uri)
    assert rows(tmp_path / "m.db") == before
    _, parents, children = runs(uri)
    assert (len(parents), len(children)) == (1, 2)


@pytest.mark.faults
def test_half_a_batch_that_arrived_is_completed(folder: Path, tmp_path: Path) -> None:
    """The mark is written after the upload: a crash between them sends old and new rows at once."""
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    upload(folder, uri)
    before = rows(tmp_path / "m.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "m.db")) as database:
        database.execute("delete from metrics where step = 8 or key like 'test/rank%'")
        database.commit()
    for mark in folder.glob(".uploaded-*"):
        mark.unlink()
    upload(folder, uri)
    assert rows(tmp_path / "m.db") == before


def test_two_sweeps_on_one_server_do_not_share_runs(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    upload(folder, uri)
    other = tmp_path / "other"
    other.mkdir()
    journal = Journal(other)
    begin(journal, "trial0", 0)
    journal.close()
    upload(other, uri)
    _, parents, children = runs(uri)
    assert (len(parents), len(children)) == (2, 3)
    assert set(rows(tmp_path / "m.db").values()) == {1}


@pytest.mark.faults
def test_server_down_loses_nothing(folder: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracker = Tracker(folder, "small", f"http://127.0.0.1:{port}")
    start = time.monotonic()
    tracker.start()
    assert not tracker.finish()
    assert time.monotonic() - start < 30  # with three pauses and the client's own import
    (line,) = tracker.warnings()
    assert "\n" not in line
    assert "python -m sweep.sync " in line
    upload(folder, f"sqlite:///{tmp_path / 'm.db'}")
    assert len(rows(tmp_path / "m.db")) == 2 * (2 * EPOCHS + 3)


@pytest.mark.faults
def test_a_silent_server_holds_nobody(folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = Tracker(folder, "small", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        tracker.start()
        assert not tracker.finish(seconds=2)
        assert time.monotonic() - start < 20  # four requests and pauses would take 27 s


class Unreliable:
    """MLflow's client behind a bad connection. lost: of a call's number, what does not arrive."""

    def __init__(self, client: Any, lost: Callable[[str, int], str]) -> None:
        self._client, self._lost = client, lost
        self.calls = Counter[str]()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)
        if name.startswith("_") or not callable(real):
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            lost = self._lost(name, self.calls[name])
            found = None if lost == "request" else real(*arguments, **named)
            if lost:
                raise no_answer()
            return found

        return call


def no_answer() -> Exception:
    """As MLflow raises it, with its code for any error inside the server."""
    from mlflow.exceptions import MlflowException

    error = MlflowException("API request failed with exception: Connection aborted")
    error.__cause__ = requests.ConnectionError("Connection aborted")
    return error


def each_call(name: str, number: int) -> str:
    """Of each kind of call the first reply is lost, and the second request."""
    return {1: "reply", 2: "request"}.get(number, "")


def flapping(name: str, number: int) -> str:
    """Answers and silence in turns, which no trial's upload passes in one attempt."""
    return ("reply", "", "request", "")[number % 4]


@pytest.mark.faults
@pytest.mark.parametrize("lost", [each_call, flapping])
def test_lost_replies_and_a_flapping_server_make_no_row_twice_and_refuse_no_trial(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: Callable[[str, int], str]
) -> None:
    from mlflow import tracking as mlflow_tracking

    real, made_clients = mlflow_tracking.MlflowClient, list[Unreliable]()
    of_this_test = f"sqlite:///{tmp_path / 'm.db'}"

    def client(uri: str) -> Any:
        # A tracker that an earlier test has given up may still try its own server.
        if uri != of_this_test:
            return real(uri)
        made_clients[:] = made_clients or [Unreliable(real(uri), lost)]
        return made_clients[0]

    shutil.copy(tmp_path / "m.db", tmp_path / "quiet.db")
    upload(folder, f"sqlite:///{tmp_path / 'quiet.db'}")
    monkeypatch.setattr(mlflow_tracking, "MlflowClient", client)
    monkeypatch.setattr(tracking, "LAST_PAUSES", (0.01,) * 50)
    tracker = upload(folder, of_this_test)
    monkeypatch.undo()
    assert tracker.refused == {}
    _, parents, children = runs(of_this_test)
    assert (len(parents), len(children)) == (1, 2)
    values = [values_of(tmp_path / name) for name in ("m.db", "quiet.db")]
    assert values[0] == values[1]
    assert set(rows(tmp_path / "m.db").values()) == {1}
    with contextlib.closing(sqlite3.connect(tmp_path / "m.db")) as database:
        query = "select count(*) from experiment_tags where key = 'mlflow.note.content'"
        assert database.execute(query).fetchall() == [(1,)]


def values_of(base: Path) -> list[Any]:
    """(trial, metric, step, value, time) of all trials."""
    query = """
        select t.value, m.key, m.step, m.value, m.timestamp from metrics m
        join tags t on t.run_uuid = m.run_uuid and t.key = 'sweep.trial'
    """
    with contextlib.closing(sqlite3.connect(base)) as database:
        return sorted(database.execute(query).fetchall())


@pytest.mark.faults
def test_a_locked_database_is_waited_for(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    tracker = Tracker(folder, "small", uri)
    with contextlib.closing(sqlite3.connect(tmp_path / "m.db")) as other:
        other.execute("begin exclusive")
        tracker.start()
        while not tracker.error:
            time.sleep(0.1)
        assert "database is locked" in tracker.error
        other.rollback()
    assert tracker.finish()
    assert len(rows(tmp_path / "m.db")) == 2 * (2 * EPOCHS + 3)
    assert tracker.refused == {}


@pytest.mark.faults
def test_failed_then_finished(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    journal = Journal(folder)
    begin(journal, "trial2", 2)
    journal.append(FailedEvent(trial="trial2", config=config(2), error="diverged in epoch 3"))
    upload(folder, uri, "FAILED")
    _, parents, children = runs(uri)
    failed = {run.data.tags[TRIAL]: run for run in children}["trial2"]
    assert failed.info.status == parents[0].info.status == "FAILED"
    assert failed.data.tags[ERROR] == "diverged in epoch 3"

    journal.append(ResultEvent(trial="trial2", record=result(2)))
    journal.close()
    upload(folder, uri)
    _, parents, children = runs(uri)
    done = {run.data.tags[TRIAL]: run for run in children}["trial2"]
    assert done.info.run_id == failed.info.run_id
    assert done.info.status == parents[0].info.status == "FINISHED"
    assert ERROR not in done.data.tags
    assert set(rows(tmp_path / "m.db").values()) == {1}


def statuses(uri: str) -> tuple[str, dict[str, str]]:
    """The sweep's own, and {trial: its}."""
    _, (parent,), children = runs(uri)
    return parent.info.status, {run.data.tags[TRIAL]: run.info.status for run in children}


@pytest.mark.faults
def test_no_run_stays_running_after_the_sweep_and_a_resumed_one_runs_again(
    folder: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    journal = Journal(folder)
    begin(journal, "trial2", 2)
    begin(journal, "trial3", 3)
    journal.append(FailedEvent(trial="trial3", config=config(3), error="x", time_ms=T0 + 50))
    upload(folder, uri, "KILLED")
    done = {"trial0": "FINISHED", "trial1": "FINISHED"}
    assert statuses(uri) == ("KILLED", done | {"trial2": "KILLED", "trial3": "FAILED"})
    before = runs(uri)[2]
    ended = {run.data.tags[TRIAL]: run.info.end_time for run in before}
    assert ended["trial2"] == T0 + 4 * EPOCHS  # its newest row
    # A row that was lacking shows no new attempt; those of new ones do.
    journal.append(EpochEvent(trial="trial3", step=13, values={"loss": 0.1}, time_ms=T0 + 49))
    journal.append(EpochEvent(trial="trial2", step=16, values={"loss": 0.1}, time_ms=T0 + 90))
    tracker = Tracker(folder, "small", uri)
    tracker._upload()
    assert statuses(uri) == ("RUNNING", done | {"trial2": "RUNNING", "trial3": "FAILED"})
    journal.append(EpochEvent(trial="trial3", step=17, values={"loss": 0.1}, time_ms=T0 + 91))
    tracker._upload()
    assert statuses(uri)[1] == done | {"trial2": "RUNNING", "trial3": "RUNNING"}
    assert not [run for run in runs(uri)[2] if ERROR in run.data.tags]
    journal.append(ResultEvent(trial="trial2", record=result(2), time_ms=T0 + 100))
    journal.close()
    upload(folder, uri, "KILLED")
    assert statuses(uri) == ("KILLED", done | {"trial2": "FINISHED", "trial3": "KILLED"})


@pytest.mark.faults
def test_a_report_that_is_refused_leaves_no_run_running(tmp_path: Path) -> None:
    write(tmp_path, *trial(0))
    (tmp_path / "mlartifacts").write_text("not a folder")
    (tmp_path / "report.html").write_text("<html></html>")
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    tracker.end("FINISHED", tmp_path / "report.html")
    with pytest.raises(OSError, match="mlartifacts"):
        tracker._upload()
    assert statuses(default_uri(tmp_path)) == ("FINISHED", {"trial0": "FINISHED"})


def observing(seed: int) -> TrialResult:
    """A result with an observation at the end of each epoch, and one between two."""
    record = result(seed).as_json()
    rows = [{"step": s, "epoch": s / 4, "values": {"rank": s / 2}} for s in (4, 6, 8, 12)]
    return parse_result(record | {"observations": {"rows": rows, "teacher": {}}})


def curves(base: Path) -> list[Any]:
    return sorted(row[1:] for row in values_of(base) if row[0] == "a" and row[1][:5] == "curve")


def test_curves_of_a_trial_without_a_result_arrive_and_come_once(tmp_path: Path) -> None:
    write(tmp_path)
    events = list(result_events("a", observing(0), []))
    write(tmp_path, *events[:2])
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    tracker._upload()
    first = [("curve/epoch", 4, 1.0, T0 + 4), ("curve/rank", 4, 2.0, T0 + 4)]
    assert curves(tmp_path / "mlflow.db") == first
    write(tmp_path, *events[2:])
    tracker._upload()
    whole = curves(tmp_path / "mlflow.db")
    assert whole[:1] + whole[4:5] == first
    assert [row[:3] for row in whole if row[0] == "curve/rank"] == [
        ("curve/rank", step, step / 2) for step in (4, 6, 8, 12)
    ]
    for mark in tmp_path.glob(".uploaded-*"):
        mark.unlink()
    assert not finished(tmp_path).warnings()
    assert curves(tmp_path / "mlflow.db") == whole


def test_an_upload_of_an_earlier_version_gets_no_second_curve(tmp_path: Path) -> None:
    """It sent observations with the result alone, at its time."""
    events = list(result_events("a", observing(0), []))
    write(tmp_path, *events)
    assert not finished(tmp_path).warnings()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("update metrics set timestamp = ? where key like 'curve/%'", [T0 + 12])
        database.execute("delete from tags where key = 'sweep.result'")
        database.commit()
    before = curves(tmp_path / "mlflow.db")
    for _ in range(2):
        for mark in tmp_path.glob(".uploaded-*"):
            mark.unlink()
        assert not finished(tmp_path).warnings()
        assert curves(tmp_path / "mlflow.db") == before


def test_rows_arrive_while_the_sweep_goes_on(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    journal = Journal(folder)
    tracker = Tracker(folder, "small", uri)
    tracker.start()
    begin(journal, "trial2", 2)
    deadline = time.monotonic() + 30
    mark = journal.path.stat().st_size
    while time.monotonic() < deadline:
        (file,) = [*folder.glob(".uploaded-????????")] or [None]
        expected = {"end": mark, "behind": {}, "status": "RUNNING"}
        if file and expected.items() <= json.loads(file.read_bytes()).items():
            break
        time.sleep(0.1)
    _, parents, children = runs(uri)
    assert parents[0].info.status == "RUNNING"
    assert len(children) == 3
    assert tracker.finish()
    journal.close()


@pytest.mark.faults
def test_a_database_that_goes_away_is_one_line_at_the_end(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "m.db"
    tracker = Tracker(folder, "small", f"sqlite:///{database}")
    tracker._connect()
    database.unlink()
    capfd.readouterr()
    tracker.start()
    assert not tracker.finish(seconds=5)
    assert tracker.error
    assert "Traceback" not in capfd.readouterr().err


# ---- what MLflow refuses ----


def trial(seed: int, metrics: dict[str, float] | None = None, **fields: Any) -> list[Event]:
    """A trial's start and result."""
    name, fields = f"trial{seed}", config(seed) | fields
    metrics = {"test/x": float(seed)} if metrics is None else metrics
    record = made({"config": fields, "metrics": metrics})
    start = StartEvent(trial=name, config=fields, time_ms=T0)
    return [start, ResultEvent(trial=name, record=record, time_ms=T0 + 1)]


def write(folder: Path, *events: Event) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mlflow.db").exists():
        (folder / "mlflow.db").write_bytes(empty_database())
    journal = Journal(folder)
    for event in events:
        journal.append(event)
    journal.close()
    return folder


def finished(folder: Path) -> Tracker:
    tracker = Tracker(folder, "small", default_uri(folder))
    tracker.start()
    tracker.finish()
    return tracker


def by_trial(folder: Path) -> dict[str, Any]:
    """The trials' runs below the sweep's own."""
    _, (parent,), children = runs(default_uri(folder))
    below = [run for run in children if run.data.tags[PARENT] == parent.info.run_id]
    found = {run.data.tags[TRIAL]: run for run in below}
    assert len(found) == len(below)
    return found


def failed_with(**fields: Any) -> FailedEvent:
    return FailedEvent(trial="trial1", config=config(1) | fields, error="x")


@pytest.mark.faults
def test_a_parameter_that_changes_keeps_its_first_value_and_is_noted(tmp_path: Path) -> None:
    write(tmp_path, failed_with(teacher_sha256="aaaa"))
    assert not finished(tmp_path).warnings()
    write(tmp_path, failed_with(teacher_sha256="bbbb", added=1))
    assert not finished(tmp_path).warnings()
    write(tmp_path, *trial(1, teacher_sha256="cccc")[1:], *trial(2))
    assert not finished(tmp_path).warnings()
    first, second = (by_trial(tmp_path)[name] for name in ("trial1", "trial2"))
    assert first.data.params["teacher_sha256"] == "aaaa"
    assert first.data.params["added"] == "1"
    assert first.data.tags["sweep.changed.teacher_sha256"] == "cccc"
    assert first.data.metrics == {"test/x": 1.0}
    assert second.data.metrics == {"test/x": 2.0}
    assert not [tag for tag in second.data.tags if tag.startswith("sweep.changed.")]


@pytest.mark.faults
@pytest.mark.parametrize("gone", ["run", "parent", "experiment", "run for good", "parent for good"])
def test_what_was_deleted_is_restored_or_remade(tmp_path: Path, gone: str) -> None:
    write(tmp_path, *trial(0), *trial(1)[:1])
    assert not finished(tmp_path).warnings()
    client, (parent,), _ = runs(default_uri(tmp_path))
    run = by_trial(tmp_path)["trial1"].info
    if gone == "run":
        client.delete_run(run.run_id)
    elif gone == "parent":
        client.delete_run(parent.info.run_id)
    elif gone == "experiment":
        client.delete_experiment(run.experiment_id)
    else:  # as `mlflow gc` does
        run_id = run.run_id if gone == "run for good" else parent.info.run_id
        client._tracking_client.store._hard_delete_run(run_id)
    write(tmp_path, *trial(1)[1:])
    assert not finished(tmp_path).warnings()
    found = by_trial(tmp_path)
    assert {name: run.data.metrics["test/x"] for name, run in found.items()} == {
        "trial0": 0.0,
        "trial1": 1.0,
    }
    assert found["trial1"].data.params["lr"] == "0.001"
    assert (found["trial1"].info.run_id == run.run_id) == ("for good" not in gone)


@pytest.mark.faults
def test_a_database_that_was_removed_is_filled_again(tmp_path: Path) -> None:
    write(tmp_path, *trial(0))
    assert not finished(tmp_path).warnings()
    assert not Acknowledged(tmp_path, default_uri(tmp_path)).has_new()
    (tmp_path / "mlflow.db").unlink()
    assert Tracker(tmp_path, "small", default_uri(tmp_path))._acknowledged.has_new()


@pytest.mark.faults
def test_a_run_deleted_during_the_sweep_is_restored(tmp_path: Path) -> None:
    write(tmp_path, *trial(1)[:1])
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    tracker._upload()
    client, _, (run,) = runs(default_uri(tmp_path))
    client.delete_experiment(run.info.experiment_id)
    write(tmp_path, *trial(1)[1:])
    tracker._upload()
    assert by_trial(tmp_path)["trial1"].data.metrics == {"test/x": 1.0}


@pytest.mark.faults
def test_a_database_lost_while_trials_run_is_filled_again(tmp_path: Path) -> None:
    """As that of a server without a volume, which starts anew."""
    write(tmp_path, *trial(0), *trial(1)[:1], *trial(2)[:1])
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    tracker._upload()
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    write(tmp_path, *trial(1)[1:], *trial(2)[1:], *trial(3))
    tracker.start()
    assert tracker.finish()
    found = by_trial(tmp_path)
    values = {name: run.data.metrics["test/x"] for name, run in found.items()}
    assert values == {"trial0": 0.0, "trial1": 1.0, "trial2": 2.0, "trial3": 3.0}
    assert {run.data.params["lr"] for run in found.values()} == {"0.001"}


@pytest.mark.faults
def test_a_refused_trial_is_named_and_the_others_arrive(tmp_path: Path) -> None:
    bad = {"b" * 300: "a parameter's name that is too long"}
    write(tmp_path, *trial(0), *trial(1, **bad), *trial(2))
    tracker = finished(tmp_path)
    (line,) = tracker.warnings()
    assert "refused trial trial1: " in line
    assert str(tmp_path / "journal.jsonl") in line
    assert "sweep.sync" not in line
    found = by_trial(tmp_path)
    assert found["trial0"].data.metrics == {"test/x": 0.0}
    assert found["trial2"].data.metrics == {"test/x": 2.0}
    write(tmp_path, *trial(3))
    assert list(finished(tmp_path).refused) == ["trial1"]  # tried again once, others go on
    assert by_trial(tmp_path)["trial3"].data.metrics == {"test/x": 3.0}


def arms(count: int) -> list[str]:
    return [f"corruption:{number:04d}" for number in range(count)]


def test_a_long_parameter_is_whole_and_one_too_long_is_named(tmp_path: Path) -> None:
    """As the 75 arms of `test_arms: [cifar10c]`."""
    write(tmp_path, *trial(0, test_arms=arms(75)), *trial(1, test_arms=arms(500)))
    (line,) = finished(tmp_path).warnings()
    assert "the beginning of parameter `test_arms` only" in line
    study = load(default_uri(tmp_path))
    (note,) = study.notes
    assert "`test_arms` of 1 trials is left out" in note
    found = dict(zip(study.trials["trial"], study.trials["test_arms"], strict=True))
    whole = load(tmp_path).trials
    (expected,) = whole["test_arms"][whole["seed"] == 0]
    assert found == {"trial0": expected, "trial1": None}


def test_a_parameter_that_an_earlier_version_cut_is_no_other_and_not_read(tmp_path: Path) -> None:
    events = trial(0, test_arms=arms(75))
    write(tmp_path, *events[:1])
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    tracker._upload()
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("update params set value = substr(value, 1, 500)")
        database.commit()
    write(tmp_path, *events[1:])
    assert not finished(tmp_path).warnings()
    (run,) = by_trial(tmp_path).values()
    assert not [tag for tag in run.data.tags if tag.startswith("sweep.changed.")]
    study = load(default_uri(tmp_path))
    assert "`test_arms` of 1 trials" in study.notes[0]
    assert "test_arms" not in study.trials or list(study.trials["test_arms"]) == [None]


@pytest.mark.faults
def test_a_metric_name_that_mlflow_refuses_costs_that_value_only(tmp_path: Path) -> None:
    write(tmp_path, *trial(1, {"test/recall@5": 0.5, "test/x": 1.0}), *trial(2))
    (line,) = finished(tmp_path).warnings()
    assert "`test/recall@5`: it has '@'" in line
    assert by_trial(tmp_path)["trial1"].data.metrics == {"test/x": 1.0}
    assert by_trial(tmp_path)["trial2"].data.metrics == {"test/x": 2.0}


@pytest.mark.faults
def test_errors_of_the_moment_are_retried_and_lasting_ones_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trial0` fails twice, `trial1` always: the server has an internal error for its values."""
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(tracking, "LAST_PAUSES", (0.01,) * 3)
    write(tmp_path, *trial(0), *trial(1), *trial(2))
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    record, calls = tracker._record, Counter[str]()

    def flaky(trial: str, events: list[Event]) -> None:
        calls[trial] += 1
        if trial == "trial1" or (trial == "trial0" and calls[trial] < 3):
            raise MlflowException("out of order")
        record(trial, events)

    monkeypatch.setattr(tracker, "_record", flaky)
    tracker.start()
    assert not tracker.finish()
    assert calls == {"trial0": 3, "trial1": 3, "trial2": 1}
    assert tracker.refused == {"trial1": "out of order"}
    assert by_trial(tmp_path).keys() == {"trial0", "trial2"}


def test_an_upload_goes_on_while_it_makes_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *(event for seed in range(6) for event in trial(seed)))
    tracker = Tracker(tmp_path, "small", default_uri(tmp_path))
    tracker._connect()
    record = tracker._record

    def slow(trial: str, events: list[Event]) -> None:
        time.sleep(0.5)
        record(trial, events)

    monkeypatch.setattr(tracker, "_record", slow)
    tracker.start()
    assert tracker.finish(seconds=2)  # for 3 s at least
    assert len(by_trial(tmp_path)) == 6


@pytest.mark.faults
def test_lines_removed_from_the_journal_by_hand_lose_nothing(tmp_path: Path) -> None:
    write(tmp_path, *trial(0), *trial(1))
    assert not finished(tmp_path).warnings()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    write(tmp_path, *trial(2))
    assert not finished(tmp_path).warnings()
    assert by_trial(tmp_path)["trial2"].data.metrics == {"test/x": 2.0}


def test_many_events_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledged, "CHUNK", 3)
    write(tmp_path, *(event for seed in range(5) for event in trial(seed)))
    assert not finished(tmp_path).warnings()
    assert {run.data.metrics["test/x"] for run in by_trial(tmp_path).values()} == {0, 1, 2, 3, 4}


def test_random_weights_are_a_tag(tmp_path: Path) -> None:
    write(tmp_path, *trial(0, teacher="open_clip:ViT-B-32:none"), *trial(1))
    assert not finished(tmp_path).warnings()
    found = by_trial(tmp_path)
    assert found["trial0"].data.tags["teacher.random_weights"] == "true"
    assert "teacher.random_weights" not in found["trial1"].data.tags


# ---- tracking URIs ----


@pytest.mark.parametrize("name", ["a?b", "a%2e", "a b#'", "a%3Fb/c d?"])
def test_a_run_folder_of_any_name_keeps_its_database(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "runs" / name, *trial(0))
    (folder / "mlflow.db").unlink()
    assert not finished(folder).warnings()
    assert (folder / "mlflow.db").stat().st_size
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [name.partition("/")[0]]
    words = shlex.split(mlflow_command(default_uri(folder)), comments=True)
    assert words[-2:] == ["--backend-store-uri", default_uri(folder)]


@pytest.mark.parametrize(
    "uri",
    [
        "foo://bar",
        "htp://localhost:5000",
        "localhost:5000",
        "http://",
        "http://host:port",
        "sqlite:/x",
        "sqlite+none:///x.db",
        "sqlite:////dev/null/x/mlflow.db",
        "sqlite:///",
        "sqlite:///:memory:",
    ],
)
def test_an_impossible_uri_is_refused_before_any_work(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--grid", "demo", "--out", str(tmp_path / "run"), "--tracking-uri", uri])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: tracking URI {uri}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///mlflow.db", "https://u:p@host/x"])
def test_a_possible_uri_is_taken(uri: str) -> None:
    check_tracking_uri(uri)
