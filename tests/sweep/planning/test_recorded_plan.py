"""plan.json keeps what each start of a sweep expected, and the program that ran it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.planning import recorded_plan
from sweep.planning.recorded_plan import read_plan, record_plan


def test_each_start_is_kept_in_order(tmp_path):
    assert read_plan(tmp_path).starts == ()
    record_plan(tmp_path, {"a": 1.5}, 20.0)
    record_plan(tmp_path, {}, None)
    first, second = read_plan(tmp_path).starts
    assert (first.seconds, first.wall_seconds) == ({"a": 1.5}, 20.0)
    assert (second.seconds, second.wall_seconds) == ({}, None)
    assert first.started_ms <= second.started_ms


def test_the_program_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded_plan, "commit_of_code", lambda: "0123456789ab")
    record_plan(tmp_path, {}, None)
    monkeypatch.setattr(recorded_plan, "commit_of_code", lambda: "")
    record_plan(tmp_path, {}, None)
    assert [start.commit for start in read_plan(tmp_path).starts] == ["0123456789ab", None]


def test_a_damaged_plan_is_named(tmp_path):
    Path(tmp_path / "plan.json").write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json: not readable"):
        read_plan(tmp_path)
