"""The status of a sweep from its store alone, and which sweep a folder or a store is."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shards.support.lease import ours, take
from sweep.journal.overview import counts, view
from sweep.journal.run_record import (
    TRAINING,
    PlannedTrial,
    find_sweep,
    open_record,
    record_sweep,
    sweeps_in,
)
from sweep.journal.status import StatusReader
from sweep.status import main
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig
from trainers.results.folder import trial_folder
from trainers.results.lease import lease_folder
from trainers.results.trial_journal import TrialJournal, note_failure

FIELDS = {"dataset": "digits", "teacher": "embedded", "student": "width:1", "arm": "clean"}
CONFIGS = [make_config(FIELDS | {"seed": seed}) for seed in range(5)]


def journal_at(folder: Path, config: TrialConfig, seconds: float) -> TrialJournal:
    return TrialJournal(trial_folder(str(folder), config), config, clock=lambda: seconds)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Five trials of 10 steps: finished, running, interrupted, failed, waiting."""
    folder = tmp_path / "run"
    folder.mkdir()
    record = open_record(folder, str(folder), "small")
    planned = PlannedTrial(steps=10, work=1.0, weight=2.0)
    record_sweep(str(folder), record, {config.identity: planned for config in CONFIGS})
    for config, rows in zip(CONFIGS[:4], (10, 4, 6, 2), strict=True):
        journal = journal_at(folder, config, 1000.0)
        journal.start()
        journal.resumed(0)
        for step in range(2, rows + 1, 2):
            row = {"step": step, "epoch": step / 10, "loss": 1 / step}
            journal.epoch(row | {"time_ms": 1_000_000 + 1_000 * step})
        journal.close()
        if rows == 10:
            ended = journal_at(folder, config, 1012.0)
            ended.finished("bank")
            ended.leave()
            Path(trial_folder(str(folder), config), "result.json").write_text("{}")
    for config, released in ((CONFIGS[1], False), (CONFIGS[2], True)):
        lease = take(lease_folder(str(folder), config), ours("trial"))
        if released:
            lease.release()
    note_failure(trial_folder(str(folder), CONFIGS[3]), CONFIGS[3], "ValueError: of its own")
    return folder


def test_every_trial_is_in_its_state(store: Path) -> None:
    found = StatusReader(*find_sweep(str(store)), clock=lambda: 1004.0).read()
    assert (found.total, found.finished, found.running) == (5, 1, 1)
    assert (found.failed, found.interrupted, found.waiting) == (1, 1, 1)
    assert (found.steps_done, found.steps) == (10 + 4 + 6 + 2, 50)
    assert found.share == pytest.approx((1 + TRAINING * 0.4 + 1) / 5)
    assert found.steps_per_second == pytest.approx(1.0)
    # Three at a time, so two wait for nothing: 0.5 s, 10 steps, and 2 s of measuring, of which
    # some is what only the first trial does.
    assert found.remaining_seconds == pytest.approx(0.5 + 10 + 2 / 1.6)
    location, sweep = find_sweep(str(store))
    one_slot = StatusReader(location, sweep.model_copy(update={"slots": 1}), clock=lambda: 1004.0)
    seconds = one_slot.read().remaining_seconds  # the two then wait for the one that runs
    assert seconds == pytest.approx(6 + 2 * (0.5 + 10) + 3 * 2 / 1.6, abs=1.0)
    (one,) = found.now
    assert (one.trial, one.step, one.steps, one.loss) == (CONFIGS[1].identity, 4, 10, 0.25)
    assert one.label == "seed 1, width:1, clean"
    (failure,) = found.failures
    assert (failure.trial, failure.error) == (CONFIGS[3].identity, "ValueError: of its own")
    expected = "1/5 trials, 1 running, 1 failed, 1 interrupted, 1 waiting, 1 steps/s"
    assert counts(found) == expected
    assert one.holder == str(ours("trial").process)
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(view(found, 3.0))
    shown = console.export_text()
    assert "47%" in shown
    assert "0:03 elapsed 0:11 left" in shown
    assert "seed 1, width:1, clean  step 4/10  loss 0.2500" in shown


