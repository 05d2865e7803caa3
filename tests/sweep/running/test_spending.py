"""No trial starts that `--budget` or `--deadline` has no room for; the same command goes on."""

from __future__ import annotations

import time

import pytest
from ray.tune.search import Searcher

from sweep.planning.limits import Limits, read_budget, read_deadline
from sweep.planning.placement import Placement
from sweep.running.spending import Spending, spent_before
from sweep.running.waiting import Entry, WaitingTrials

TRIALS = [f"t{i}" for i in range(6)]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def spending(folder, clock, slots=1, begun=(), **limits) -> Spending:
    """Trials of an estimated hour at a price of 1 an hour."""
    seconds, shares = dict.fromkeys(TRIALS, 3600.0), dict.fromkeys(TRIALS, 1.0)
    return Spending(
        folder, Limits(**limits), seconds, shares, 1.0, "USD",
        slots=slots, begun=begun, clock=clock,
    )  # fmt: skip


def run_one(found: Spending, clock: Clock, trial: str, seconds: float) -> None:
    assert found.may_start(trial)
    found.started(trial)
    clock.now += seconds
    found.ended(trial, whole=True)


def test_a_budget_counts_what_runs_and_what_it_has_seen(tmp_path) -> None:
    clock = Clock()
    found = spending(tmp_path, clock, money=5.0)
    run_one(found, clock, "t0", 7200)  # twice its estimate, as all others then count
    assert found.money() == pytest.approx(2.0)
    assert found.may_start("t1")
    assert not found.may_start("t2")  # 2 + 2 + 2 > 5
    assert found.stopped
    assert found.stopped.startswith("--budget 5.00 USD: 2.00 spent, 6.00 with")
    assert "\n" not in found.stopped


def test_the_same_command_with_more_goes_on(tmp_path) -> None:
    clock = Clock()
    first = spending(tmp_path, clock, money=1.5)
    run_one(first, clock, "t0", 3600)
    assert not first.may_start("t1")
    assert spent_before(tmp_path, "USD") == pytest.approx(1.0)
    again = spending(tmp_path, clock, money=1.5)
    assert not again.may_start("t1")
    more = spending(tmp_path, clock, money=2.5)
    assert more.may_start("t1")
    assert not more.may_start("t2")
    with pytest.raises(ValueError, match="spent in USD, the prices are in EUR"):
        spent_before(tmp_path, "EUR")


def test_a_deadline_counts_those_that_wait_for_room(tmp_path) -> None:
    clock = Clock()
    found = spending(tmp_path, clock, slots=2, deadline=clock.now + 2.5 * 3600)
    for trial in TRIALS[:4]:  # two now and two after them
        assert found.may_start(trial)
    assert not found.may_start("t4")
    assert found.stopped
    assert "30 min after" in found.stopped


def test_a_deadline_counts_the_room_that_gangs_take(tmp_path) -> None:
    clock = Clock()
    seconds, shares = dict.fromkeys(TRIALS, 3600.0), dict.fromkeys(TRIALS, 1.0)
    found = Spending(
        tmp_path, Limits(deadline=clock.now + 3.5 * 3600), seconds, shares, 1.0, "USD",
        slots=2, ranks=dict.fromkeys(TRIALS, 1) | {"t1": 2, "t3": 2}, clock=clock,
    )  # fmt: skip
    assert found.may_start("t0")
    assert found.may_start("t1")  # after the first, with both slots
    assert found.may_start("t2")
    assert not found.may_start("t3")  # two hours, then an hour of one slot
    assert found.stopped
    assert "30 min after" in found.stopped


def test_a_gang_that_was_not_planned_takes_the_room_of_the_others(tmp_path) -> None:
    clock = Clock()
    found = Spending(
        tmp_path, Limits(deadline=clock.now + 2.5 * 3600), {"t0": 3600.0}, {"t0": 2.0}, 1.0, "USD",
        slots=2, ranks={"t0": 2}, clock=clock,
    )  # fmt: skip
    assert found.may_start("proposed later")
    assert found.may_start("another one")
    assert not found.may_start("a third one")


