"""MLflow from the store: what users see there, made again when all else is lost, never twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from shards.support import storage
from shards.support.lease import ours, take
from sweep.analysis.frame import load
from sweep.environment import set_defaults
from sweep.journal import uploader as uploader_module
from sweep.journal.events import Journal, StartEvent
from sweep.journal.mlflow_page import experiment_address
from sweep.journal.run_record import PlannedTrial, open_record, record_sweep
from sweep.journal.server import PARENT, SWEEP, TRIAL
from sweep.journal.uploader import Uploader
from sweep.running.holding import FOLDER
from sweep.running.watch import Watch
from sweep.sync import main
from tests.sweep.journal.test_tracking import empty_database
from tests.sweep.made import made
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig
from trainers.results.folder import trial_folder
from trainers.results.trial_journal import TrialJournal, note_failure

T0 = 1_700_000_000_000
FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1", "arm": "clean"}
CONFIGS = [make_config(FIELDS | {"seed": seed}) for seed in range(3)]
Row = tuple[str, str, int, float, int]  # trial or "", key, step, value, timestamp


def finish(store: Path, config: TrialConfig, reference: float = 0.9, later: int = 0) -> None:
    """Write what a finished trial leaves. later: seconds, which change its values as well."""
    folder = trial_folder(str(store), config)
    begin = T0 / 1000 + later
    seconds = iter([begin + config.seed, begin + 10 + config.seed])
    journal = TrialJournal(folder, config, clock=lambda: next(seconds))
    journal.start()
    journal._clock = lambda: begin + 20  # of rows with times of their own
    epochs = [
        {"step": 4 * e, "epoch": e, "loss": 1 / e + later, "time_ms": T0 + 1000 * (e + later)}
        for e in (1, 2)
    ]
    for row in epochs:
        journal.epoch(row)
    journal.finished("banks/one")
    journal.leave()
    record = made(
        {
            "id": config.identity,
            "config": config.model_dump(mode="json"),
            "metrics": {"test/linear/paper/accuracy": 0.5 + config.seed / 10 - later / 1000},
            "teacher": {"teacher/linear/paper/accuracy": reference},
            "arrays": {"test/spectrum": [0.6, 0.3, 0.1], "teacher/spectrum": [0.5, 0.3, 0.2]},
            "epochs": epochs,
        }
    )
    storage.write_json(folder + "/result.json", record.as_json())
    for name in ("student.safetensors", "student.json"):
        storage.write(f"{folder}/student/{name}", b"{}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with its store in it: two finished trials and a failed one; no journal."""
    set_defaults()
    folder = tmp_path / "run"
    folder.mkdir()
    record = open_record(folder, str(folder), "family")
    planned = PlannedTrial(steps=8, work=1.0, weight=1.0)
    record_sweep(str(folder), record, {config.identity: planned for config in CONFIGS})
    for config in CONFIGS[:2]:
        finish(folder, config)
    note_failure(trial_folder(str(folder), CONFIGS[2]), CONFIGS[2], "ValueError: of its own")
    (folder / "mlflow.db").write_bytes(empty_database())
    return folder


