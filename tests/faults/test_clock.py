"""The clock of a machine jumps by an hour while a trial runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.small_runs import without_times
from trainers.results.folder import trial_folder
from trainers.results.trial_journal import read_rows
from trainers.runner import run_trial
from trainers.training.preemption import PreemptedError

pytestmark = pytest.mark.faults
HOUR = 3600.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_an_hour_changes_no_order(
    bank: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Checkpoints are ordered by their steps, leases and rows by their generations and steps."""
    config, root = make(epochs=4, probes=("spectrum",)), str(tmp_path / "run")
    whole = run_trial(config, bank, str(tmp_path / "whole"))
    seen: list[Any] = []
    with pytest.raises(PreemptedError):
        run_trial(config, bank, root, seen.append, save_seconds=0, stop=lambda: len(seen) >= 2)
    folder = Path(trial_folder(root, config))
    real, kept = time.time, sorted((folder / "checkpoints").glob("step-*"))
    assert len(kept) == 2
    for older, place in enumerate(reversed(kept)):  # the newer, the earlier its files seem
        for path in (place, *place.iterdir()):
            os.utime(path, (real() + jump + older * HOUR,) * 2)
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    again: list[Any] = []
    result = run_trial(config, bank, root, again.append)
    assert [row["epoch"] for row in again] == [3, 4]  # from the newest checkpoint
    assert without_times(result) == without_times(whole)
    steps = [row["step"] for row in read_rows(str(folder)) if row["event"] == "epoch"]
    assert steps == [row.step for row in whole.epochs]
    weights = [
        (Path(trial_folder(str(place), config)) / "student" / "student.safetensors").read_bytes()
        for place in (root, tmp_path / "whole")
    ]
    assert weights[0] == weights[1]
