"""The best draw of a search: by the validation split, over all seeds, of finished trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep.analysis.best import best_lines
from sweep.analysis.frame import load
from sweep.journal.events import Journal, ResultEvent, StartEvent, StoppedEvent
from sweep.planning.search import Search
from tests.sweep.made import made

SEARCH = Search.model_validate(
    {"by": "random", "trials": 3, "metric": "ridge/accuracy", "mode": "max"}
    | {"ranges": {"lr": {"log": [1e-4, 1e-1]}}}
)


def record(lr: float, seed: int, last: float, student: str = "width:1") -> dict[str, Any]:
    name = "validation/ridge/accuracy"
    config = {"dataset": "digits", "teacher": "embedded", "arm": "clean", "validation_samples": 9}
    return {
        "id": f"{student}-{lr}-{seed}",
        "config": config | {"student": student, "seed": seed, "lr": lr},
        "metrics": {"test/linear/paper/accuracy": 1 - last},  # of test images the other is better
        "observations": {
            "rows": [
                {"step": 4, "epoch": 1, "values": {name: 0.99}},
                {"step": 8, "epoch": 2, "values": {name: last}},
            ],
            "teacher": {},
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    journal = Journal(tmp_path)
    for lr, seed, last in ((0.1, 0, 0.5), (0.1, 1, 0.7), (0.01, 0, 0.9), (0.01, 1, 0.2)):
        one = record(lr, seed, last)
        journal.append(ResultEvent(trial=one["id"], record=made(one)))
    finished, stopped = record(0.001, 0, 0.95), record(0.001, 1, 0.0)
    journal.append(ResultEvent(trial=finished["id"], record=made(finished)))
    journal.append(StartEvent(trial=stopped["id"], config=stopped["config"]))
    journal.append(StoppedEvent(trial=stopped["id"], config=stopped["config"], error="too low"))
    journal.close()
    return tmp_path


def test_the_mean_over_all_seeds_decides(folder: Path) -> None:
    study = load(folder)
    every = set(study.trials["trial"])
    # 0.001 has the highest value in one seed, and another seed was stopped.
    assert best_lines(study, SEARCH, every) == [
        "best of 2 draws: lr 0.1; validation/ridge/accuracy 0.6 (mean of 2 seeds)"
    ]
    least = SEARCH.model_copy(update={"mode": "min"})
    assert "lr 0.01; validation/ridge/accuracy 0.55" in best_lines(study, least, every)[0]
    assert best_lines(study, SEARCH, {f"width:1-{lr}-0" for lr in (0.1, 0.01)}) == [
        "best of 2 draws: lr 0.01; validation/ridge/accuracy 0.9"
    ]


def test_each_combination_of_the_axes_has_a_best_of_its_own(folder: Path) -> None:
    journal = Journal(folder)
    for lr, last in ((0.1, 0.1), (0.01, 0.3)):
        one = record(lr, 0, last, "width:4")
        journal.append(ResultEvent(trial=one["id"], record=made(one)))
    journal.close()
    study = load(folder)
    first, second = best_lines(study, SEARCH, set(study.trials["trial"]))
    assert first.startswith("student width:1: best of 2 draws: lr 0.1;")
    assert second == "student width:4: best of 2 draws: lr 0.01; validation/ridge/accuracy 0.3"


def test_without_a_finished_draw_it_says_so(folder: Path) -> None:
    study = load(folder)
    assert best_lines(study, SEARCH, {"width:1-0.001-1"}) == ["no draw of 1 has finished"]
