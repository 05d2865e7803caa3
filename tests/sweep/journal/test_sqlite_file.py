"""MLflow's SQLite file on a full disk, and two sweeps that make the same file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.journal import sqlite_file
from sweep.journal.mlflow_uri import default_uri
from sweep.journal.tracking import Tracker
from tests.faults.test_full_disk import files_of_at_most
from tests.sweep.journal.test_tracking import by_trial, empty_database, trial, write

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.journal.tracking.LAST_PAUSES", (0.01,))


def upload(folder: Path) -> Tracker:
    tracker = Tracker(folder, "small", default_uri(folder))
    tracker.start()
    tracker.finish(120)
    return tracker


def test_a_database_that_cannot_be_made_is_one_line_and_is_made_later(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", *trial(0), *trial(1))
    (folder / "mlflow.db").unlink()
    before = sorted(path.name for path in folder.iterdir())
    with files_of_at_most(300_000):
        (line,) = upload(folder).warnings()
    assert f"no space to write {folder}/mlflow.db: " in line
    assert "bytes needed" in line
    assert f"`python -m sweep.sync {folder}` uploads the rest" in line
    found = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".uploaded"))
    assert found == before
    assert not upload(folder).warnings()
    assert set(by_trial(folder)) == {"trial0", "trial1"}


def test_a_database_that_cannot_grow_refuses_no_trial_and_gets_all_later(tmp_path: Path) -> None:
    many = {f"test/{number}": 1.0 for number in range(2000)}
    folder = write(tmp_path / "run", *trial(0), *trial(1, many))
    with files_of_at_most((folder / "mlflow.db").stat().st_size + 50_000):
        tracker = upload(folder)
    (line,) = tracker.warnings()
    assert tracker.refused == {}
    assert f"{folder}/mlflow.db: disk I/O error" in line
    assert "SQL" not in line
    assert not upload(folder).warnings()
    found = by_trial(folder)
    assert found["trial0"].data.metrics == {"test/x": 0.0}
    assert found["trial1"].data.metrics == many


def test_two_sweeps_that_make_one_database_do_not_replace_each_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, made = threading.Barrier(2), empty_database()

    def late() -> bytes:
        both.wait(60)
        return made

    monkeypatch.setattr(sqlite_file, "_empty_database", late)
    uri, seen = f"sqlite:///{tmp_path}/m.db", list[int]()

    def make() -> None:
        sqlite_file.make_database(uri)
        seen.append((tmp_path / "m.db").stat().st_ino)

    run_at_once(make, make)
    assert len(set(seen)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m.db"]


def run_at_once(*calls: Callable[[], Any]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b%3Fc%2Fm.db", "/a/b?c/m.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("http://host/m.db", None),
    ],
)
def test_the_file_of_a_uri(uri: str, path: str | None) -> None:
    assert sqlite_file.database_path(uri) == (Path(path) if path else None)
