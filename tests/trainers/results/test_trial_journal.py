"""A trial's own journal: every row stored before it is reported, none twice, whatever is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shards.support import storage
from trainers.results import trial_journal
from trainers.results.folder import trial_folder
from trainers.results.trial_journal import TrialJournal, note_failure, read_rows
from trainers.runner import run_trial
from trainers.training.preemption import PreemptedError
from trainers.training.state import TrainingState


def row(step, time_ms=0):
    return {"step": step, "epoch": step / 4, "loss": 1 / step, "time_ms": time_ms}


def journal_of(folder, make, seen=None, **options):
    return TrialJournal(str(folder), make(), (seen if seen is not None else []).append, **options)


def events(folder):
    return [row["event"] for row in read_rows(str(folder))]


def test_a_real_trial_leaves_its_rows_and_their_times(done):
    config, root, result, seen = done
    rows = read_rows(trial_folder(root, config))
    assert [r["event"] for r in rows] == ["start", "resumed", "epoch", "epoch", "finished"]
    assert {r["trial"] for r in rows} == {config.identity}
    assert rows[0]["config"] == config.model_dump(mode="json")
    assert rows[1]["step"] == 0
    assert [r["time_ms"] for r in rows[2:4]] == [epoch.time_ms for epoch in result.epochs]
    assert sorted(r["time_ms"] for r in rows) == [r["time_ms"] for r in rows]
    assert [r["step"] for r in rows[2:4]] == [r["step"] for r in seen]
    assert rows[4]["bank"]


def test_a_row_that_is_trained_again_keeps_its_first_time_in_the_result(done, bank, make, tmp_path):
    """Killed after the row was stored and before a checkpoint was."""
    config, first = make(epochs=1, probes=("spectrum",)), done[3][0]
    journal = TrialJournal(trial_folder(str(tmp_path), config), config)
    journal.epoch(first | {"time_ms": 5})
    journal.close()
    assert [e.time_ms for e in run_trial(config, bank, str(tmp_path)).epochs] == [5]


def test_a_row_is_on_disk_before_it_is_reported(tmp_path, make, monkeypatch):
    synced, seen = [], []
    monkeypatch.setattr(trial_journal.os, "fsync", synced.append)

    def report(values):
        assert synced
        seen.append((values["step"], events(tmp_path).count("epoch")))

    journal = TrialJournal(str(tmp_path), make(), report)
    for step in (4, 8):
        journal.epoch(row(step))
    journal.leave()
    assert seen == [(4, 1), (8, 2)]


@pytest.mark.parametrize("observed", [True, False])
def test_an_epoch_at_whose_end_a_trial_leaves_is_stored_and_reported(
    bank, make, tmp_path, monkeypatch, observed
):
    """It saves its state, and the next attempt trains from there on."""
    curve = {"curve_every": "1 epochs", "validation_samples": 50} if observed else {}
    config = make(epochs=3, probes=("spectrum",), **curve)
    seen: list[dict] = []
    leaves = [False]
    check = TrainingState._check

    def check_and_leave(self):
        leaves[0] = len(seen) == 1 and self.step == 2 * self.per_epoch
        check(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "_check", check_and_leave)
        with pytest.raises(PreemptedError):
            run_trial(config, bank, str(tmp_path), seen.append, stop=lambda: leaves[0])
    assert len(seen) == 1
    result = run_trial(config, bank, str(tmp_path), seen.append)
    rows = [r for r in read_rows(trial_folder(str(tmp_path), config)) if r["event"] == "epoch"]
    steps = [epoch.step for epoch in result.epochs]
    assert [r["step"] for r in rows] == [r["step"] for r in seen] == steps
    assert [r["time_ms"] for r in rows] == [epoch.time_ms for epoch in result.epochs]
    assert ["observed" in r for r in rows] == [observed] * 3
    assert [r.get("observed") for r in rows] == [r.get("observed") for r in seen]


def test_of_the_epochs_of_a_checkpoint_only_those_that_are_missing_are_reported(tmp_path, make):
    first = journal_of(tmp_path, make)
    first.epoch(row(4, 104))
    first.close()
    seen = []
    again = journal_of(tmp_path, make, seen)
    again.restored([row(4, 204), row(8, 208), row(12, 212)])
    again.leave()
    assert [r["step"] for r in seen] == [8, 12]
    rows = read_rows(str(tmp_path))
    assert [(r["step"], r["time_ms"]) for r in rows] == [(4, 104), (8, 208), (12, 212)]


@pytest.mark.faults
@pytest.mark.parametrize("cut", [1, 30])
def test_a_resumed_trial_repeats_no_row_and_keeps_the_first_times(tmp_path, make, cut):
    """Killed in the middle of a line; the next attempt reports the last epochs again."""
    first = journal_of(tmp_path, make)
    first.start()
    for step in (4, 8, 12):
        first.epoch(row(step, 100 + step))
    first.close()
    (part,) = (tmp_path / "journal").iterdir()
    part.write_bytes(part.read_bytes()[:-cut])
    seen = []
    again = journal_of(tmp_path, make, seen)
    again.start()
    again.resumed(4)
    for step in (8, 12, 16):
        again.epoch(row(step, 200 + step))
    again.finished("bank")
    again.finished("bank")
    again.leave()
    rows = [r for r in read_rows(str(tmp_path)) if r["event"] == "epoch"]
    assert [(r["step"], r["time_ms"]) for r in rows] == [(4, 104), (8, 108), (12, 212), (16, 216)]
    assert [r["time_ms"] for r in seen] == [108, 212, 216]
    stamped = again.stamped([row(4, 1), row(12, 1), row(20, 1)])
    assert [r["time_ms"] for r in stamped] == [104, 212, 1]
    assert events(tmp_path).count("finished") == 1
    assert sum(len(p.read_bytes().split(b"\n")) for p in (tmp_path / "journal").iterdir()) == 10


def test_the_step_of_a_resumed_attempt_is_noted_each_time_and_hides_no_epoch(tmp_path, make):
    """An attempt may go on from the very step of an epoch whose row was not stored."""
    seen = []
    for _ in range(2):
        journal = journal_of(tmp_path, make, seen)
        journal.start()
        journal.resumed(8)
        journal.close()
    journal = journal_of(tmp_path, make, seen)
    for step in (8, 12):
        journal.epoch(row(step, 100 + step))
    journal.leave()
    assert [r["time_ms"] for r in seen] == [108, 112]
    assert events(tmp_path) == ["start", "resumed", "start", "resumed", "epoch", "epoch"]


@pytest.mark.faults
def test_a_write_that_fails_midway_is_made_good_in_another_part(tmp_path, make, monkeypatch):
    journal = journal_of(tmp_path, make)
    journal.epoch(row(4))
    write = os.write
    monkeypatch.setattr(trial_journal.os, "write", lambda fd, data: write(fd, data[:20]))
    with pytest.raises(OSError, match="only 20 of"):
        journal.epoch(row(8))
    monkeypatch.undo()
    journal.epoch(row(12))
    journal.leave()
    assert [r["step"] for r in read_rows(str(tmp_path))] == [4, 8, 12]


def test_on_an_object_store_rows_are_put_together_and_reported_once_they_are_there(
    tmp_path, make, monkeypatch
):
    """Not a real store: what matters is that parts are put whole and a failed put is repeated."""
    monkeypatch.setattr(trial_journal.storage, "is_local", lambda location: False)
    seen, fail = [], [False]

    def put(location, data):
        if fail[0]:
            raise OSError("503")
        path = Path(location)
        path.parent.mkdir(exist_ok=True)
        assert not path.exists()
        path.write_bytes(data)

    monkeypatch.setattr(trial_journal.storage, "write", put)
    monkeypatch.setattr(trial_journal.storage, "names", lambda f: sorted(
        p.name for p in Path(f).iterdir()) if Path(f).exists() else [])  # fmt: skip
    monkeypatch.setattr(trial_journal.storage, "read", lambda f: Path(f).read_bytes())
    journal = journal_of(tmp_path, make, seen)
    journal.start()
    journal.epoch(row(4))
    journal.epoch(row(8))
    assert seen == []
    monkeypatch.setattr(trial_journal, "PUT_SECONDS", 0)
    monkeypatch.setattr(trial_journal, "RETRY_SECONDS", 0)
    fail[0] = True
    journal.epoch(row(12))
    assert seen == []
    fail[0] = False
    journal.epoch(row(16))
    assert [r["step"] for r in seen] == [4, 8, 12, 16]
    assert [r["step"] for r in read_rows(str(tmp_path)) if "step" in r] == [4, 8, 12, 16]
    assert len(list((tmp_path / "journal").iterdir())) == 2


@pytest.mark.faults
def test_a_process_that_lost_its_lease_stores_and_reports_nothing(tmp_path, make):
    seen = []

    def check():
        raise RuntimeError("taken over")

    journal = journal_of(tmp_path, make, seen, check=check)
    with pytest.raises(RuntimeError, match="taken over"):
        journal.epoch(row(4))
    assert (seen, events(tmp_path)) == ([], [])


@pytest.mark.faults
@pytest.mark.parametrize(
    "damage",
    ["{", "3", '{"event": "epoch"}', '{"event": "start"}', '{"event": "resumed", "time_ms": 1}'],
)
def test_a_damaged_row_is_named(tmp_path, make, damage):
    journal = journal_of(tmp_path, make)
    journal.epoch(row(4))
    journal.close()
    (part,) = (tmp_path / "journal").iterdir()
    part.write_text(damage + "\n" + part.read_text())
    with pytest.raises(ValueError, match=rf"{part.name}:1: not a row of a trial's journal"):
        read_rows(str(tmp_path))


def test_a_failure_is_noted_once_and_again_after_another_attempt(tmp_path, make):
    folder = str(tmp_path)
    for _ in range(2):
        note_failure(folder, make(), "its process died")
    journal = journal_of(tmp_path, make)
    journal.start()
    journal.close()
    note_failure(folder, make(), "its process died")
    assert events(tmp_path) == ["failed", "start", "failed"]
    assert read_rows(folder)[0]["error"] == "its process died"


def test_a_trial_that_fails_says_why_in_its_journal(bank, make, tmp_path):
    config = make()

    def report(values):
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        run_trial(config, bank, str(tmp_path), report)
    rows = read_rows(trial_folder(str(tmp_path), config))
    assert [r["event"] for r in rows] == ["start", "resumed", "epoch", "failed"]
    assert rows[-1]["error"] == "ValueError: of its own"
    assert json.loads(json.dumps(rows[-1]["config"])) == config.model_dump(mode="json")
    assert storage.below(str(tmp_path))[0].startswith(f"trials/{config.identity}/")
