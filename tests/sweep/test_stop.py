"""`sweep.stop`: whom it asks, and what it says where there is nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.support.lease import is_stop_requested, ours, take
from sweep.journal.run_record import open_record
from sweep.running.holding import FOLDER
from sweep.stop import main
from trainers.canonical import make_config
from trainers.results.lease import lease_folder

CONFIG = make_config({"dataset": "digits", "teacher": "embedded", "student": "width:1"})


def stop(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_sweep_and_one_trial_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path)
    take(str(tmp_path / FOLDER), ours("sweep"))
    take(lease_folder(store, CONFIG), ours("trial"))
    assert stop(store, CONFIG.identity[:5]) == 0
    assert is_stop_requested(lease_folder(store, CONFIG))
    assert not is_stop_requested(str(tmp_path / FOLDER))
    assert stop(store) == 0
    assert is_stop_requested(str(tmp_path / FOLDER))
    process = f"process {os.getpid()} on "
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"asked {process}") for line in said] == [True, True]
    assert said[0].endswith(f"to stop trial {CONFIG.identity}")


def test_a_run_folder_leads_to_its_store(tmp_path: Path) -> None:
    run, store = tmp_path / "run", tmp_path / "store"
    open_record(run, str(store), "run")
    take(str(store / FOLDER), ours("sweep"))
    assert stop(str(run)) == 0
    assert is_stop_requested(str(store / FOLDER))


def test_an_empty_name_of_a_trial_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path)
    take(str(tmp_path / FOLDER), ours("sweep"))
    take(lease_folder(store, CONFIG), ours("trial"))
    assert stop(store, "") == 2
    assert "trial ``: an empty name; give an identity" in capsys.readouterr().err
    assert not is_stop_requested(str(tmp_path / FOLDER))
    assert not is_stop_requested(lease_folder(store, CONFIG))


def test_where_nothing_runs_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path)
    take(lease_folder(store, CONFIG), ours("trial")).release()
    for arguments, said in (
        ((store,), f"error: a sweep on {store}: none is running; nothing to stop\n"),
        ((store, CONFIG.identity), f"error: trial {CONFIG.identity}: none is running; nothing"),
        ((store, "xyz"), "trial `xyz`: no trial was begun that begins so; give its whole"),
    ):
        assert stop(*arguments) == 2
        assert said in capsys.readouterr().err
