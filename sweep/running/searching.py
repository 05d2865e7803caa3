"""A search by Optuna: which trials have been proposed, and which values lead to further ones."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

from sweep.planning.grid import Grid
from sweep.planning.proposals import Proposals
from sweep.planning.search import Search
from sweep.planning.select import trials_of
from trainers.config.schema import TrialConfig
from trainers.results.record import TrialResult


class Searching:
    """The trials of a search, which are proposed as the values of earlier ones come.

    Every trial that `take` returned is to be reported: `finished`, `failed` or `stopped_early` at
    its end; `away` where it ended without one of these, until it has `begun` again. May be used by
    several threads.

    Attributes: `needs`, {trial identity: what the grid says about its resources}, which grows.
    """

    def __init__(self, grid: Grid, search: Search) -> None:
        self._grid, self._search = grid, search
        self._proposals = Proposals(search)
        self._lock = threading.Lock()  # of all that follows
        self._draws: list[tuple[dict[str, Any], list[str]]] = []  # and the identities of its trials
        self._valued = 0  # of so many draws the value is known
        self._values: dict[str, float | None] = {}
        self._away: set[str] = set()
        self._known: set[str] = set()
        self._new: list[TrialConfig] = []
        self.needs: dict[str, dict[str, Any]] = {}
        for draw in self._proposals.first():
            self._add(draw)

    @property
    def grid(self) -> Grid:
        """The grid with all draws so far."""
        with self._lock:
            return replace(self._grid, draws=tuple(draw for draw, _ in self._draws))

    @property
    def most_epochs(self) -> float:
        """The upper end of the range of epochs; 0 where they are not searched for."""
        described = self._search.ranges.get("epochs", {})
        return max((float(value) for values in described.values() for value in values), default=0.0)

    def take(self) -> list[TrialConfig]:
        """Trials that were proposed since the last call."""
        with self._lock:
            new, self._new = self._new, []
            return new

    def waits(self) -> bool:
        """Whether further trials will come: one was proposed, or one that runs leads to others."""
        with self._lock:
            if self._new:
                return True
            open_ = {trial for _, trials in self._draws[self._valued :] for trial in trials}
            return bool(self._proposals.left and open_ - self._values.keys() - self._away)

    @property
    def left(self) -> int:
        """How many trials have not been proposed yet."""
        with self._lock:
            return self._proposals.left * len(self._draws[0][1])

    def finished(self, trial: str, result: TrialResult) -> None:
        """Its value is the last one that was observed of the search's metric."""
        value = math.nan  # where it was never defined
        for row in sorted(result.observations.rows, key=lambda row: row.step):
            value = row.values.get(self._search.measure, value)
        self._ended(trial, value)

    def failed(self, trial: str) -> None:
        self._ended(trial, math.nan)

    def stopped_early(self, trial: str) -> None:
        """It is known to be bad, and by how much is not."""
        self._ended(trial, None)

    def away(self, trial: str) -> None:
        """Another sweep runs it, or it was stopped on request."""
        with self._lock:
            self._away.add(trial)

    def begun(self, trial: str) -> None:
        with self._lock:
            self._away.discard(trial)

    def _ended(self, trial: str, value: float | None) -> None:
        with self._lock:
            self._values[trial] = value
            while self._valued < len(self._draws):
                _, trials = self._draws[self._valued]
                if not self._values.keys() >= set(trials):
                    break
                self._valued += 1
                draw = self._proposals.next(_mean([self._values[trial] for trial in trials]))
                if draw is not None:
                    self._add(draw)

    def _add(self, draw: dict[str, Any]) -> None:
        """Take up the trials of a draw; of two draws of the same values they are the same."""
        found = trials_of(replace(self._grid, draws=(draw,)), [])
        self._draws.append((draw, [config.identity for config in found.all]))
        self._new += [config for config in found.all if config.identity not in self._known]
        self._known |= {config.identity for config in found.all}
        self.needs |= found.resources


def _mean(values: list[float | None]) -> float | None:
    """Over the seeds; None where one was stopped early, NaN where one failed."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
