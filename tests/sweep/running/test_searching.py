"""A search by Optuna: the values it gets, and that no interruption changes what it proposes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray

from shards.support.yaml_reader import parse_mapping
from sweep.journal.run_record import find_sweep
from sweep.journal.status import StatusReader
from sweep.planning.grid import read_grid
from sweep.run import run
from sweep.running import driver, schedule
from sweep.running.arriving import Arriving
from sweep.running.searching import Searching
from tests.sweep.made import made
from trainers.config.schema import TrialConfig
from trainers.results.record import TrialResult

TEXT = """\
fixed:
  dataset: digits
  teacher: embedded
  student: width:1
  validation_samples: 100
  curve_every: 1 epochs
seeds: 2
search:
  by: optuna
  trials: 7
  at_once: 2
  metric: ridge/accuracy
  mode: max
  ranges: {lr: {log: [1.0e-4, 1.0e-1]}}
"""


MEASURE = "validation/ridge/accuracy"


def searching() -> Searching:
    grid = read_grid(TEXT, "x.yaml", "x")
    assert grid.search is not None
    return Searching(grid, grid.search)


def result_of(config: TrialConfig, *values: float | None) -> TrialResult:
    """values: of its observations; None where the metric was not defined."""
    rows = [
        {"step": 9 * n, "epoch": n, "values": {} if value is None else {MEASURE: value}}
        for n, value in enumerate(values, 1)
    ]
    fields = config.model_dump(mode="json")
    return made(
        {"id": config.identity, "config": fields, "observations": {"rows": rows, "teacher": {}}}
    )


def report(search: Searching, config: TrialConfig) -> None:
    """Tell the search what a trial of this learning rate comes to."""
    if config.lr > 0.01:
        search.failed(config.identity)
    elif config.lr < 0.002:
        search.stopped_early(config.identity)
    else:
        value = -abs(math.log10(config.lr) + 2) + 0.1 * config.seed
        search.finished(config.identity, result_of(config, 0.0, value))


def proposed(search: Searching, ends: int, seed: int | None = None) -> list[float]:
    """The learning rates of all draws after so many ends of trials, in the order of a seed."""
    draw, open_ = random.Random(seed), search.take()
    for _ in range(ends):
        report(search, open_.pop(0 if seed is None else draw.randrange(len(open_))))
        open_ += search.take()
    return [one["lr"] for one in search.grid.draws or ()]


def test_it_proposes_the_same_whichever_trial_ends_first() -> None:
    whole = proposed(searching(), 14)
    assert len(set(whole)) == 7
    for seed in range(4):
        assert proposed(searching(), 14, seed) == whole
        cut = proposed(searching(), 6, seed)
        assert cut == whole[: len(cut)]
    assert max(whole) > 0.01  # one failed
    assert min(whole) < 0.002  # one was stopped early


def test_a_trial_leads_to_others_until_all_are_proposed() -> None:
    search = searching()
    first = search.take()
    assert [len(first), search.left, search.waits()] == [4, 10, True]
    report(search, first[0])
    assert search.take() == []  # its other seed is still at work
    report(search, first[1])
    assert search.waits()
    found = search.take()
    assert [len(found), search.left] == [2, 8]
    open_ = first[2:] + found
    while search.left:
        assert search.waits()
        report(search, open_.pop(0))
        open_ += search.take()
    assert not search.waits()


def test_what_others_run_leads_to_nothing_until_it_has_ended() -> None:
    search = searching()
    first = search.take()
    for config in first:
        search.away(config.identity)
    assert not search.waits()
    search.begun(first[0].identity)
    assert search.waits()
    search.away(first[0].identity)
    report(search, first[0])
    report(search, first[1])
    assert search.waits()
    assert len(search.take()) == 2


def test_a_draw_is_worth_the_mean_over_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    search = searching()
    values = list[float | None]()
    monkeypatch.setattr(search._proposals, "next", values.append)
    one, other, third, fourth = search.take()
    search.finished(other.identity, result_of(other, 0.9, 0.5))
    search.finished(one.identity, result_of(one, 0.3, None))  # the last one that is known
    assert values == [pytest.approx(0.4)]
    search.failed(third.identity)
    search.finished(fourth.identity, result_of(fourth, 0.5))
    assert values[1] is not None
    assert math.isnan(values[1])


def test_a_draw_of_which_one_seed_was_stopped_early_has_no_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = searching()
    values = list[float | None]()
    monkeypatch.setattr(search._proposals, "next", values.append)
    one, other, *_ = search.take()
    search.stopped_early(one.identity)
    search.failed(other.identity)
    assert values == [None]


def test_a_job_that_has_arrived_is_never_missed() -> None:
    """Between the event and its job, at whatever moment Tune's loop asks."""
    awaited, seen = [True], list[tuple[bool, list[int]]]()

    def arrived() -> list[int]:
        awaited[0] = False
        seen.append((arriving.waits(), arriving.take()))
        return [7]

    arriving = Arriving[int](lambda *event: None, arrived, lambda: awaited[0])
    assert arriving.waits()
    arriving("trial", "finished", {})
    assert seen == [(True, [])]
    assert [arriving.waits(), arriving.take(), arriving.take()] == [False, [7], []]


