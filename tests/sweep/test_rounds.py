"""A search in rounds: what Optuna is given, and that an interruption changes no proposal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import ray

from shards.support.yaml_reader import parse_mapping
from sweep.analysis.frame import load
from sweep.journal.events import FailedEvent, Journal, ResultEvent, StartEvent, StoppedEvent
from sweep.planning.expand import expand
from sweep.planning.grid import Grid, read_grid
from sweep.planning.search import Search
from sweep.rounds import run_rounds, value_of
from sweep.run import run
from sweep.running.driver import Outcome
from tests.sweep.made import made

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


def grid() -> tuple[Grid, Search]:
    found = read_grid(TEXT, "x.yaml", "x")
    assert found.search is not None
    return found, found.search


class Trials:
    """Stands for the driver: writes into the journal what trials of a given lr come to."""

    def __init__(self, folder: Path, rounds: int = 99) -> None:
        self.folder, self.rounds, self.lrs, self.ran = folder, rounds, list[float](), list[str]()

    def __call__(self, one: Grid, failed: frozenset[str]) -> Outcome:
        if not self.rounds:
            return Outcome({}, {}, {}, 1)  # requested to stop
        self.rounds -= 1
        new_failed, stopped = dict[str, str](), dict[str, str]()
        journal = Journal(self.folder)
        for config in expand(one):
            trial, fields = config.identity, config.model_dump(mode="json")
            if config.lr not in self.lrs:
                self.lrs.append(config.lr)
            if trial in failed or journal.has_result(trial):
                continue
            self.ran.append(trial)
            journal.append(StartEvent(trial=trial, config=fields))
            if config.lr > 0.03:
                new_failed[trial] = "diverged"
                journal.append(FailedEvent(trial=trial, config=fields, error="diverged"))
            elif config.lr < 0.0004:
                stopped[trial] = "too low"
                journal.append(StoppedEvent(trial=trial, config=fields, error="too low"))
            else:
                value = -abs(math.log10(config.lr) + 2) + 0.1 * config.seed
                row = {"step": 9, "epoch": 1, "values": {"validation/ridge/accuracy": value}}
                rows = {"rows": [row], "teacher": {}}
                record = {"id": trial, "config": fields, "observations": rows}
                journal.append(ResultEvent(trial=trial, record=made(record)))
        journal.close()
        return Outcome(new_failed, {}, stopped, 0)


def test_interrupted_it_goes_on_with_the_draws_of_an_undisturbed_one(tmp_path: Path) -> None:
    one, search = grid()
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = Trials(tmp_path / "whole")
    drawn, _ = run_rounds(one, search, whole.folder, whole)
    assert len(whole.lrs) == 7
    assert [draw["lr"] for draw in drawn.draws or ()] == whole.lrs
    cut = Trials(tmp_path / "cut", rounds=2)
    _, outcome = run_rounds(one, search, cut.folder, cut)
    assert outcome.left == 1
    assert cut.lrs == whole.lrs[:4]
    again = Trials(tmp_path / "cut")
    run_rounds(one, search, again.folder, again)
    assert again.lrs == whole.lrs
    finished = {r.id for r in load(cut.folder).results} & {*cut.ran}
    assert not finished & {*again.ran}


def test_what_fails_is_not_tried_again_in_the_same_search(tmp_path: Path) -> None:
    one, search = grid()
    trials = Trials(tmp_path)
    _, outcome = run_rounds(one, search, tmp_path, trials)
    assert len(trials.ran) >= len(set(trials.ran)) - len(outcome.stopped_early)
    assert all(trials.ran.count(trial) == 1 for trial in outcome.failed)


def test_a_draw_is_worth_the_mean_over_its_seeds(tmp_path: Path) -> None:
    one, search = grid()
    trials, lrs = Trials(tmp_path), (0.01, 0.05, 0.0002, 0.001)
    drawn = Grid(**{**vars(one), "draws": tuple({"lr": lr} for lr in lrs)})
    trials(drawn, frozenset())
    study = load(tmp_path)
    values = [value_of(one, {"lr": lr}, search.measure, study) for lr in lrs]
    assert values[0] == pytest.approx(0.05)
    assert values[1] is not None
    assert math.isnan(values[1])  # failed
    assert values[2] is None  # stopped early
    assert values[3] == pytest.approx(-0.95)


@pytest.mark.ray
def test_a_real_search_starts_one_ray_for_all_of_its_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, own = list[str](), ray.init

    def init(*arguments: Any, **options: Any) -> Any:
        starts.append(options["address"])
        return own(*arguments, **options)

    monkeypatch.setattr(ray, "init", init)
    small = {"train_samples": 160, "test_samples": 40, "validation_samples": 32, "epochs": 1}
    one = parse_mapping(TEXT, "x")
    one |= {"seeds": 1, "search": one["search"] | {"trials": 4}}
    one["fixed"] |= small | {"batch_size": 32, "probes": ["spectrum"], "test_arms": []}
    study = run(one, tmp_path / "run", cpus=2)
    assert starts == ["local"]
    assert not ray.is_initialized()
    assert sorted(study.trials["status"]) == ["finished"] * 4
    assert study.trials["lr"].nunique() == 4


def test_several_combinations_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^x: search: optuna looks for the best draw of one comb"):
        read_grid(TEXT + "axes: {arm: [clean, noise:0.1]}\n", "x", "x")
