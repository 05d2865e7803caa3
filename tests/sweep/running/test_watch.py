"""What the driver hears of trials whose duration ends inside an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep.journal.events import Journal
from sweep.planning.sizes import trial_weight
from sweep.running.watch import TRAINING, Watch
from trainers.canonical import make_config

FIELDS = {
    "dataset": "digits", "teacher": "embedded", "student": "width:1", "train_samples": 200,
    "test_samples": 60, "batch_size": 50,
}  # fmt: skip
ROWS = [
    {"step": 4, "epoch": 1, "loss": 0.5, "time_ms": 7},
    {"step": 5, "epoch": 1.25, "loss": 0.4, "time_ms": 8},
]


@pytest.mark.parametrize("duration", ["5 steps", "250 samples", "1.25 epochs"])
def test_progress_is_by_steps(tmp_path: Path, tools: Any, duration: str) -> None:
    config = make_config(FIELDS | {"duration": duration})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    shares = [watch.done()]
    for row in ROWS:
        watch(config.identity, "epoch", row)
        shares.append(watch.done())
    weight = trial_weight(config)
    assert watch.total() == weight
    assert shares == pytest.approx([0, TRAINING * weight * 4 / 5, TRAINING * weight])
    written = tools.events(tmp_path, "epoch")
    assert [(e["step"], e["values"]["epoch"]) for e in written] == [(4, 1), (5, 1.25)]


def test_a_trial_that_trains_nothing_has_no_progress_before_its_end(tmp_path: Path) -> None:
    config = make_config(FIELDS | {"epochs": 0})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    assert watch.done() == 0
    watch(config.identity, "failed", {"error": "of its own"})
    assert watch.done() == pytest.approx(watch.total())
