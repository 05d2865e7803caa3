"""A search in rounds: Optuna proposes draws, their trials run, and their values lead the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.analysis.best import last_values
from sweep.analysis.frame import FINISHED, STOPPED, Study, load
from sweep.planning.expand import expand
from sweep.planning.grid import Grid
from sweep.planning.proposals import Proposals
from sweep.planning.search import Search
from sweep.running.driver import Outcome

Run = Callable[[Grid, frozenset[str]], Outcome]


def run_rounds(grid: Grid, search: Search, folder: Path, run: Run) -> tuple[Grid, Outcome]:
    """Run the rounds of a search; returns the grid with all of its draws, and how they ended.

    run: runs what is missing of a grid's trials, but not those of the identities that it is given:
    they have failed in an earlier round, and are tried again by the next command only.
    """
    proposals, draws = Proposals(search), list[dict[str, Any]]()
    total = Outcome({}, {}, {}, 0)
    while new := proposals.ask():
        draws += new
        grid = replace(grid, draws=tuple(draws))
        outcome = run(grid, frozenset(total.failed))
        total = Outcome(
            total.failed | outcome.failed,
            total.stopped | outcome.stopped,
            total.stopped_early | outcome.stopped_early,
            outcome.left,
            outcome.limit,
        )
        if outcome.left or outcome.stopped:
            break  # on request: the values of the round are not known
        study = load(folder)
        proposals.tell([value_of(grid, draw, search.measure, study) for draw in new])
    return grid, total


def value_of(grid: Grid, draw: dict[str, Any], measure: str, study: Study) -> float | None:
    """The mean over a draw's trials of their last value; NaN where one of them has failed.

    None where one of them was stopped early: that is known to be bad, and by how much is not.
    """
    rows: Any = study.trials.set_index("trial")
    trials = [config.identity for config in expand(replace(grid, draws=(draw,)))]
    states = [rows["status"].get(trial) for trial in trials]
    last = last_values(study.curves, measure)
    if STOPPED in states:
        return None
    if any(state != FINISHED for state in states):
        return math.nan
    return sum(last.get(trial, math.nan) for trial in trials) / len(trials)
