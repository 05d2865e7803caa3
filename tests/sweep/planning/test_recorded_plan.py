"""plan.json keeps what each start of a sweep expected, and the program that ran it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.planning import recorded_plan
from sweep.planning.recorded_plan import read_plan, record_plan


def test_each_start_is_kept_in_order(tmp_path):
    assert read_plan(tmp_path).starts == ()
    record_plan(tmp_path, trial_seconds={"a": 1.5}, wall_seconds=20.0, money=0.5)
    record_plan(tmp_path)
    first, second = read_plan(tmp_path).starts
    assert (first.trial_seconds, first.wall_seconds, first.money) == ({"a": 1.5}, 20.0, 0.5)
    assert (second.trial_seconds, second.wall_seconds, second.money) == ({}, None, None)
    assert first.started_ms <= second.started_ms


def test_the_program_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded_plan, "commit_of_code", lambda: "0123456789ab")
    record_plan(tmp_path)
    monkeypatch.setattr(recorded_plan, "commit_of_code", lambda: "")
    record_plan(tmp_path)
    assert [start.commit for start in read_plan(tmp_path).starts] == ["0123456789ab", None]


def test_a_damaged_plan_is_named(tmp_path):
    Path(tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json: not readable"):
        read_plan(tmp_path)
