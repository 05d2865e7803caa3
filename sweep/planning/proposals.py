"""Draws that Optuna proposes from the values of earlier ones.

`at_once` draws are proposed at first, and another one whenever the earliest of those without a
value gets one. So a draw is proposed with the values of all draws but the `at_once - 1` before it,
whichever of them have ended by then: proposals are a function of the search and of values alone.
Nothing of Optuna's state is stored: a search that goes on proposes its earlier draws again, whose
trials are finished already, and comes to the draws it would have made undisturbed. The sampler is
Optuna's TPE with the seed of the search.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any

from sweep.planning.search import Search, rounded


def first_draws(search: Search) -> list[dict[str, Any]]:
    """The draws of a search that do not depend on any result: all random ones, or Optuna's first.

    Raises: ValueError where Optuna is needed and not installed.
    """
    if search.by == "optuna":
        return Proposals(search).first()
    return [search.draw(number) for number in range(search.trials)]


class Proposals:
    """Proposes the draws of a search: `first`, then `next` for each value in the draws' order.

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
            # Draws without a value are kept apart by an option that Optuna calls experimental.
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(seed=search.seed, constant_liar=True)
        direction = "maximize" if search.mode == "max" else "minimize"
        self._study: Any = optuna.create_study(sampler=sampler, direction=direction)
        self._without_value: deque[Any] = deque()

    def first(self) -> list[dict[str, Any]]:
        """The draws that need no value: [{field: value}]."""
        return [self._ask() for _ in range(min(self._search.trials, self._search.at_once))]

    def next(self, value: float | None) -> dict[str, Any] | None:
        """Take the value of the earliest draw without one; the draw that is proposed then, if any.

        NaN: of one that failed. None: of one that was stopped early, which counts as a bad one.
        """
        trial = self._without_value.popleft()
        if value is None:
            self._study.tell(trial, state=self._pruned)
        elif math.isfinite(value):
            self._study.tell(trial, value)
        else:
            self._study.tell(trial, state=self._failed)
        return self._ask() if self.left else None

    @property
    def left(self) -> int:
        """How many draws are still to be proposed."""
        return self._search.trials - len(self._study.trials)

    def _ask(self) -> dict[str, Any]:
        trial = self._study.ask()
        self._without_value.append(trial)
        return {field: _suggested(trial, field, r) for field, r in self._search.ranges.items()}


def _suggested(trial: Any, field: str, described: dict[str, list[Any]]) -> Any:
    ((kind, values),) = described.items()
    if kind == "choice":
        return values[trial.suggest_categorical(field, list(range(len(values))))]
    low, high = values
    if kind == "integer":
        return trial.suggest_int(field, low, high)
    return rounded(trial.suggest_float(field, low, high, log=kind == "log"), low, high)
