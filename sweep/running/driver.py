"""The driver of a sweep: banks first, then every trial that is not finished.

It runs in the process of `sweep.run`. Results go to the store and to the journal as they come;
another process uploads the journal to MLflow, see `sweep.journal.uploader`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from shards.support.lease import Observer, is_stop_requested
from sweep.journal.events import Journal, LimitEvent
from sweep.journal.records import read_run
from sweep.journal.run_record import record_sweep
from sweep.planning.banks import BankJob, plan_banks
from sweep.planning.costs import expected_here, seconds_here
from sweep.planning.recorded_plan import record_plan
from sweep.planning.resources import check_fits, local_gpus, share_of, slots_of
from sweep.planning.select import priorities
from sweep.planning.sizes import planned_steps, train_samples, trial_weight
from sweep.planning.trial_seconds import Seconds
from sweep.running.arriving import Arriving
from sweep.running.building import Builds
from sweep.running.connection import connected
from sweep.running.early_stopping import EarlyStops
from sweep.running.joined import wait_for_others
from sweep.running.schedule import Job, run_jobs
from sweep.running.searching import Searching
from sweep.running.shared_store import check_shared
from sweep.running.spending import Spending
from sweep.running.stopping import Stopping
from sweep.running.sweep import Outcome, Sweep
from sweep.running.view import SweepView
from sweep.running.watch import Watch
from trainers.config.schema import TrialConfig
from trainers.results.folder import begun
from trainers.results.lease import Behalf, lease_folder


def run_sweep(sweep: Sweep, trials: list[TrialConfig], search: Searching | None = None) -> Outcome:
    """Run every trial that is not finished.

    search: proposes further trials while these run; None: there are none.

    Raises: ValueError for trials that cannot be placed and for a bank that cannot be built,
        OSError where the journal cannot be written.
    """
    journal = Journal(sweep.folder)
    run = _Run(sweep, journal, trials, search)
    watch = run.watch
    try:
        if not search:
            run.record()  # now, for to take up results takes a while
        unfinished = run.unfinished(trials) + run.proposed()
        if search:  # an earlier command may have had more trials than the first ones
            run.record()
        limit = run.build_and_train(unfinished) if unfinished else None
        if limit:
            journal.append(LimitEvent(reason=limit))
    finally:
        journal.close()
    left = watch.trials.keys() - watch.ended
    remaining = 0
    if run.stopping.requested or limit:
        remaining = len(left) + (search.left if search else 0)
    else:
        for trial in left - watch.stopped.keys():
            watch.failed[trial] = "ended without a result; run the same command again to retry it"
    return Outcome(watch.failed, watch.stopped, watch.stopped_early, remaining, limit)


class _Run:
    """One run of a sweep.

    Attributes:
        watch: knows what has become of each trial.
        stopping: knows whether the sweep is to end.
    """

    def __init__(
        self,
        sweep: Sweep,
        journal: Journal,
        trials: list[TrialConfig],
        search: Searching | None,
    ) -> None:
        self.sweep, self.search = sweep, search
        self.watch = Watch(journal, trials, sweep.store, search)
        self.stopping = Stopping(sweep.store, sweep.hold.stop_requested, self._running)
        self._begun = begun(sweep.store)
        self._first = dict(sweep.first)
        self._failed = dict[str, str]() if sweep.retry_failed else _failed_before(sweep.folder)
        self._bank_of: dict[str, str] = {}  # {trial: location}
        self._stops: EarlyStops | None = None
        if sweep.early_stopping is not None:
            longest = search.most_epochs if search else 0.0
            self._stops = EarlyStops(sweep.early_stopping, _epochs(trials), longest)

    def record(self) -> None:
        """Write the trials into the store, for `sweep.status`."""
        record_sweep(self.sweep.store, self.sweep.record, self.watch.plans, self.watch.slots)

    def unfinished(self, trials: list[TrialConfig]) -> list[TrialConfig]:
        """Those that are to run; what has become of the others in earlier runs is taken up."""
        watch = self.watch
        left = [c for c in trials if c.identity not in self._begun or not watch.adopt(c)]
        failures = {c.identity for c in left} & self._failed.keys()
        watch.skip({trial: self._failed[trial] for trial in sorted(failures)})
        reasons: dict[str, str] = {}
        if self._stops:
            self._stops.adopt(_epochs(trials), self.sweep.store, self._begun)
            reasons = self._stops.reasons
        stopped = {c.identity for c in left} & reasons.keys() - watch.ended
        watch.skip_stopped({trial: reasons[trial] for trial in sorted(stopped)})
        return [config for config in left if config.identity not in watch.ended]

    def proposed(self) -> list[TrialConfig]:
        """Those that are to run of the trials that the search has proposed by now."""
        found: list[TrialConfig] = []
        while self.search and (new := self.search.take()):
            new = [config for config in new if config.identity not in self.watch.trials]
            self.watch.add(new)
            self._first |= priorities(new, self.search.grid.first)
            self._begun = begun(self.sweep.store)  # also by a sweep that has joined
            found += self.unfinished(new)
        return found

    def build_and_train(self, trials: list[TrialConfig]) -> str | None:
        """Returns which limit was reached, in one line, None where none was."""
        sweep, watch = self.sweep, self.watch
        resources, store = sweep.resources, sweep.store
        check_fits(trials, resources)
        banks = self._plan_banks(trials)
        here = resources.address is None
        plugins = sorted({spec for config in trials for spec in config.plugins})
        builds = Builds(banks, store, resources)
        with contextlib.ExitStack() as stack:
            if here:
                stack.enter_context(builds)  # while Ray starts
            self._record_expected(trials, banks)
            first_builds = here and bool(banks)  # which show their own progress first
            if not first_builds:
                watch.bar = stack.enter_context(SweepView(watch, watch.note()))
            cpus, address = resources.local_cpus(), resources.address
            stack.enter_context(connected(address, cpus, sweep.folder, plugins, len(trials)))
            if here:
                with self.stopping.during(builds.stop):
                    builds.wait()  # they and trials would take each other's cores, and GPUs' memory
            else:
                check_shared(store)
                stack.enter_context(builds)
            if first_builds:
                watch.bar = stack.enter_context(SweepView(watch, watch.note()))
            self.stopping.look(lambda: None)  # nothing starts after a request
            return self._train(trials, builds)

    def _record_expected(self, trials: list[TrialConfig], banks: list[BankJob]) -> None:
        """Write plan.json, and say what trials take on this machine, until they were seen."""
        expected, resources = self.sweep.expected, self.sweep.resources
        if not resources.address:
            self.watch.slots = slots_of(trials, resources)
            seconds = self._timed(list(self.watch.trials.values()))
            self.record()
            expected = expected or expected_here(trials, banks, seconds, resources)
        record_plan(self.sweep.folder, **({} if expected is None else expected.as_recorded()))

    def _timed(self, trials: list[TrialConfig]) -> dict[str, Seconds]:
        """What trials take on this machine, which the time left is then estimated by."""
        seconds = seconds_here(trials)
        if not local_gpus(self.sweep.resources):
            self.watch.set_seconds(seconds)
        return seconds

    def _train(self, trials: list[TrialConfig], builds: Builds) -> str | None:
        """Run the trials, again and again those that other sweeps had and left."""
        sweep, search, stopping = self.sweep, self.search, self.stopping
        jobs = self._jobs(trials)
        behalf, observer = Behalf(sweep.hold.token), Observer()
        spending = self._spending(trials) if sweep.limits else None
        arriving = Arriving(self.watch, self._arrived, search.waits) if search else None
        while jobs and not stopping.requested and not (spending and spending.stopped):
            run_jobs(
                jobs,
                sweep.store,
                sweep.folder,
                sweep.resources,
                arriving or self.watch,
                behalf,
                stopping,
                sweep.owns_process,
                self._stops,
                spending,
                builds,
                arriving,
            )
            if builds.failed:
                builds.wait()
            with stopping.during(lambda: None):
                free, gone = self.left_by_others(observer)
            jobs = self._jobs(free) + self._arrived()
            if arriving:
                jobs += arriving.take()
            behalf = Behalf(sweep.hold.token, gone)
        return spending.stopped if spending else None

    def left_by_others(self, observer: Observer) -> tuple[list[TrialConfig], tuple[str, ...]]:
        """Wait for trials that other sweeps run, as `wait_for_others`.

        Returns: those that are to run here, and the holders that gave no sign of life. A trial that
        was stopped early, or that `sweep.stop` ended, is left as it is.
        """
        watch, search, store = self.watch, self.search, self.sweep.store
        while True:
            free, gone = wait_for_others(
                [watch.trials[trial] for trial in watch.elsewhere],
                store,
                watch.adopt,
                lambda: self.stopping.requested or bool(search and search.waits()),
                observer,
            )
            self._begun |= {config.identity for config in free}
            requested = {c.identity for c in free if is_stop_requested(lease_folder(store, c))}
            left = [c for c in self.unfinished(free) if c.identity not in requested]
            for trial in requested - watch.ended:
                watch(trial, "stopped", {"error": "on request, by the sweep that ran it"})
            watch.elsewhere -= requested | watch.ended
            if left or not free:
                return left, gone

    def _arrived(self) -> list[Job]:
        """Those that the search has proposed since; called in the thread of events."""
        known, resources = len(self.watch.trials), self.sweep.resources
        new = self.proposed()
        if new:
            check_fits(new, resources)
            if not (resources.address or local_gpus(resources)):
                self._timed(new)
        if len(self.watch.trials) > known:
            self.record()
        return self._jobs(new)

    def _jobs(self, trials: list[TrialConfig]) -> list[Job]:
        """Those that the grid puts first come first, and then the heaviest.

        At the end, when some workers have nothing left to do, the trials that the others are
        waiting for are short then.
        """
        first, last = self._first, len(self._first)
        ordered = sorted(trials, key=lambda c: (first.get(c.identity, last), -trial_weight(c)))
        unknown = [config for config in trials if config.identity not in self._bank_of]
        if unknown:
            self._plan_banks(unknown)
        return [Job(config, self._bank_of[config.identity]) for config in ordered]

    def _plan_banks(self, trials: list[TrialConfig]) -> list[BankJob]:
        """The banks to build for the trials."""
        found, banks = plan_banks(trials, self.sweep.store, self.sweep.teacher_robustness)
        self._bank_of |= found
        return banks

    def _running(self) -> list[TrialConfig]:
        return [self.watch.trials[trial] for trial in tuple(self.watch.running)]

    def _spending(self, trials: list[TrialConfig]) -> Spending:
        """What may start under the limits. Raises: ValueError, as `spent_before`."""
        sweep = self.sweep
        expected, resources = sweep.expected, sweep.resources
        assert expected is not None
        assert sweep.limits is not None
        on_cpu = expected.device == "cpu"
        shares, ranks = dict[str, float](), dict[str, int]()
        for config in trials:
            shares[config.identity] = share_of(config, resources, on_cpu)
            ranks[config.identity] = config.ranks
        slots = None if resources.address else self.watch.slots
        return Spending(
            sweep.folder, sweep.limits, expected.trial_seconds, shares, sweep.price,
            expected.currency, other=expected.build_money, slots=slots, ranks=ranks,
            begun=self._begun,
        )  # fmt: skip


def _failed_before(folder: Path) -> dict[str, str]:
    """{trial: error} of those whose last attempt failed, by the journal."""
    return {event.trial: event.error for event in read_run(folder).failures}


def _epochs(trials: list[TrialConfig]) -> dict[str, float]:
    """{trial: how many epochs it has} of those that train."""
    return {
        c.identity: planned_steps(c) / max(1, train_samples(c) // c.batch_size)
        for c in trials
        if c.trains
    }
