"""MLflow on a real SQLite store: every trial one run, every row once, whatever is replayed."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweep.environment import set_defaults
from sweep.journal.events import EpochEvent, FailedEvent, Journal, ResultEvent, StartEvent
from sweep.journal.tracking import ERROR, PARENT, TRIAL, Tracker
from tests.sweep.made import made
from trainers.results.record import TrialResult

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep's journal with two finished trials."""
    set_defaults()
    folder = tmp_path / "it's a sweep"
    folder.mkdir()
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
        assert run.data.params == {k: str(v) for k, v in config(seed).items()}
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
    assert time.monotonic() - start < 20  # with the client's own import
    assert "\n" not in tracker.error
    assert tracker.error
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
        assert time.monotonic() - start < 4


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


def test_rows_arrive_while_the_sweep_goes_on(folder: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    journal = Journal(folder)
    tracker = Tracker(folder, "small", uri)
    tracker.start()
    begin(journal, "trial2", 2)
    deadline = time.monotonic() + 30
    mark = journal.path.stat().st_size
    while time.monotonic() < deadline:
        if any(p.read_text() == f"{mark} RUNNING" for p in folder.glob(".uploaded-????????")):
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