def sync(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


def rows(base: Path) -> list[Row]:
    query = """
        select coalesce(t.value, ''), m.key, m.step, m.value, m.timestamp from metrics m
        left join tags t on t.run_uuid = m.run_uuid and t.key = 'sweep.trial'
    """
    with contextlib.closing(sqlite3.connect(base)) as database:
        return sorted(database.execute(query).fetchall())


def client_of(base: Path) -> tuple[Any, Any, dict[str, Any]]:
    """(client, the sweep's run, {trial: run})"""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{base}")
    experiment = client.get_experiment_by_name("family")
    assert experiment is not None
    found = list(client.search_runs([experiment.experiment_id]))
    (parent,) = [run for run in found if PARENT not in run.data.tags]
    children = {run.data.tags[TRIAL]: run for run in found if PARENT in run.data.tags}
    assert len(children) == len(found) - 1
    return client, parent, children


def test_a_lost_head_loses_nothing_and_twice_changes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(run) == 0
    address = capsys.readouterr().out.strip()
    assert address.endswith("/runs?workflowType=machine_learning")
    first, journal = rows(run / "mlflow.db"), (run / "journal.jsonl").read_bytes()
    assert sync(run) == 0
    assert rows(run / "mlflow.db") == first
    assert (run / "journal.jsonl").read_bytes() == journal
    # The head is gone: only the store is left, and another server.
    store, again = tmp_path / "store", tmp_path / "again"
    store.mkdir()
    for part in ("trials", "sweeps"):
        shutil.copytree(run / part, store / part)
    again.mkdir()
    (again / "mlflow.db").write_bytes(empty_database())
    assert sync(store, "--out", again) == 0
    assert rows(again / "mlflow.db") == first
    assert (again / "journal.jsonl").read_bytes() == journal
    # The folder that was made again goes on in the first server, too.
    assert sync(again, "--tracking-uri", f"sqlite:///{run / 'mlflow.db'}") == 0
    assert rows(run / "mlflow.db") == first
    assert len(client_of(run / "mlflow.db")[2]) == 3
    assert b"test/spectrum" not in journal


@pytest.mark.parametrize("by", ["sync", "sweep"])
def test_a_trial_that_was_run_again_has_its_new_values_everywhere(run: Path, by: str) -> None:
    """Its folder was deleted, as an error about it recommends, and other images were read."""
    assert sync(run) == 0
    client, _, before = client_of(run / "mlflow.db")
    again, other = CONFIGS[1], CONFIGS[0]
    shutil.rmtree(trial_folder(str(run), again))
    finish(run, again, reference=0.7, later=100)
    if by == "sweep":
        watch = Watch(Journal(run), [again], str(run))
        assert watch.adopt(again)
        watch.journal.close()
    for _ in range(2):
        assert sync(run) == 0
        _, parent, children = client_of(run / "mlflow.db")
        one = children[again.identity]
        assert one.data.metrics["test/linear/paper/accuracy"] == pytest.approx(0.5)
        assert one.info.start_time == T0 + 101_000
        losses = client.get_metric_history(one.info.run_id, "train/loss")
        assert [(m.step, m.value) for m in losses] == [(4, 101.0), (8, 100.5)]
        assert parent.data.metrics == {"teacher/linear/paper/accuracy": 0.7}
        assert children[other.identity].info.run_id == before[other.identity].info.run_id
        for study in (load(run), load(f"sqlite:///{run / 'mlflow.db'}")):
            (row,) = study.trials[study.trials["trial"] == again.identity].to_dict("records")
            assert row["test/linear/paper/accuracy"] == pytest.approx(0.5)
            assert row["started_ms"] == T0 + 101_000
    old = client.get_run(before[again.identity].info.run_id)
    assert (old.info.lifecycle_stage, old.data.metrics["train/loss"]) == ("deleted", 0.5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_sweep_that_works_on_the_store_is_refused_from_any_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], elsewhere: bool
) -> None:
    """Its own upload would read that the sweep has ended."""
    claim = ours("python -m sweep.run --grid family")
    if elsewhere:  # whether that process runs is not known here, only that its heart beats
        process = claim.process.model_copy(update={"host": "another", "system": "another"})
        claim = claim.model_copy(update={"process": process})
    other = tmp_path / "other"
    other.mkdir()
    lease = take(str(run / FOLDER), claim)
    lease.every = 0.2
    with lease:
        assert sync(run, "--out", other) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert "a sweep works on it" in line
        assert "python -m sweep.run --grid family" in line
        assert not (other / "run.json").exists()
    shutil.copy(run / "mlflow.db", other)
    assert sync(run, "--out", other) == 0