@pytest.mark.parametrize("broken", ["watch", "arrived"])
def test_after_an_error_nothing_is_awaited(broken: str) -> None:
    def fail(*event: Any) -> Any:
        raise ValueError("no room")

    parts: dict[str, Callable[..., Any]] = {"watch": lambda *event: None, "arrived": list}
    arriving = Arriving[int](**parts | {broken: fail}, awaited=lambda: True)
    assert arriving.waits()
    with pytest.raises(ValueError, match="no room"):
        arriving("trial", "finished", {})
    assert not arriving.waits()


@pytest.mark.ray
def test_a_real_search_runs_through_one_tune_and_goes_on_as_if_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuners, own = list[list[str]](), schedule.run_jobs

    def run_jobs(jobs: list[schedule.Job], *arguments: Any) -> None:
        tuners.append([job.config.identity for job in jobs])
        own(jobs, *arguments)

    monkeypatch.setattr(driver, "run_jobs", run_jobs)
    small = {"train_samples": 160, "test_samples": 40, "validation_samples": 32, "epochs": 1}
    one = parse_mapping(TEXT, "x") | {"seeds": 1}
    one["fixed"] |= small | {"batch_size": 32, "probes": ["spectrum"], "test_arms": []}

    def study(folder: str, trials: int) -> pd.DataFrame:
        found = run(one | {"search": one["search"] | {"trials": trials}}, tmp_path / folder, cpus=2)
        assert not ray.is_initialized()
        assert set(found.trials["status"]) == {"finished"}
        return found.trials

    whole = study("whole", 5)
    assert [len(jobs) for jobs in tuners] == [2]  # three more came while they ran
    assert whole["lr"].nunique() == 5
    assert len(study("cut", 2)) == 2

    # A draw that lost its result holds up those that depend on it.
    lost = tuners[1][0]
    (tmp_path / "cut" / "trials" / lost / "result.json").unlink()
    assert set(study("cut", 5)["trial"]) == set(whole["trial"])
    assert [len(jobs) for jobs in tuners] == [2, 2, 1]
    assert tuners[2] == [lost]
    seen = StatusReader(*find_sweep(str(tmp_path / "cut"))).read()
    assert (seen.total, seen.finished) == (5, 5)


def test_values_that_are_searched_for_cannot_be_excluded() -> None:
    with pytest.raises(ValueError, match=r"^x: exclude: optuna proposes values whatever is excl"):
        read_grid(TEXT + "exclude: [{lr: 0.01}]\n", "x", "x")
    one_seed = read_grid(TEXT + "exclude: [{seed: 1}]\n", "x", "x")
    assert one_seed.search is not None
    assert {config.seed for config in Searching(one_seed, one_seed.search).take()} == {0}


def test_it_knows_the_longest_trial_that_it_may_propose() -> None:
    assert searching().most_epochs == 0
    text = TEXT.replace("1.0e-1]}}", "1.0e-1]}, epochs: {integer: [3, 30]}}")
    grid = read_grid(text, "x.yaml", "x")
    assert grid.search is not None
    assert Searching(grid, grid.search).most_epochs == 30


def test_several_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^x: search: optuna looks for the best draw of one comb"):
        read_grid(TEXT + "axes: {arm: [clean, noise:0.1]}\n", "x", "x")
