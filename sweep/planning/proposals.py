"""Draws that Optuna proposes from the values of earlier ones, in rounds.

A round of `at_once` draws is proposed together, and the next one when all of its trials have ended.
What is proposed is then a function of the search and of the values of earlier rounds alone, not of
which trial ended first. So nothing of Optuna's state is stored: a search that goes on proposes its
earlier rounds again, whose trials are finished already, and comes to the draws it would have made
undisturbed. The sampler is Optuna's TPE with the seed of the search.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from sweep.planning.search import Search, rounded


def first_draws(search: Search) -> list[dict[str, Any]]:
    """The draws of a search that do not depend on any result: all random ones, or a first round.

    Raises: ValueError where Optuna is needed and not installed.
    """
    if search.by == "optuna":
        return Proposals(search).ask()
    return [search.draw(number) for number in range(search.trials)]


class Proposals:
    """Proposes draws of a search; `ask` and `tell` are called in turn, once a round.

    Raises: ValueError where Optuna is not installed.
    """

    def __init__(self, search: Search) -> None:
        try:
            import optuna
        except ImportError:
            raise ValueError(
                "search: `by: optuna` needs Optuna; pip install 'distilsweep[search]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search = search
        self._failed, self._pruned = optuna.trial.TrialState.FAIL, optuna.trial.TrialState.PRUNED
        with warnings.catch_warnings():
            # Draws of one round are kept apart by an option that Optuna calls experimental.
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(seed=search.seed, constant_liar=True)
        direction = "maximize" if search.mode == "max" else "minimize"
        self._study: Any = optuna.create_study(sampler=sampler, direction=direction)
        self._asked: list[Any] = []

    def ask(self) -> list[dict[str, Any]]:
        """The draws of the next round: [{field: value}]; none once there are `trials`."""
        left = self._search.trials - len(self._study.trials)
        self._asked = [self._study.ask() for _ in range(min(left, self._search.at_once))]
        return [
            {field: _suggested(trial, field, r) for field, r in self._search.ranges.items()}
            for trial in self._asked
        ]

    def tell(self, values: Sequence[float | None]) -> None:
        """The values of the round's draws, in their order.

        NaN: of one that failed. None: of one that was stopped early, which counts as a bad one.
        """
        for trial, value in zip(self._asked, values, strict=True):
            if value is None:
                self._study.tell(trial, state=self._pruned)
            elif math.isfinite(value):
                self._study.tell(trial, value)
            else:
                self._study.tell(trial, state=self._failed)


def _suggested(trial: Any, field: str, described: dict[str, list[Any]]) -> Any:
    ((kind, values),) = described.items()
    if kind == "choice":
        return values[trial.suggest_categorical(field, list(range(len(values))))]
    low, high = values
    if kind == "integer":
        return trial.suggest_int(field, low, high)
    return rounded(trial.suggest_float(field, low, high, log=kind == "log"), low, high)