def test_what_users_of_mlflow_expect(run: Path, tmp_path: Path) -> None:
    assert sync(run) == 0
    client, parent, children = client_of(run / "mlflow.db")
    assert parent.data.metrics == {"teacher/linear/paper/accuracy": 0.9}
    assert "embedded on digits, 1438 train" in parent.data.tags["teacher"]
    assert parent.data.tags[SWEEP] == json.loads((run / "run.json").read_text())["id"]
    assert parent.info.status == "FAILED"
    one = children[CONFIGS[1].identity]
    assert one.info.run_name == "s1 width:1 clean"
    assert (one.info.start_time, one.info.end_time) == (T0 + 1000, T0 + 20_000)
    final = client.get_metric_history(one.info.run_id, "test/linear/paper/accuracy")
    assert [(m.step, m.value) for m in final] == [(0, 0.6)]
    assert one.data.metrics["student/parameters"] == 3
    assert one.data.metrics["student/macs"] == 4
    assert not any(name.startswith("teacher") for name in one.data.metrics)
    steps = [m.step for m in client.get_metric_history(one.info.run_id, "train/loss")]
    assert steps == [4, 8]
    tags = one.data.tags
    assert (tags["seed"], tags["arm"], tags["capacity"]) == ("1", "clean", "width:1")
    assert (tags["shards"], tags["bank"]) == ("5" * 64, "banks/one")
    assert one.data.params["test_arms"] == "noise:0.05, noise:0.1, noise:0.2"
    (given,) = one.inputs.dataset_inputs
    assert (given.dataset.digest, given.tags[0].value) == ("5" * 36, "training")
    files = [f.path for f in client.list_artifacts(one.info.run_id)]
    assert files == ["config.yaml", "environment.json", "spectrum.png", "student"]
    failed = children[CONFIGS[2].identity]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["sweep.error"] == "ValueError: of its own"
    note = client.get_experiment(one.info.experiment_id).tags["mlflow.note.content"]
    assert "| `rank/effective` | dimensions |" in note


def test_tables_read_from_mlflow_are_those_of_the_journal(run: Path) -> None:
    other = make_config(FIELDS | {"seed": 3, "data_seed": 5, "adapt_arms": []})
    finish(run, other, reference=0.7)
    planned = PlannedTrial(steps=8, work=1.0, weight=1.0)
    record = open_record(run, str(run), "family")
    record_sweep(str(run), record, {c.identity: planned for c in (*CONFIGS, other)})
    assert sync(run) == 0
    tracked, kept = load(f"sqlite:///{run / 'mlflow.db'}"), load(run)
    assert set(tracked.trials) == set(kept.trials)
    unlike = {"run", "started_ms"}  # a trial that never started has in MLflow the time of its run
    for study in (tracked, kept):
        study.trials.sort_values("trial", inplace=True, ignore_index=True)
        study.curves.sort_values(["trial", "step"], inplace=True, ignore_index=True)
    finished = kept.trials["status"] == "finished"
    for name in set(kept.trials) - unlike:
        assert list(tracked.trials[name][finished]) == list(kept.trials[name][finished]), name
    assert set(kept.trials["teacher/linear/paper/accuracy"].dropna()) == {0.7, 0.9}
    values = [study.curves.drop(columns="run").to_dict("list") for study in (tracked, kept)]
    assert values[0] == values[1]


def test_a_copied_folder_makes_no_second_set_and_two_teachers_stay_apart(
    run: Path, tmp_path: Path
) -> None:
    assert sync(run) == 0
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run, copy)
    other = make_config(FIELDS | {"seed": 3, "data_seed": 5})
    finish(copy, other, reference=0.7)
    planned = PlannedTrial(steps=8, work=1.0, weight=1.0)
    record = open_record(copy, str(copy), "family")
    record_sweep(str(copy), record, {c.identity: planned for c in (*CONFIGS, other)})
    uri = f"sqlite:///{run / 'mlflow.db'}"
    assert sync(copy, "--tracking-uri", uri) == 0
    _, parent, children = client_of(run / "mlflow.db")
    assert len(children) == 4
    assert parent.data.metrics == {
        "teacher/linear/paper/accuracy": 0.9,
        "teacher 2/linear/paper/accuracy": 0.7,
    }
    assert "data seed 5" in parent.data.tags["teacher 2"]


def test_a_folder_of_an_earlier_version_has_its_journal_alone(run: Path, tmp_path: Path) -> None:
    assert sync(run) == 0
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(run / "journal.jsonl", old)
    base = f"sqlite:///{run / 'mlflow.db'}"
    assert sync(old, "--tracking-uri", base) == 0
    from mlflow.tracking import MlflowClient

    client = MlflowClient(base)
    experiment = client.get_experiment_by_name("old")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == 1 + len(CONFIGS)
    assert {r.info.status for r in found if PARENT not in r.data.tags} == {"FAILED"}


