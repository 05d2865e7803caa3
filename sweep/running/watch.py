"""What the trials of a sweep report: written to the journal, shown on the progress bar."""

from __future__ import annotations

import sys
from typing import Any

from shards.support.progress import Progress
from sweep.journal.events import (
    EpochEvent,
    FailedEvent,
    Journal,
    ProbeEvent,
    ResultEvent,
    StartEvent,
)
from sweep.planning.sizes import planned_steps, trial_weight
from trainers.config.schema import TrialConfig
from trainers.results.folder import finished, tidy, trial_folder
from trainers.results.record import Epoch, TrialResult, additions
from trainers.results.reprobed import read_reprobed

TRAINING = 0.9  # a trial's share of the bar; the rest is its measurements


class Watch:
    """Called for every event of a trial: `watch(identity, kind, values)`.

    `kind` is `start`, `epoch` (values: step, epoch, loss, time_ms), `finished` or `failed`
    (values: error).

    Attributes:
        steps: {trial: optimiser steps done} of the trials that train.
        ended: trials with a result or a failure.
        failed: {trial: error, in one line}.
        bar: shows progress, once it is set.
    """

    def __init__(self, journal: Journal, trials: list[TrialConfig], store: str) -> None:
        self.journal, self.store = journal, store
        self.trials = {config.identity: config for config in trials}
        self.weights = {config.identity: trial_weight(config) for config in trials}
        self.planned = {config.identity: max(1, planned_steps(config)) for config in trials}
        self._done = {config.identity: 0.0 for config in trials}  # weight that is done
        self._sum = 0.0  # of those, kept up to date: adding up all trials at each event is slow
        self.steps: dict[str, int] = {}
        self.ended: set[str] = set()
        self.failed: dict[str, str] = {}
        self.bar: Progress | None = None

    def __call__(self, trial: str, kind: str, values: dict[str, Any]) -> None:
        config = self.trials[trial]
        fields = config.model_dump(mode="json")
        if kind == "start":
            self.journal.append(StartEvent(trial=trial, config=fields))
        elif kind == "epoch":
            self.journal.append(StartEvent(trial=trial, config=fields))
            self.steps[trial] = max(self.steps.get(trial, 0), values["step"])
            self._advance(trial)
            self._epoch(trial, Epoch.model_validate(values))
        elif kind == "finished":
            self.adopt(config)
        elif kind == "failed":
            self.failed[trial] = values["error"]
            self.ended.add(trial)
            self._advance(trial)
            self.journal.append(FailedEvent(trial=trial, config=fields, error=values["error"]))
        self.show()

    def adopt(self, config: TrialConfig) -> bool:
        """Take a finished trial's result from the store into the journal; False without one."""
        result = finished(self.store, config)
        if result is None:
            return False
        tidy(self.store, config)
        trial = config.identity
        self.ended.add(trial)
        self.failed.pop(trial, None)
        self._advance(trial)
        self.journal.append(StartEvent(trial=trial, config=result.config))
        for row in result.epochs:
            self._epoch(trial, row)
        self.journal.append(ResultEvent(trial=trial, record=result))
        self._adopt_probes(config, result)
        return True

    def _adopt_probes(self, config: TrialConfig, result: TrialResult) -> None:
        """Take probes that were run again since; files that do not belong are named on stderr."""
        reprobed, skipped = read_reprobed(trial_folder(self.store, config), result)
        for again in reprobed:
            # Only what is new: a value that is in MLflow already would become a second row there.
            new = additions(result, again.probe, again.values)
            if not new.is_empty():
                event = again.model_copy(update={"values": new})
                step = result.last_step
                self.journal.append(ProbeEvent(trial=config.identity, step=step, result=event))
        for line in skipped:
            print(f"warning: skipped: {line}", file=sys.stderr)

    def _epoch(self, trial: str, row: Epoch) -> None:
        values = {"loss": row.loss, "epoch": row.epoch}
        self.journal.append(
            EpochEvent(trial=trial, step=row.step, values=values, time_ms=row.time_ms)
        )

    def _advance(self, trial: str) -> None:
        share = min(1.0, self.steps.get(trial, 0) / self.planned[trial])
        done = self.weights[trial] * (1.0 if trial in self.ended else TRAINING * share)
        self._sum += done - self._done[trial]
        self._done[trial] = done

    def done(self) -> float:
        """How much of `total` is done, but for rounding."""
        return self._sum

    def total(self) -> float:
        """The weights of all trials together, see `trial_weight`."""
        return sum(self.weights.values())

    def note(self) -> str:
        """`3/18 trials, 1 failed`."""
        note = f"{len(self.ended)}/{len(self.trials)} trials"
        return note + (f", {len(self.failed)} failed" if self.failed else "")

    def show(self) -> None:
        """Update the bar. Until a trial has reported, it keeps the first estimate."""
        if self.bar is not None:
            begun = bool(self.steps or self.ended)
            self.bar.update(self.done(), self.note() if begun else "")
