"""plan.json keeps what each start of a sweep expected, and the program that ran it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sweep.planning import recorded_plan
from sweep.planning.recorded_plan import program_commit, read_plan, record_plan


def test_each_start_is_kept_in_order(tmp_path):
    assert read_plan(tmp_path).starts == ()
    record_plan(tmp_path, {"a": 1.5}, 20.0)
    record_plan(tmp_path, {}, None)
    first, second = read_plan(tmp_path).starts
    assert (first.seconds, first.wall_seconds) == ({"a": 1.5}, 20.0)
    assert (second.seconds, second.wall_seconds) == ({}, None)
    assert first.started_ms <= second.started_ms


def test_the_commit_is_that_of_the_programs_own_repository(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    file = tmp_path / "program.py"
    file.write_text("1")
    monkeypatch.setattr(recorded_plan, "__file__", str(file))
    assert program_commit() is None
    git("init")
    assert program_commit() is None  # somebody else's repository
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "first")
    commit = program_commit()
    assert commit is not None
    assert len(commit) == 40
    file.write_text("2")
    assert program_commit() == f"{commit}+changes"


def test_a_damaged_plan_is_named(tmp_path):
    Path(tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json: not readable"):
        read_plan(tmp_path)