@pytest.mark.faults
def test_files_that_cannot_be_stored_are_named_and_the_values_arrive(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "mlartifacts").write_text("not a folder")
    assert sync(run) == 1
    err = capsys.readouterr().err
    assert "its artifacts were not stored: " in err
    assert all(config.identity in err for config in CONFIGS[:2])
    _, _, children = client_of(run / "mlflow.db")
    one = children[CONFIGS[0].identity]
    assert "test/linear/paper/accuracy" in one.data.metrics
    assert one.info.status == "FINISHED"
    (run / "mlartifacts").unlink()
    assert sync(run) == 0


def test_the_uploader_is_a_process_and_stores_the_report(run: Path) -> None:
    assert sync(run) == 0
    note_failure(trial_folder(str(run), CONFIGS[2]), CONFIGS[2], "ValueError: another")
    report = run / "report.html"
    report.write_text("<html></html>")
    uri = f"sqlite:///{run / 'mlflow.db'}"
    with Uploader(run, "family", uri) as uploader:
        uploader.start()
        assert uploader._process is not None
        # Every user of the machine can read the arguments, and a URI may hold a password.
        assert uri not in repr(uploader._process.args)
        assert uploader.finish("FINISHED", report) == []
    assert experiment_address("http://h:1/", uploader.experiment) == (
        "http://h:1/#/experiments/1/runs?workflowType=machine_learning"
    )
    client, parent, _ = client_of(run / "mlflow.db")
    assert parent.info.status == "FINISHED"
    assert [f.path for f in client.list_artifacts(parent.info.run_id)] == ["report.html"]


def test_the_uploader_starts_with_the_first_new_row(run: Path) -> None:
    assert sync(run) == 0
    with Uploader(run, "family", f"sqlite:///{run / 'mlflow.db'}") as uploader:
        time.sleep(1)
        assert uploader._process is None
        journal = run / "journal.jsonl"
        journal.write_text(journal.read_text() + journal.read_text().splitlines()[0] + "\n")
        end = time.monotonic() + 30
        while uploader._process is None and time.monotonic() < end:
            time.sleep(0.05)
        process = uploader._process
        assert process is not None
    assert process.poll() is not None  # leaving ends it


@pytest.mark.faults
def test_an_interrupted_sweep_leaves_no_run_running(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving without `finish` is what Ctrl-C comes to, of which the process hears nothing."""
    monkeypatch.setattr(uploader_module, "GRACE", 120.0)  # a busy machine takes several seconds
    assert sync(run) == 0
    journal = Journal(run)
    begun = make_config(FIELDS | {"seed": 7})
    fields = begun.model_dump(mode="json")
    journal.append(StartEvent(trial=begun.identity, config=fields, time_ms=T0))
    journal.close()
    with Uploader(run, "family", f"sqlite:///{run / 'mlflow.db'}") as uploader:
        uploader.start()
        process = uploader._process
        assert process is not None
        assert os.getpgid(process.pid) != os.getpgid(0)
        mark = next(run.glob(".uploaded-????????"))
        end = time.monotonic() + 300
        while json.loads(mark.read_bytes())["status"] != "RUNNING" and time.monotonic() < end:
            time.sleep(0.1)
        assert client_of(run / "mlflow.db")[1].info.status == "RUNNING"
    _, parent, children = client_of(run / "mlflow.db")
    assert (parent.info.status, children[begun.identity].info.status) == ("KILLED", "KILLED")


@pytest.mark.faults
def test_an_uploader_that_dies_is_one_line(run: Path) -> None:
    with Uploader(run, "family", f"sqlite:///{run / 'mlflow.db'}") as uploader:
        uploader.start()
        assert uploader._process is not None
        uploader._process.kill()
        uploader._process.wait()
        (line,) = uploader.finish("FINISHED")
    assert "its process ended with -9" in line
    assert f"python -m sweep.sync {run}" in line
