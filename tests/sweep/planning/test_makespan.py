"""When the last of many trials ends, whatever each of them occupies."""

from __future__ import annotations

import pytest

from sweep.planning.makespan import makespan


def test_the_longest_trials_go_first_and_shares_are_kept() -> None:
    assert makespan([(3, 1), (3, 1), (2, 1), (2, 1), (2, 1)], 2) == 7
    assert makespan([(4, 2), (4, 1), (4, 1)], 2) == 8
    assert makespan([(4, 0.5)] * 4, 1) == 8
    assert makespan([(1, 0.1)] * 20, 1) == 2
    assert makespan([], 3) == 0


def test_small_trials_take_the_room_that_a_large_one_waits_for() -> None:
    assert makespan([(3, 2), (4, 1), (2, 1), (2, 1)], 2) == 7
    assert makespan([(10, 2), (1, 1), (1, 1)], 2, running=[(5, 1)]) == 15


def test_it_begins_with_what_runs() -> None:
    assert makespan([], 2, running=[(5, 1), (3, 1)]) == 5
    assert makespan([(4, 1)], 2, running=[(5, 1), (3, 1)]) == 7
    assert makespan([(4, 1)], 2, start=10) == 14


def test_no_more_run_at_a_time_than_may() -> None:
    assert makespan([(3, 0.5)] * 4, 4, most=2) == 6
    assert makespan([(4, 1)], 3, running=[(5, 1), (3, 1)], most=2) == 7


def test_what_needs_more_than_there_is_gets_all_of_it() -> None:
    assert makespan([(3, 4), (2, 1)], 2) == pytest.approx(5)
    assert makespan([(3, 1)], 1, running=[(2, 2)]) == 5
