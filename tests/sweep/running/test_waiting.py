"""Which trial Tune gets next, and which is tried again."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.tune.search import Searcher

from sweep.planning.placement import Placement
from sweep.running.deaths import why
from sweep.running.events import REPORTED, Events, TuneCallback
from sweep.running.waiting import RETRIES, WAITS, Entry, WaitingTrials

ONE, TWO = Placement(1, 1.0, 0.0), Placement(2, 1.0, 0.0)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Tune:
    """Stands for Tune's trial; and for its calls of the searcher."""

    def __init__(self, waiting: WaitingTrials) -> None:
        self.waiting, self.count, self.received = waiting, 0, []
        self.callback = TuneCallback(lambda *event: self.received.append(event), waiting)

    def next(self):
        self.count += 1
        config = self.waiting.suggest(str(self.count))
        return Attempt(str(self.count), config) if isinstance(config, dict) else config

    def start(self, attempt):
        self.callback.on_trial_start(0, [], attempt)

    def end(self, attempt, outcome="finished", error="why"):
        if outcome != "killed":
            result = {"outcome": outcome, "error": error}
            self.callback.on_trial_result(0, [], attempt, result)
        bad = outcome not in ("finished", "failed")
        self.waiting.on_trial_complete(attempt.trial_id, error=bad)
        if bad:
            self.callback.on_trial_error(0, [], attempt)


class Attempt:
    def __init__(self, trial_id, config):
        self.trial_id, self.config = trial_id, config

    def get_error(self):
        return "its process died"


def tune(*entries: tuple[str, Placement], offered=2, concurrent=None) -> tuple[Tune, Clock]:
    clock = Clock()
    all_of_them = [Entry(trial, placement) for trial, placement in entries]
    return Tune(WaitingTrials(all_of_them, "sweep", offered, concurrent, clock)), clock


def test_a_placement_never_keeps_another_one_waiting() -> None:
    driver, _ = tune(*[(f"a{i}", TWO) for i in range(4)], *[(f"b{i}", ONE) for i in range(4)])
    found = [driver.next() for _ in range(5)]
    assert found.pop() is None  # two of each wait for room
    names = [attempt.config["trial"] for attempt in found]
    assert names == ["a0", "b0", "a1", "b1"]
    assert Placement.of(found[0].config) == TWO
    driver.start(found[1])
    assert driver.next().config["trial"] == "b2"
    assert driver.next() is None
    driver.end(found[2])  # without having started
    assert driver.next().config["trial"] == "a2"


def test_it_ends_when_nothing_waits_runs_or_is_to_be_tried_again() -> None:
    driver, clock = tune(("a", ONE), ("b", ONE), concurrent=1)
    first = driver.next()
    assert driver.next() is None
    driver.start(first)
    driver.end(first)
    second = driver.next()
    driver.end(second, "killed")
    again = driver.next()  # the first retry is at once
    assert again.config["trial"] == "b"
    driver.end(again, "died")
    assert driver.next() is None  # the second one is later
    clock.now = 1000.0
    last = driver.next()
    driver.end(last)
    assert driver.next() == Searcher.FINISHED
    assert driver.received == [
        ("a", "start", {}), ("a", "finished", {}),
        ("b", "waits", {}), ("b", "waits", {}), ("b", "finished", {}),
    ]  # fmt: skip


def test_after_some_deaths_it_has_failed_for_reasons_each() -> None:
    driver, clock = tune(("a", ONE), ("b", ONE))
    for death in range(RETRIES + 1):
        clock.now += 1000.0
        attempt = next(a for a in iter(driver.next, None) if a.config["trial"] == "a")
        driver.end(attempt, "died", f"reason {death}")
    *earlier, (trial, kind, values) = driver.received
    assert earlier == [("a", "waits", {})] * RETRIES
    assert (trial, kind) == ("a", "failed")
    assert values["error"] == ("died 4 times: 1. reason 0; 2. reason 1; 3. reason 2; 4. reason 3")


def test_a_trial_that_trained_since_its_last_death_is_tried_again_at_once() -> None:
    driver, clock = tune(("a", ONE))
    for _ in range(2):
        attempt = driver.next()
        driver.start(attempt)
        driver.callback.on_trial_result(0, [], attempt, dict.fromkeys(REPORTED, 1))
        driver.end(attempt, "died")
    attempt = driver.next()
    driver.end(attempt, "died")  # before the end of an epoch
    assert driver.next() is None
    clock.now = WAITS[-1]
    assert driver.next().config["deaths"] == 3


def test_deaths_of_ranks_whose_gang_goes_on_count_as_well() -> None:
    driver, _ = tune(("a", TWO))
    attempt = driver.next()
    assert attempt.config["deaths"] == 0
    driver.start(attempt)
    for number in range(RETRIES):
        driver.callback.on_trial_result(0, [], attempt, {"death": f"reason {number}"})
    driver.end(attempt, "died", "the last reason")
    kinds = [kind for _, kind, _ in driver.received]
    assert kinds == ["start"] * (1 + RETRIES) + ["failed"]
    assert driver.received[-1][2]["error"].startswith("died 4 times: 1. reason 0; 2. reason 1; ")


