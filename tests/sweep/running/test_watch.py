"""What the driver hears of trials whose duration ends inside an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweep.journal.events import Journal
from sweep.planning.kinds import kind_of
from sweep.planning.trial_seconds import Seconds, nominal, seconds_of
from sweep.running.view import SweepView
from sweep.running.watch import Watch
from trainers.canonical import make_config

FIELDS = {
    "dataset": "digits", "teacher": "embedded", "student": "width:1", "train_samples": 200,
    "test_samples": 60, "batch_size": 50,
}  # fmt: skip
ROWS = [
    {"step": 4, "epoch": 1, "loss": 0.5, "time_ms": 7},
    {"step": 5, "epoch": 1.25, "loss": 0.4, "time_ms": 8},
]


@pytest.mark.parametrize("duration", ["5 steps", "250 samples", "1.25 epochs"])
def test_progress_is_by_steps(tmp_path: Path, tools: Any, duration: str) -> None:
    config = make_config(FIELDS | {"duration": duration})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    shares = [watch.done()]
    for row in ROWS:
        watch(config.identity, "epoch", row)
        shares.append(watch.done())
    kind = kind_of(config)
    planned = seconds_of(kind, nominal(kind))
    assert watch.total() == pytest.approx(planned.whole - planned.fixed)
    assert shares == pytest.approx([0, planned.training * 4 / 5, planned.training])
    written = tools.events(tmp_path, "epoch")
    assert [(e["step"], e["values"]["epoch"]) for e in written] == [(4, 1), (5, 1.25)]


def test_what_was_observed_is_in_the_journal_before_the_result(tmp_path: Path, tools: Any) -> None:
    config = make_config(FIELDS | {"duration": "8 steps"})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    seen = {"validation/rank": 2.5, "validation/alignment": float("inf")}
    watch(config.identity, "epoch", ROWS[0] | {"observed": seen})
    watch(config.identity, "epoch", ROWS[1])
    written = [event["observed"] for event in tools.events(tmp_path, "epoch")]
    assert written == [{"validation/rank": 2.5}, {}]


def test_a_trial_that_trains_nothing_has_no_progress_before_its_end(tmp_path: Path) -> None:
    config = make_config(FIELDS | {"epochs": 0})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    assert watch.done() == 0
    watch(config.identity, "failed", {"error": "of its own"})
    assert watch.done() == pytest.approx(watch.total())


@pytest.mark.parametrize("kind", ["stopped", "elsewhere", "waits"])
def test_a_trial_that_ended_without_a_result_no_longer_runs(tmp_path: Path, kind: str) -> None:
    config = make_config(FIELDS | {"epochs": 1})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    watch(config.identity, "start", {})
    assert (watch.overview().running, list(watch.running)) == (1, [config.identity])
    watch(config.identity, kind, {"error": "state saved at step 3"})
    assert (watch.overview().running, watch.overview().waiting) == (0, 1)
    assert "running" not in watch.note()
    assert not watch.running
    assert [timing.waiting for timing in watch.timings.values()] == [True]


def test_failures_of_an_earlier_run_count_as_done(tmp_path: Path) -> None:
    config = make_config(FIELDS | {"epochs": 1})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path))
    watch.skip({config.identity: "of its own"})
    assert watch.done() == watch.total()
    assert watch.ended == watch.failed.keys() == {config.identity}


def test_the_view_counts_and_says_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not on a terminal: plain lines, without anything that moves the cursor."""
    configs = [make_config(FIELDS | {"duration": "8 steps", "seed": seed}) for seed in range(3)]
    watch = Watch(Journal(tmp_path), configs, str(tmp_path))
    with SweepView(watch, watch.note() + ", about 0:10") as bar:
        watch.bar = bar
        bar.every = 0.0
        watch(configs[0].identity, "start", {})
        watch(configs[0].identity, "epoch", ROWS[0])
        watch(configs[1].identity, "failed", {"error": "ValueError: of its own"})
        seen = watch.overview()
    assert (seen.total, seen.running, seen.failed, seen.waiting) == (3, 1, 1, 1)
    assert [one.error for one in seen.failures] == ["ValueError: of its own"]
    assert [(one.step, one.steps, one.loss) for one in seen.now] == [(4, 8, 0.5)]
    lines = capsys.readouterr().err.splitlines()
    assert "0/3 trials, about 0:10" in lines[0]
    assert any("1/3 trials, 1 running, 1 failed" in line for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_seconds_timed_on_this_machine_replace_the_nominal_ones(tmp_path: Path) -> None:
    """Also those of trials that an earlier run has finished: parts of one whole."""
    configs = [make_config(FIELDS | {"epochs": 1, "seed": seed}) for seed in range(2)]
    watch = Watch(Journal(tmp_path), configs, str(tmp_path))
    assert watch.remaining() is None  # nominal seconds are no seconds of this machine
    watch.skip({configs[0].identity: "of its own"})
    watch.set_seconds({config.identity: Seconds(0.5, 6.0, 3.0, 1.0) for config in configs})
    watch.slots = 1
    assert (watch.done(), watch.total()) == (10.0, 20.0)
    assert watch.remaining() == pytest.approx(10.0, abs=1.0)


def test_further_trials_count_with_those_that_were_planned(tmp_path: Path) -> None:
    configs = [make_config(FIELDS | {"epochs": 1, "seed": seed}) for seed in range(3)]
    watch = Watch(Journal(tmp_path), configs[:1], str(tmp_path))
    watch.skip({configs[0].identity: "of its own"})
    whole = watch.total()
    watch.add(configs[1:])
    assert (watch.done(), watch.total()) == (whole, pytest.approx(3 * whole))
    watch(configs[1].identity, "start", {})
    seen = watch.overview()
    assert (seen.total, seen.running, seen.failed, seen.waiting) == (3, 1, 1, 1)


def test_trials_that_a_search_has_still_to_propose_count(tmp_path: Path) -> None:
    class Search:
        left = 3

        def __init__(self) -> None:
            self.gone: list[str] = []

        def away(self, trial: str) -> None:
            self.gone.append(trial)

        def failed(self, trial: str) -> None:
            pass

    search, config = Search(), make_config(FIELDS | {"epochs": 1})
    watch = Watch(Journal(tmp_path), [config], str(tmp_path), search)  # type: ignore[arg-type]
    watch.set_seconds({config.identity: Seconds(0.5, 6.0, 3.0, 1.0)})
    watch.slots = 1
    assert watch.total() == 40.0
    assert watch.note().startswith("0/4 trials")
    assert watch.remaining() == pytest.approx(4 * 10.5, abs=20.0)  # with the start of Ray
    assert watch.overview().remaining_seconds == pytest.approx(watch.remaining(), abs=1.0)
    watch(config.identity, "finished", {})  # and the store has no result
    assert search.gone == [config.identity]
    watch.skip({config.identity: "of its own"})
    assert watch.remaining() == pytest.approx(3 * 10.5, abs=1.0)
