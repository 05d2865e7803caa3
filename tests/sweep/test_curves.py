"""Curves of training: every row once in MLflow, one line a group in the report."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from sweep.analysis.frame import load
from sweep.environment import set_defaults
from sweep.journal.events import Journal, ResultEvent, StartEvent
from sweep.journal.tracking import Tracker
from sweep.reporting.page import material_of
from sweep.reporting.training import rank_by_epoch
from tests.sweep.made import made
from tests.sweep.reporting.trials import write_page

T0 = 1_700_000_000_000
RANKS = {0: [9.0, 7.0, 5.0], 1: [11.0, 5.0, 3.0]}  # by seed, at steps 0, 4 and 8


def record(seed: int, curves: bool = True, student: str = "width:1") -> dict[str, Any]:
    rows = [
        {
            "step": 4 * i,
            "epoch": i / 2,
            "values": {"rank/effective": rank, "cosine_to_teacher": i / 4},
        }
        for i, rank in enumerate(RANKS[seed])
    ]
    config = {"dataset": "digits", "teacher": "embedded", "student": student, "arm": "clean"}
    return {
        "id": f"{student}-{seed}",
        "config": config | {"seed": seed, "epochs": None, "duration": "8 steps"},
        "student": {"total": 0 if "pca" in student else 3},
        "metrics": {"test/rank/effective": 4.0, "test/cosine_to_teacher": 0.5},
        "teacher": {"teacher/rank/effective": 30.0},
        "epochs": [{"step": 8, "epoch": 1, "loss": 0.5, "time_ms": T0}],
        "observations": {"rows": rows if curves else [], "teacher": {"rank/effective": 20.0}},
    }


def journal(folder: Path, *records: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    book = Journal(folder)
    for number, one in enumerate(records):
        trial = f"trial{number}"
        book.append(StartEvent(trial=trial, config=one["config"], time_ms=T0))
        book.append(ResultEvent(trial=trial, record=made(one), time_ms=T0 + 100))
    book.close()


def test_every_row_is_logged_once_by_its_step(tmp_path: Path) -> None:
    set_defaults()
    journal(tmp_path, record(0), record(1), record(0, curves=False, student="teacher_pca:2"))
    base = tmp_path / "m.db"
    for _ in range(2):  # the second time as if nothing had been acknowledged
        tracker = Tracker(tmp_path, "small", f"sqlite:///{base}")
        tracker.start()
        assert tracker.finish(), tracker.error
        for mark in tmp_path.glob(".uploaded-*"):
            mark.unlink()
    with contextlib.closing(sqlite3.connect(base)) as database:
        query = "select run_uuid, key, step, value, timestamp from metrics where key like 'curve/%'"
        rows = database.execute(query).fetchall()
    assert len(rows) == len(set(rows)) == 2 * 3 * 3  # epoch, rank and cosine
    ranks = Counter((step, value) for _, key, step, value, _ in rows if key[-9:] == "effective")
    assert ranks == {(4 * i, rank): 1 for line in RANKS.values() for i, rank in enumerate(line)}
    # The row at an epoch's end has the epoch's time, those between have the result's.
    assert {(step, time) for *_, step, _, time in rows} == {(0, T0 + 100), (4, T0 + 100), (8, T0)}


def test_the_figure_says_where_mean_ranks_began_peaked_and_ended(tmp_path: Path) -> None:
    journal(tmp_path / "both", record(0), record(1))
    figure = rank_by_epoch(material_of(load(tmp_path / "both")))
    assert figure is not None
    assert "width:1 10.0, at most 10.0, then 4.0" in figure.alt
    journal(tmp_path / "none", record(0, curves=False))
    assert rank_by_epoch(material_of(load(tmp_path / "none"))) is None


def test_curves_of_validation_images_are_drawn_with_their_teacher_and_named(tmp_path: Path) -> None:
    held = record(0)
    for row in held["observations"]["rows"]:
        row["values"] = {f"validation/{name}": v for name, v in row["values"].items()}
    held["observations"]["teacher"] = {"validation/rank/effective": 20.0}
    held["config"]["validation_samples"] = 40
    journal(tmp_path, held)
    figure = rank_by_epoch(material_of(load(tmp_path)))
    assert figure is not None
    assert "width:1 9.0, at most 9.0, then 5.0" in figure.alt
    assert "clean validation images" in figure.caption
    assert "teacher 20" in write_page(tmp_path).read_text()


def test_the_report_has_it(tmp_path: Path) -> None:
    journal(tmp_path, record(0), record(1))
    page = write_page(tmp_path).read_text()
    assert "Rank against epochs" in page
    assert "8 steps" in page
    assert write_page(tmp_path).read_text() == page
