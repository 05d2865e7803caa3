"""What the trials of a sweep report: written to the journal, shown on the progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shards.support.progress import Progress
from sweep.journal.events import FailedEvent, Journal, StartEvent, StoppedEvent
from sweep.journal.overview import Overview, TrialState, overview_of
from sweep.journal.run_record import PlannedTrial
from sweep.journal.stored import epoch_event, probe_events, result_events
from sweep.planning.kinds import kinds_of
from sweep.planning.remaining import Timing, remaining_seconds
from sweep.planning.sizes import planned_steps, training_work, trial_weight
from sweep.planning.trial_seconds import Seconds, nominal, seconds_of
from sweep.running.searching import Searching
from trainers.config.schema import TrialConfig
from trainers.results.folder import finished, tidy, trial_folder
from trainers.results.record import Epoch
from trainers.results.trial_journal import note_failure, read_rows


def planned_trials(trials: list[TrialConfig]) -> dict[str, PlannedTrial]:
    """{identity: what the trial costs}, in nominal seconds."""
    plans: dict[str, PlannedTrial] = {}
    for kind, members in kinds_of(trials):
        plan = PlannedTrial(
            steps=planned_steps(kind.config),
            work=training_work(kind.config),
            weight=trial_weight(kind.config),
            ranks=kind.config.ranks,
            **_parts(seconds_of(kind, nominal(kind))),
        )
        plans |= {config.identity: plan for config in members}
    return {config.identity: plans[config.identity] for config in trials}


def _parts(seconds: Seconds) -> dict[str, Any]:
    """The parts that progress and the time left are counted in.

    What is fixed is seen when trials run: it is what passes before their first step.
    """
    return {name: getattr(seconds, name) for name in ("training", "embedding", "probing")}


class Watch:
    """Called for every event of a trial: `watch(identity, kind, values)`.

    `kind` is `start`, `epoch` (values: step, epoch, loss, time_ms and, where something was, what
    was observed), `finished`, `waits` (for another attempt), or one of `failed`, `stopped`,
    `stopped_early` and `elsewhere`, whose values have an `error`.

    Attributes:
        steps: {trial: optimiser steps done} of the trials that train.
        ended: trials with a result or a failure, and those that were stopped early.
        failed: {trial: error, in one line}.
        stopped: {trial: where it was stopped on request}.
        stopped_early: {trial: when and why}.
        elsewhere: trials that another sweep was found to run, in the last attempt.
        running: {trial: its timing} of those that were started and have not ended.
        slots: how many ranks run at a time, None where that is not known.
        bar: shows progress, once it is set.

    search: gets the outcomes of trials; None: no further ones depend on them.
    """

    def __init__(
        self,
        journal: Journal,
        trials: list[TrialConfig],
        store: str,
        search: Searching | None = None,
    ) -> None:
        self.journal, self.store, self._search = journal, store, search
        self.trials = {config.identity: config for config in trials}
        self.plans = planned_trials(trials)
        self._done = dict.fromkeys(self.trials, 0.0)  # weight that is done
        self._sum = 0.0  # of those, kept up to date: adding up all trials at each event is slow
        self.timings = {name: plan.timing() for name, plan in self.plans.items()}
        self.slots: int | None = None
        self.losses: dict[str, float] = {}
        self._one_ended = False  # whether a trial of this command has ended
        self.steps: dict[str, int] = {}
        self.ended: set[str] = set()
        self.failed: dict[str, str] = {}
        self.stopped: dict[str, str] = {}
        self.stopped_early: dict[str, str] = {}
        self.elsewhere: set[str] = set()
        self.running: dict[str, Timing] = {}
        self.bar: Progress | None = None

    def __call__(self, trial: str, kind: str, values: dict[str, Any]) -> None:
        config = self.trials[trial]
        if kind == "start":
            self._started(config)
            self.elsewhere.discard(trial)
            self._begin(trial)
            if self._search:
                self._search.begun(trial)
        elif kind == "epoch":
            self._started(config)
            self.steps[trial] = max(self.steps.get(trial, 0), values["step"])
            self.losses[trial] = values["loss"]
            self.timings[trial].step(values["step"], time.time())
            self._advance(trial)
            row = Epoch.model_validate({n: v for n, v in values.items() if n != "observed"})
            self.journal.append(epoch_event(trial, row, values.get("observed", {})))
        elif kind == "finished":
            if not self.adopt(config) and self._search:
                self._search.away(trial)  # its result is gone: there is nothing to wait for
        elif kind in ("waits", "stopped", "elsewhere"):
            self.running.pop(trial, None)
            self.timings[trial].interrupt()
            if kind == "stopped":
                self.stopped[trial] = values["error"]
            elif kind == "elsewhere":
                self.elsewhere.add(trial)
            if self._search and kind != "waits":
                self._search.away(trial)
        elif kind == "stopped_early":
            reason, fields = values["error"], config.model_dump(mode="json")
            self.skip_stopped({trial: reason})
            note_failure(trial_folder(self.store, config), config, reason, "stopped")
        elif kind == "failed":
            error, fields = values["error"], config.model_dump(mode="json")
            self.skip({trial: error})
            self.journal.append(FailedEvent(trial=trial, config=fields, error=error))
            note_failure(trial_folder(self.store, config), config, error)
        self.show()

    def add(self, trials: list[TrialConfig]) -> None:
        """Take up further trials, of which nothing has happened yet."""
        # In place of the old ones, which another thread may look through now.
        plans = planned_trials(trials)
        self.timings = self.timings | {name: plan.timing() for name, plan in plans.items()}
        self.plans = self.plans | plans
        self._done = self._done | dict.fromkeys(plans, 0.0)
        self.trials = self.trials | {config.identity: config for config in trials}

    def set_seconds(self, seconds: Mapping[str, Seconds]) -> None:
        """Plan with these seconds of all trials, which were timed on this machine."""
        for trial, timed in seconds.items():
            fields = _parts(timed) | {"timed": True}
            self.plans[trial] = self.plans[trial].model_copy(update=fields)
            self.timings[trial] = replace(self.timings[trial], **fields)
            self._advance(trial)

    def adopt(self, config: TrialConfig) -> bool:
        """Take a finished trial's result from the store into the journal; False without one."""
        result = finished(self.store, config)
        if result is None:
            return False
        tidy(self.store, config)
        trial = config.identity
        self.failed.pop(trial, None)
        self.stopped_early.pop(trial, None)
        self.elsewhere.discard(trial)
        self._end(trial)
        self._advance(trial)
        skipped: list[str] = []
        if not self.journal.has_result(trial, result):
            rows = read_rows(trial_folder(self.store, config))
            self.journal.extend(result_events(trial, result, rows))
        for event in probe_events(self.store, trial, result, skipped):
            self.journal.append(event)
        for line in skipped:
            print(f"warning: skipped: {line}", file=sys.stderr)
        if self._search:
            self._search.finished(trial, result)
        return True

    def skip(self, failures: dict[str, str]) -> None:
        """Count trials as failed: {trial: error}."""
        for trial, error in failures.items():
            self.failed[trial] = error
            self._end(trial)
            self._advance(trial)
            if self._search:
                self._search.failed(trial)

    def skip_stopped(self, reasons: dict[str, str]) -> None:
        """Count trials as stopped early: {trial: when and why}."""
        for trial, reason in reasons.items():
            self.stopped_early[trial] = reason
            self._end(trial)
            self._advance(trial)
            if not self.journal.has_failure(trial, reason):
                self._started(self.trials[trial])
                fields = self.trials[trial].model_dump(mode="json")
                self.journal.append(StoppedEvent(trial=trial, config=fields, error=reason))
            if self._search:
                self._search.stopped_early(trial)

    def _started(self, config: TrialConfig) -> None:
        if not self.journal.has_started(config.identity):
            fields = config.model_dump(mode="json")
            self.journal.append(StartEvent(trial=config.identity, config=fields))

    def _begin(self, trial: str) -> None:
        timing = self.timings[trial]
        timing.restart(time.time())
        timing.fresh = not self._one_ended
        self.running[trial] = timing

    def _end(self, trial: str) -> None:
        self.ended.add(trial)
        timing = self.timings[trial]
        without = trial in self.failed or trial in self.stopped_early
        timing.ended, timing.failed = time.time(), without
        self._one_ended |= self.running.pop(trial, None) is not None

    def _advance(self, trial: str) -> None:
        plan = self.plans[trial]
        share = 1.0 if trial in self.ended else plan.done(self.steps.get(trial, 0))
        done = plan.cost * share
        self._sum += done - self._done[trial]
        self._done[trial] = done

    def done(self) -> float:
        """How much of `total` is done, but for rounding."""
        return self._sum

    def total(self) -> float:
        """The costs of all trials together, see `PlannedTrial`."""
        return sum(plan.cost for plan in [*self.plans.values(), *self._to_come()])

    def remaining(self) -> float | None:
        """Seconds until the last trial ends; None before that can be estimated."""
        timings = [*self.timings.values(), *(plan.timing() for plan in self._to_come())]
        return remaining_seconds(timings, time.time(), self.slots)

    def _to_come(self) -> list[PlannedTrial]:
        """Plans of the trials that the search has still to propose: like the newest one's."""
        if self._search is None:
            return []
        return self._search.left * [list(self.plans.values())[-1]]

    def overview(self) -> Overview:
        """How the sweep stands."""
        running = set(self.running)  # another thread notes events meanwhile
        states = {name: self._state(name, name in running) for name in self.trials}
        found = overview_of("trials", states, time.time(), self.slots)
        if self._search is None:
            return found
        return found.model_copy(update={"remaining_seconds": self.remaining()})

    def _state(self, trial: str, running: bool) -> TrialState:
        found = TrialState(self.plans[trial], self.timings[trial], loss=self.losses.get(trial))
        if trial in self.ended:
            found.state = "failed" if trial in self.failed else "finished"
            found.error = self.failed.get(trial, "")
            if trial in self.stopped_early:
                found.state, found.error = "stopped_early", self.stopped_early[trial]
        elif running:
            found.state = "running"
        if found.state in ("running", "failed", "stopped_early"):  # the others are only counted
            found.config = self.trials[trial].model_dump(mode="json")
        return found

    def note(self) -> str:
        """`3/18 trials, 2 running, 1 failed, 41 steps/s`."""
        to_come = self._search.left if self._search else 0
        note = f"{len(self.ended)}/{len(self.trials) + to_come} trials"
        running = list(self.running.values())
        rate = sum(1 / pace for timing in running if (pace := timing.seconds_a_step()))
        note += f", {len(running)} running" if running else ""
        note += f", {len(self.failed)} failed" if self.failed else ""
        stopped = len(self.stopped_early)
        note += f", {stopped} stopped early" if stopped else ""
        return note + (f", {rate:.3g} steps/s" if rate else "")

    def show(self) -> None:
        """Update the bar. Until a trial has reported, it keeps the first estimate."""
        if self.bar is not None:
            begun = bool(self.steps or self.ended)
            self.bar.update(self.done(), self.note() if begun else "")
