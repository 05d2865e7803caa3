"""What figures are drawn from: the compared groups, the arrays of their trials, their curves."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sweep.analysis.curves import observed
from sweep.reporting.groups import Compared, Group, Setting, natural
from sweep.reporting.stat import Frame

NOISE = re.compile(r"test/noise/([^/]+)/([0-9.]+(?:e-?[0-9]+)?)/accuracy")
SHOWN = 3  # noises of each space in a table; the table of all measures has the rest
Arrays = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Material:
    """compared: the groups. arrays: those of a trial, by its id. curves: a row a (trial, step).

    claimed: metrics that the run's claims are about.
    """

    compared: Compared
    arrays: Callable[[str], Arrays]
    curves: Frame
    claimed: tuple[str, ...] = ()

    def arrays_of(self, group: Group, name: str) -> list[np.ndarray]:
        """An array of each trial of a group that has it."""
        found = (self.arrays(str(trial)).get(name) for trial in group.trials["trial"])
        return [np.asarray(one, dtype=float) for one in found if one is not None and len(one)]

    def curve_of(self, trial: str, name: str) -> np.ndarray:
        """(points, 2): epoch and value of one curve of a trial, without gaps."""
        if trial not in self._by_trial:
            return np.empty((0, 2))
        rows = self._by_trial[trial]
        both = pd.DataFrame({"epoch": rows["epoch"], "value": observed(rows, name)}).dropna()
        return both.to_numpy(dtype=float).reshape(-1, 2)

    @cached_property
    def _by_trial(self) -> dict[str, Frame]:
        """The rows of each trial's curves."""
        return {str(trial): rows for trial, rows in self.curves.groupby("trial", sort=False)}


def noises(setting: Setting) -> list[tuple[str, str]]:
    """(space, sigma) of every noise that any trial was measured under, by space and strength."""
    found = {(m[1], m[2]) for name in setting.metrics if (m := NOISE.fullmatch(name))}
    return sorted(found, key=lambda pair: (natural(pair[0]), float(pair[1])))


def noises_of(compared: Compared) -> list[tuple[str, str]]:
    """`noises` of all settings together."""
    found = {pair for setting in compared.settings for pair in noises(setting)}
    return sorted(found, key=lambda pair: (natural(pair[0]), float(pair[1])))


def some_noises(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Of each space at most SHOWN, evenly from the weakest to the strongest; not 0 then."""
    kept: list[tuple[str, str]] = []
    for space in dict.fromkeys(space for space, _ in found):
        own = [pair for pair in found if pair[0] == space]
        if len(own) > SHOWN:
            own = [pair for pair in own if float(pair[1]) > 0]
            own = [own[round(i * (len(own) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
        kept += own
    return kept


def mean_curve(lines: list[np.ndarray]) -> np.ndarray:
    """(points, 2): mean over seeds at the epochs that all of them have.

    A mean of some seeds at one epoch and of others at the next would jump where nothing changed.
    """
    if not lines:
        return np.empty((0, 2))
    # One value an epoch of each seed, which may have been observed several times in it.
    tables: list[Frame] = [pd.DataFrame(line) for line in lines]
    seeds: list[Frame] = [table.groupby(0)[1].mean() for table in tables]
    table: Frame = pd.concat(seeds).groupby(level=0, sort=True).agg(["mean", "count"])
    whole = table[table["count"] == len(lines)]
    return np.column_stack([whole.index.to_numpy(dtype=float), whole["mean"].to_numpy(dtype=float)])
