"""After a kill a trial goes on from its newest checkpoint; the check of that sees when it does not.

The chaos makes the check after every round (invariant I6). Here trials are ended inside a process,
and the code that resumes them is broken on purpose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.faults.chaos.redone import MARGIN, Redone, Seen, redone
from trainers.results.folder import trial_folder
from trainers.results.trial_journal import TrialJournal
from trainers.runner import run_trial
from trainers.training.checkpoint import Checkpoints

pytestmark = pytest.mark.faults

INTERVAL = 0.3


class Killed(BaseException):
    """In the place of SIGKILL: no code of the trial handles it."""


def attempts(bank: str, config: Any, root: Path, ends: list[int]) -> Seen:
    """A trial that is ended after so many epochs of each attempt, saved at every step."""
    seen = Seen(Path(trial_folder(str(root), config)))
    for end in ends:
        rows: list[dict[str, Any]] = []

        def report(values: dict[str, Any], rows: list[Any] = rows, end: int = end) -> None:
            rows.append(values)
            if len(rows) == end:
                raise Killed

        with pytest.raises(Killed):
            run_trial(config, bank, str(root), report, save_seconds=0.0)
        seen.look()
    assert run_trial(config, bank, str(root), save_seconds=0.0)
    return seen


def test_attempts_go_on_from_the_newest_checkpoint(bank: str, make: Any, tmp_path: Path) -> None:
    config = make(epochs=4, probes=("spectrum",))
    seen = attempts(bank, config, tmp_path, [1, 2])
    most, found = redone(seen, INTERVAL)
    assert found == []
    assert (most.attempts, most.from_checkpoint, most.steps) == (2, 2, 0)


@pytest.mark.parametrize("broken", ["oldest", "none"])
def test_a_trial_that_goes_on_from_too_early_is_seen(
    bank: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def latest(self: Checkpoints) -> Any:
        steps = self.steps()
        return self.load(steps[0]) if steps and broken == "oldest" else None

    monkeypatch.setattr(Checkpoints, "latest", latest)
    config = make(epochs=4, probes=("spectrum",))
    most, found = redone(attempts(bank, config, tmp_path, [2, 1]), INTERVAL)
    assert most.from_checkpoint == 2
    assert len([line for line in found if "though there was a checkpoint of step" in line]) == 2


def played(folder: Path, config: Any, kept: int, seconds: float, missing: bool = False) -> Seen:
    """Two attempts by their rows alone: the second goes on from `kept`, others are redone.

    seconds: from the end of an epoch of four steps to the next.
    """
    now = [1000.0]
    for step, steps in ((0, range(4, 24, 4)), (kept, range(24, 33, 4))):
        journal = TrialJournal(str(folder), config, clock=lambda: now[0])
        journal.start()
        if not missing:
            journal.resumed(step)
        for at in steps:
            now[0] += seconds
            row = {"step": at, "epoch": at // 4, "loss": 1.0, "time_ms": int(1000 * now[0])}
            journal.epoch(row)
        journal.close()
        now[0] += 60.0
    (folder / "result.json").write_text("{}")
    return Seen(folder)


@pytest.mark.parametrize(
    ("kept", "seconds", "steps", "again"),
    [(20, 9.0, 0, 0.0), (16, 9.0, 4, 0.0), (8, 0.1, 12, 0.2), (0, 0.05, 20, 0.25)],
)
def test_less_than_an_interval_may_be_trained_again(
    tmp_path: Path, make: Any, kept: int, seconds: float, steps: int, again: float
) -> None:
    """Of rows, however slow: with one row after the checkpoint its time says nothing."""
    most, found = redone(played(tmp_path, make(), kept, seconds), INTERVAL)
    assert found == []
    assert most == Redone(1, 0, steps, pytest.approx(again, abs=0.002))


@pytest.mark.parametrize(("kept", "seconds"), [(8, 0.21), (0, 0.09), (0, 2.0)])
def test_more_than_an_interval_may_not(
    tmp_path: Path, make: Any, kept: int, seconds: float
) -> None:
    most, (line,) = redone(played(tmp_path, make(), kept, seconds), INTERVAL)
    assert most.seconds >= INTERVAL + MARGIN
    assert f"attempt 2 went on from step {kept}: {most.seconds:g} s of training again" in line


def test_a_journal_without_the_step_is_no_proof(tmp_path: Path, make: Any) -> None:
    most, (line,) = redone(played(tmp_path, make(), 20, 0.1, missing=True), INTERVAL)
    assert most.attempts == 0
    assert line.endswith("its journal does not say where it went on last")


def test_a_checkpoint_counts_for_attempts_that_begin_after_it_was_seen(
    make: Any, tmp_path: Path
) -> None:
    """One that began before may have looked too early."""
    seen = Seen(tmp_path)
    for begins, step in ((0, 0), (1, 4), (0, 8), (2, 12)):
        for _ in range(begins):
            journal = TrialJournal(str(tmp_path), make())
            journal.start()
            journal.close()
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        seen.look()
    assert [seen.before(attempt) for attempt in range(5)] == [0, 8, 8, 12, 12]
