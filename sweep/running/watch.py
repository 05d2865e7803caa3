"""What the driver hears of its trials: into the journal, onto the bar."""

from __future__ import annotations

import sys
from typing import Any

from shards.support.progress import Progress
from sweep.journal import Journal
from sweep.planning.sizes import planned_steps, trial_weight
from trainers.config.schema import TrialConfig
from trainers.results.reprobed import VALUES, added, read_probed
from trainers.trial import finished, tidy, trial_place

TRAINING = 0.9  # a trial's share of the bar; the rest is its measurements


class Watch:
    """Called for every trial: `watch(identity, kind, values)`.

    `kind` is start, epoch (step, epoch, loss, time_ms), finished or failed (error).
    """

    def __init__(self, journal: Journal, trials: list[TrialConfig], store: str) -> None:
        self.journal, self.store = journal, store
        self.trials = {config.identity: config for config in trials}
        self.weights = {config.identity: trial_weight(config) for config in trials}
        self.planned = {config.identity: max(1, planned_steps(config)) for config in trials}
        self.steps: dict[str, int] = {}
        self.ended: set[str] = set()
        self.failed: dict[str, str] = {}
        self.bar: Progress | None = None

    def __call__(self, trial: str, kind: str, values: dict[str, Any]) -> None:
        config = self.trials[trial]
        fields = {"config": config.model_dump(mode="json")}
        if kind == "start":
            self.journal.append("start", trial, **fields)
        elif kind == "epoch":
            self.journal.append("start", trial, **fields)
            self.steps[trial] = max(self.steps.get(trial, 0), values["step"])
            self._epoch(trial, values)
        elif kind == "finished":
            self.adopt(config)
        elif kind == "failed":
            self.failed[trial] = values["error"]
            self.ended.add(trial)
            self.journal.append("failed", trial, **fields, **values)
        self.show()

    def adopt(self, config: TrialConfig) -> bool:
        """Take a finished trial's result from the store into the journal."""
        record = finished(self.store, config)
        if record is None:
            return False
        tidy(self.store, config)
        trial = config.identity
        self.ended.add(trial)
        self.failed.pop(trial, None)
        self.journal.append("start", trial, config=record["config"])
        for row in record["curve"]:
            self._epoch(trial, row)
        self.journal.append("result", trial, record=record)
        self._adopt_probes(config, record)
        return True

    def _adopt_probes(self, config: TrialConfig, record: dict[str, Any]) -> None:
        """Probes that were run again on the trial since; what does not belong to it is named."""
        probed, passed_over = read_probed(trial_place(self.store, config), record)
        step = record["curve"][-1]["step"] if record["curve"] else 0
        for one in probed:
            result = added(record, one)
            if any(result[part] for part in VALUES):
                self.journal.append("probe", config.identity, step=step, result=result)
        for line in passed_over:
            print(f"warning: passed over: {line}", file=sys.stderr)

    def _epoch(self, trial: str, row: dict[str, Any]) -> None:
        values = {"loss": row["loss"], "epoch": row["epoch"]}
        at = {"step": row["step"], "time_ms": row["time_ms"]}
        self.journal.append("epoch", trial, values=values, **at)

    def done(self) -> float:
        """How much of `total` is behind us."""
        total = 0.0
        for trial, weight in self.weights.items():
            share = min(1.0, self.steps.get(trial, 0) / self.planned[trial])
            total += weight * (1.0 if trial in self.ended else TRAINING * share)
        return total

    def total(self) -> float:
        return sum(self.weights.values())

    def note(self) -> str:
        note = f"{len(self.ended)}/{len(self.trials)} trials"
        return note + (f", {len(self.failed)} failed" if self.failed else "")

    def show(self) -> None:
        if self.bar is not None:
            begun = bool(self.steps or self.ended)  # until then, the first guess stays
            self.bar.update(self.done(), self.note() if begun else "")
