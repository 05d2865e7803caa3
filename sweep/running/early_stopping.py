"""Which running trials are stopped early: decided by Ray Tune's own schedulers.

Tune is given identities and knows its attempts by numbers of its own; a trial that is tried again,
or that an earlier driver ran, is another attempt to it. Its schedulers are therefore called with
the trial's identity here. Their state is never stored: it is made again from the values that the
trials' journals hold (`replay`).
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from shards.support import storage
from sweep.planning.early_stopping import EarlyStopping
from trainers.results.folder import TRIALS
from trainers.results.trial_journal import read_rows

TIME, VALUE = "epoch", "value"


@dataclass(frozen=True)
class _Known:
    """Stands for Tune's trial in calls of its schedulers, which read this one attribute."""

    trial_id: str


class EarlyStops:
    """Decides after each observed epoch whether a trial goes on.

    rule: of the grid. epochs: {trial: how many it has}; at its last one no trial is stopped.
    longest: epochs of the longest trial that may be taken up later. May be used by several threads.
    """

    def __init__(
        self, rule: EarlyStopping, epochs: Mapping[str, float], longest: float = 0.0
    ) -> None:
        self.rule, self._epochs = rule, dict(epochs)
        self._lock = threading.RLock()  # of all that follows
        self._scheduler = _scheduler(rule, max(longest, *epochs.values(), 1.0))
        self._values: dict[str, dict[float, float]] = {}  # {trial: {epoch: value}}
        self.reasons: dict[str, str] = {}  # of the trials that were stopped, earlier ones included

    def decide(self, trial: str, epoch: float, value: float) -> bool:
        """Take a value; whether the trial is to be stopped. A value taken before changes nothing.

        The reason of a stop is then in `reasons`.
        """
        with self._lock:
            if trial in self.reasons:
                return True
            if not self._take(trial, epoch, value) or epoch >= self._epochs.get(trial, 0):
                return False
            self.reasons[trial] = self._reason(trial, epoch, value)
            return True

    def replay(self, trial: str, values: Iterable[tuple[float, float]]) -> None:
        """Take (epoch, value) pairs that were recorded before; nothing is decided again."""
        with self._lock:
            for epoch, value in sorted(values):
                self._take(trial, epoch, value, replaying=True)

    def adopt(self, epochs: Mapping[str, float], store: str, begun: Iterable[str]) -> None:
        """Take up trials, with what the journals of those `begun` in the store recorded.

        Raises: ValueError for a damaged journal; OSError.
        """
        self._epochs |= epochs
        for trial in sorted(set(begun) & epochs.keys()):
            rows = read_rows(storage.join(store, TRIALS, trial))
            found = [
                self.observed({"epoch": row["values"]["epoch"], "observed": row.get("observed")})
                for row in rows
                if row["event"] == "epoch"
            ]
            self.replay(trial, [pair for pair in found if pair is not None])
            ends = [row for row in rows if row["event"] in ("start", "failed", "stopped")]
            if ends and ends[-1]["event"] == "stopped":
                self.reasons[trial] = ends[-1]["error"]

    def observed(self, result: Mapping[str, Any]) -> tuple[float, float] | None:
        """(epoch, value) of what a trial reports; None where the metric was not observed."""
        values = result.get("observed") or {}
        value = values.get(self.rule.measure, result.get(f"observed/{self.rule.measure}"))
        return None if value is None else (float(result["epoch"]), float(value))

    def _take(self, trial: str, epoch: float, value: float, replaying: bool = False) -> bool:
        """Whether the scheduler would stop the trial at this value."""
        known = self._values.setdefault(trial, {})
        if epoch in known or epoch <= 0 or not math.isfinite(value):
            return False
        scheduler: Any = self._scheduler
        if not known:
            scheduler.on_trial_add(None, _Known(trial))
        known[epoch] = value
        result = {TIME: epoch, VALUE: value}
        if replaying and self.rule.by == "median":
            # `on_trial_result` would decide, and refuse later values of a trial that it decided to
            # stop: in another order of values than at first it may decide otherwise.
            scheduler.on_trial_complete(None, _Known(trial), result)
            return False
        action = scheduler.on_trial_result(None, _Known(trial), result)
        return action == TrialScheduler.STOP

    def _reason(self, trial: str, epoch: float, value: float) -> str:
        others = [
            values[epoch]
            for other, values in self._values.items()
            if other != trial and epoch in values
        ]
        best = (max if self.rule.mode == "max" else min)(others, default=math.nan)
        return (
            f"stopped early at epoch {epoch:g} of {self._epochs[trial]:g} by {self.rule.by}: "
            f"{self.rule.measure} {value:.4g}, the best of {len(others)} other trials there has "
            f"{best:.4g}"
        )


def _scheduler(rule: EarlyStopping, epochs: float) -> Any:
    """Tune's scheduler for a rule. epochs: of the longest trial."""
    logging.getLogger("ray.tune.schedulers").setLevel(logging.WARNING)
    if rule.by == "median":
        return MedianStoppingRule(
            time_attr=TIME,
            metric=VALUE,
            mode=rule.mode,
            grace_period=rule.grace_epochs,
            min_samples_required=rule.min_trials,
            # It never pauses a trial to let others catch up: only no time is above infinity.
            min_time_slice=math.inf,  # pyright: ignore[reportArgumentType]
        )
    return AsyncHyperBandScheduler(
        time_attr=TIME,
        metric=VALUE,
        mode=rule.mode,
        max_t=max(rule.grace_epochs, math.ceil(epochs)),
        grace_period=rule.grace_epochs,
        reduction_factor=rule.reduction,
        stop_last_trials=False,  # or it would stop those that come to their end, unmeasured
    )