@pytest.mark.parametrize(("event", "state"), [("failed", "failed"), ("stopped", "stopped early")])
def test_a_trial_that_ended_before_it_began_is_not_waiting(
    store: Path, event: str, state: str
) -> None:
    """As one does whose bank has another teacher than it demands."""
    for config in (CONFIGS[2], CONFIGS[4]):
        note_failure(trial_folder(str(store), config), config, "ValueError: of others", event)
    journal_at(store, CONFIGS[2], 1003.0).start()  # it is tried again, and has no end any more
    found = StatusReader(*find_sweep(str(store)), clock=lambda: 1004.0).read()
    assert found.waiting == 0
    ends = {one.trial: one.error for one in (*found.failures, *found.stops)}
    assert ends == {
        CONFIGS[3].identity: "ValueError: of its own",
        CONFIGS[4].identity: "ValueError: of others",
    }
    assert f"{1 + (event == 'failed')} failed" in counts(found)
    assert f"1 {state}" in counts(found) or event == "failed"
    assert found.share == pytest.approx((1 + TRAINING * 0.4 + 1 + 1) / 5)


def test_a_result_of_an_earlier_version_without_a_journal_is_done(store: Path) -> None:
    for config in CONFIGS:
        folder = Path(trial_folder(str(store), config))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "result.json").write_text("{}")
    found = StatusReader(*find_sweep(str(store)), clock=lambda: 1004.0).read()
    assert (found.finished, found.share, found.remaining_seconds) == (5, 1.0, 0.0)


def left(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_the_command_reads_a_folder_or_its_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left(str(store), "--json") == 0
    whole: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (whole["name"], whole["finished"]) == ("small", 1)
    elsewhere = tmp_path / "only the store"
    shutil.copytree(store, elsewhere)
    (elsewhere / "run.json").unlink()
    assert left(str(elsewhere)) == 0
    shown = capsys.readouterr().out
    assert f"failed: {CONFIGS[3].identity} (seed 3, width:1, clean): ValueError: of" in shown
    assert "\x1b" not in shown


def test_several_sweeps_in_one_store_are_told_apart(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    record = open_record(other, str(store), "other")
    record_sweep(str(store), record, {"x" * 16: PlannedTrial(steps=1, work=1.0, weight=1.0)})
    assert len(sweeps_in(str(store))) == 2
    assert left(str(other), "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 1
    (other / "run.json").unlink()
    (store / "run.json").unlink()
    assert left(str(store)) == 2
    assert "several sweeps, choose one with --sweep: " in capsys.readouterr().err
    assert left(str(store), "--sweep", "small", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 5


@pytest.mark.parametrize("make", [True, False])
def test_where_there_is_no_sweep_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool
) -> None:
    if make:
        (tmp_path / "x").mkdir()
    assert left(str(tmp_path / "x")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ("no such folder" if not make else "no sweep in sweeps/") in line


def test_a_copied_or_moved_folder_is_the_same_run(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    record = open_record(first, str(first), "small")
    shutil.copytree(first, second)
    again = open_record(second, str(second), "another name")
    assert again == record
    assert again.store_of(second) == str(second.resolve())
    moved = open_record(second, "s3://bucket/x", "small")
    assert (moved.id, moved.store) == (record.id, "s3://bucket/x")


def test_trials_of_earlier_commands_stay_known(tmp_path: Path) -> None:
    record = open_record(tmp_path, str(tmp_path), "small")
    planned = PlannedTrial(steps=1, work=1.0, weight=1.0)
    for names in ("ab", "bc"):
        record_sweep(str(tmp_path), record, dict.fromkeys(names, planned))
    (sweep,) = sweeps_in(str(tmp_path))
    assert list(sweep.trials) == ["b", "c"]
    assert sweep.identities == ["a", "b", "c"]