def test_a_trial_that_was_not_planned_counts_as_the_others_do(tmp_path) -> None:
    clock = Clock()
    found = spending(tmp_path, clock, money=2.5)
    run_one(found, clock, "proposed later", 3600)
    assert found.money() == pytest.approx(1.0)
    assert found.may_start("another one")
    assert not found.may_start("a third one")


def test_tune_is_given_no_more_trials(tmp_path) -> None:
    clock = Clock()
    place = Placement(1, 1.0, 0.0)
    limited = spending(tmp_path, clock, money=2.5)
    waiting = WaitingTrials([Entry(t, place) for t in TRIALS], "s", 4, spending=limited)
    given = [waiting.suggest(str(i)) for i in range(3)]
    assert [one["trial"] for one in given[:2]] == ["t0", "t1"]
    assert given[2] == Searcher.FINISHED
    waiting.started("0")
    clock.now += 1800
    waiting.on_trial_complete("0")
    assert limited.money() == pytest.approx(0.5)
    assert waiting.suggest("4") == Searcher.FINISHED


@pytest.mark.parametrize("outcome", ["failed", "stopped", "elsewhere", None])
def test_trials_that_end_at_once_without_a_result_make_no_others_cheap(tmp_path, outcome) -> None:
    clock = Clock()
    limited = spending(tmp_path, clock, slots=4, money=2.5)
    place = Placement(1, 1.0, 0.0)
    waiting = WaitingTrials([Entry(t, place) for t in TRIALS], "s", 4, spending=limited)
    assert waiting.suggest("0")["trial"] == "t0"
    waiting.started("0")
    clock.now += 1
    waiting.on_trial_complete("0", result={"outcome": outcome})
    given = [waiting.suggest(str(i)) for i in range(1, 4)]
    assert [one["trial"] for one in given[:2]] == ["t1", "t2"]
    assert given[2] == Searcher.FINISHED


def test_the_rest_of_a_trial_that_was_begun_makes_no_others_cheap(tmp_path) -> None:
    clock = Clock()
    found = spending(tmp_path, clock, slots=4, money=4.5)
    for whole, seconds in ((False, 3000), (True, 1)):
        assert found.may_start("t0")
        found.started("t0")
        clock.now += seconds
        found.ended("t0", whole)
    assert [found.may_start(trial) for trial in ("t1", "t2", "t3", "t4")] == [True] * 3 + [False]


def test_the_rest_of_an_earlier_commands_trial_makes_no_others_cheap(tmp_path) -> None:
    clock = Clock()
    found = spending(tmp_path, clock, slots=4, begun={"t0"}, money=3.5)
    run_one(found, clock, "t0", 100)
    assert [found.may_start(trial) for trial in TRIALS[1:5]] == [True] * 3 + [False]
    again = spending(tmp_path, clock, slots=4, begun={"t0"}, money=3.5)
    run_one(again, clock, "t1", 100)  # a whole one is learned from
    assert all(again.may_start(trial) for trial in TRIALS[2:])


def test_what_running_trials_take_is_kept_although_the_driver_is_killed(tmp_path) -> None:
    clock = Clock()
    found = spending(tmp_path, clock, money=1.5)
    with found.noting(every=0.01):
        assert found.may_start("t0")
        found.started("t0")
        clock.now += 3600
        end = time.monotonic() + 30
        while spent_before(tmp_path, "USD") < 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert spent_before(tmp_path, "USD") == pytest.approx(1.0)
        assert not spending(tmp_path, clock, money=1.5).may_start("t0")


@pytest.mark.parametrize(("text", "amount"), [("50USD", 50), ("0.5 USD", 0.5), ("7", 7)])
def test_budgets(text, amount) -> None:
    assert read_budget(text, "USD") == amount


@pytest.mark.parametrize("text", ["", "much", "-3USD", "0", "50EUR"])
def test_budgets_that_are_none(text) -> None:
    with pytest.raises(ValueError, match="--budget"):
        read_budget(text, "USD")


def test_deadlines() -> None:
    assert read_deadline("6h", 100.0) == 100 + 6 * 3600
    assert read_deadline("1h30m", 100.0) == 100 + 5400
    assert read_deadline("1970-01-02T00:00:00+00:00", 100.0) == 86400
    for text in ("soon", "6", "1970-01-01T00:00:00+00:00"):
        with pytest.raises(ValueError, match="--deadline"):
            read_deadline(text, 100.0)
