"""How a sweep stands, read from its store alone: from any machine, whether the driver lives or not.

One listing of the store says which trials are finished. The journals of the others are read, and
those of a few finished ones, from which the time that is left is estimated.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from shards.support import storage
from shards.support.lease import Claim, Observer, is_free, read_claim
from sweep.journal.overview import Overview, TrialState, overview_of
from sweep.journal.run_record import PlannedTrial, StoredSweep
from trainers.results.trial_journal import FOLDER as JOURNAL
from trainers.results.trial_journal import Row, read_rows

TRIALS, RESULT, LEASE = "trials", "result.json", "lease"  # as in trainers.results; needs torch
TIMED = 32  # finished trials whose journals are read for their times


class StatusReader:
    """Reads the status of one sweep, again and again; what cannot change is read once.

    Whether the holder of a trial's lease is alive is known on its own machine only, or by
    reading twice: the first reading from another machine takes it to be alive.
    """

    def __init__(
        self, store: str, sweep: StoredSweep, clock: Callable[[], float] = time.time
    ) -> None:
        self.store, self.sweep, self._clock = store, sweep, clock
        self._observer = Observer()
        self._finished: dict[str, list[Row]] = {}

    def read(self) -> Overview:
        """How the sweep stands now. Raises: OSError; ValueError for a damaged journal or lease."""
        files: dict[str, set[str]] = {}
        for path in storage.below(storage.join(self.store, TRIALS)):
            trial, _, rest = path.partition("/")
            files.setdefault(trial, set()).add(rest)
        trials = {
            trial: self._trial(trial, planned, files.get(trial, set()))
            for trial, planned in self.sweep.trials.items()
        }
        timings = [trial.timing for trial in trials.values() if trial.timing.started is not None]
        ends = [timing.ended for timing in timings if timing.ended is not None]
        for timing in timings:
            timing.fresh = not ends or (timing.started or 0.0) <= min(ends)
        return overview_of(self.sweep.name, trials, self._clock(), self.sweep.slots)

    def _trial(self, trial: str, planned: PlannedTrial, files: set[str]) -> TrialState:
        found = TrialState(planned, planned.timing())
        if RESULT in files:
            found.state = "finished"
            if trial not in self._finished and len(self._finished) < TIMED:
                self._finished[trial] = self._rows(trial, files)
            _take_rows(found, self._finished.get(trial, []))
            return found
        _take_rows(found, self._rows(trial, files))
        if found.state == "running" and any(name.startswith(f"{LEASE}/") for name in files):
            _, claim = read_claim(storage.join(self.store, TRIALS, trial, LEASE))
            if claim is None or self._gone(claim):
                found.state, found.timing.started = "interrupted", None
            else:
                found.holder = str(claim.process)
        return found

    def _rows(self, trial: str, files: set[str]) -> list[Row]:
        if not any(name.startswith(f"{JOURNAL}/") for name in files):
            return []
        return read_rows(storage.join(self.store, TRIALS, trial))

    def _gone(self, claim: Claim) -> bool:
        return is_free(claim) or self._observer.expired(claim)


def _take_rows(trial: TrialState, rows: list[Row]) -> None:
    """Put what a trial's journal says into its state and its timing."""
    timing, stopped = trial.timing, False
    for row in rows:
        kind, seconds = row["event"], row["time_ms"] / 1000
        if kind == "start":
            trial.config = row["config"]
            timing.restart(seconds)
        elif kind == "epoch":
            timing.step(row["step"], seconds)
            trial.loss = row["values"].get("loss")
        elif kind in ("failed", "stopped", "finished"):
            timing.ended, timing.failed = seconds, kind in ("failed", "stopped")
            stopped = kind == "stopped"
            trial.config, trial.error = row.get("config", trial.config), row.get("error", "")
    if trial.state == "finished":
        timing.failed = False
        timing.ended = timing.ended or timing.trained or timing.started or 0.0
        # Without a journal it is known to have ended, and nothing about how long it took.
        timing.started = None if not rows else timing.started
    elif timing.failed:  # also where it ended before it began, as for a bank of other weights
        trial.state = "stopped_early" if stopped else "failed"
    elif timing.started is not None:
        trial.state = "running"