def test_a_preempted_trial_is_tried_again_however_often() -> None:
    driver, _ = tune(("a", ONE))
    for _ in range(3 * RETRIES):
        driver.end(driver.next(), "preempted")
    assert {kind for _, kind, _ in driver.received} == {"waits"}
    driver.waiting.stop()
    assert driver.next() == Searcher.FINISHED


def test_tune_can_pickle_it_whatever_it_holds() -> None:
    lock = threading.Lock()
    waiting = WaitingTrials([Entry("a", ONE)], "sweep", 1, clock=lambda: float(lock.locked()))
    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(vars(waiting))
    assert vars(pickle.loads(cloudpickle.dumps(waiting))) == {}


class Builds:
    failed = False

    def __init__(self, *banks: str) -> None:
        self.left = set(banks)

    def missing(self) -> frozenset[str]:
        return frozenset(self.left)


def test_trials_wait_for_their_bank_and_then_take_their_place() -> None:
    builds = Builds("x", "y")
    entries = [Entry(f"{bank}{i}", ONE, bank) for i in range(2) for bank in "xy"] + [
        Entry("a", ONE)
    ]
    driver = Tune(WaitingTrials(entries, "sweep", 9, builds=builds))
    assert driver.next().config["trial"] == "a"
    assert driver.next() is None
    builds.left.remove("y")
    assert driver.next().config["trial"] == "y0"
    builds.left.remove("x")
    names = [attempt.config["trial"] for attempt in iter(driver.next, None)]
    assert names == ["x0", "x1", "y1"]  # as they are given


def test_a_bank_that_cannot_be_built_ends_the_sweep() -> None:
    builds = Builds("x")
    driver = Tune(WaitingTrials([Entry("a", ONE, "x")], "sweep", 9, builds=builds))
    assert driver.next() is None
    builds.failed = True
    assert driver.next() == Searcher.FINISHED


def test_offering_takes_the_same_time_whatever_the_number_of_trials() -> None:
    def seconds(count: int) -> float:
        driver, _ = tune(*[(f"{i}", ONE) for i in range(count)], offered=10)
        start = time.process_time()
        for _ in range(500):
            driver.end(driver.next())
        return time.process_time() - start

    assert seconds(50_000) < 10 * seconds(1000) + 0.1


def test_events_wait_for_no_one_and_keep_their_order() -> None:
    seen = []

    def slow(trial, kind, values):
        time.sleep(0.05)
        seen.append(trial)
        if trial in "12":
            raise OSError(f"no journal at {trial}")

    events = Events(slow)
    start = time.monotonic()
    for trial in "0123":
        events(trial, "start", {})
    assert time.monotonic() - start < 0.05
    with pytest.raises(OSError, match="no journal at 1"):
        events.close()
    assert seen == list("0123")


SEGV = """The actor died unexpectedly before finishing this task.
\tclass_name: TrialActor
\tactor_id: 0123
\tpid: 77
\tnamespace: abc
\tip: 10.0.0.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit
detail: There are some potential root causes. (1) The process is killed by the OOM killer."""


def test_a_death_is_told_with_what_the_log_says_last(tmp_path: Path) -> None:
    log = tmp_path / "worker-0a-ffff-77.err"
    assert why(SEGV, tmp_path) == "its process 77 on 10.0.0.2 died"
    log.write_text("hello\none\n\ntwo\n")
    assert why(SEGV, tmp_path) == "its process 77 on 10.0.0.2 died; its log ends: one | two"
    log.write_text("one\nFatal Python error: Segmentation fault\n\nStack:\n  File a\n")
    assert why(SEGV, tmp_path).endswith("its log ends: Fatal Python error: Segmentation fault")
    assert why("x\nThe actor died because its node has died. Node Id: 1", None) == "its node died"
    assert why("", None) == "it died"
    assert why("a\nb  c\n", None) == "b c"


def test_trials_that_come_later_are_given_after_those_that_wait() -> None:
    class Later:
        coming, awaited = list[Entry](), True

        def waits(self) -> bool:
            return self.awaited

        def take(self) -> list[Entry]:
            found, self.coming = self.coming, []
            return found

    source = Later()
    waiting = WaitingTrials([Entry("a", ONE)], "sweep", offered=3, source=source)
    tune = Tune(waiting)
    first = tune.next()
    assert tune.next() is None
    tune.start(first)
    tune.end(first)
    assert tune.next() is None  # nothing runs, and what has ended may still lead to others
    source.coming, source.awaited = [Entry("b", TWO), Entry("c", ONE)], False
    found = [tune.next() for _ in range(2)]
    assert {attempt.config["trial"] for attempt in found} == {"b", "c"}
    for attempt in found:
        tune.start(attempt)
        tune.end(attempt)
    assert tune.next() == Searcher.FINISHED
