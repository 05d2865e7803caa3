"""The driver of a sweep: banks first, then every trial that is not finished.

It runs in the process of `sweep.run`. Results go to the store and to the journal as they come;
another process uploads the journal to MLflow, see `sweep.journal.uploader`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shards.support.lease import Observer
from sweep.journal.events import Journal, LimitEvent
from sweep.journal.records import read_run
from sweep.journal.run_record import RunRecord, record_sweep
from sweep.planning.banks import BankJob, plan_banks
from sweep.planning.costs import Expected, expected_here, seconds_here
from sweep.planning.early_stopping import EarlyStopping
from sweep.planning.limits import Limits
from sweep.planning.recorded_plan import record_plan
from sweep.planning.sizes import planned_steps, train_samples, trial_weight
from sweep.running.building import Builds
from sweep.running.connection import connected
from sweep.running.early_stopping import EarlyStops, replayed
from sweep.running.holding import Hold
from sweep.running.joined import wait_for_others
from sweep.running.resources import Resources, at_once, check_fits, local_gpus, placement_of
from sweep.running.schedule import Job, run_jobs
from sweep.running.shared_store import check_shared
from sweep.running.spending import Spending
from sweep.running.stopping import Stopping
from sweep.running.view import SweepView
from sweep.running.watch import Watch
from trainers.config.schema import TrialConfig
from trainers.results.folder import begun
from trainers.results.lease import Behalf


@dataclass(frozen=True)
class Sweep:
    """Where a sweep runs and where it writes.

    Attributes:
        folder: of the journal and the report, on this machine.
        store: folder or URL of banks, trial results and checkpoints.
        resources: Ray's address, and what each trial may use.
        record: the run's, from run.json.
        hold: this sweep's right to work on the store.
        retry_failed: whether trials run that failed in an earlier run of the sweep in `folder`.
        teacher_robustness: whether new banks hold the teacher's figures under the test arms in
            place of its embeddings.
        early_stopping: the rule by which trials are stopped early; None: none are.
        first: {trial identity: number} of trials that start before the others, the lowest first.
        limits: money and time after which no more trials start. They need `expected`, and price:
            of one GPU, or core, for an hour.
        expected: what the sweep is expected to take; None: estimated here where that can be.
        owns_process: whether this process is a command's own: it is replaced when Ray dies in it,
            and ended by a second Ctrl-C. Otherwise both raise an error.
    """

    folder: Path
    store: str
    resources: Resources
    record: RunRecord
    hold: Hold
    retry_failed: bool = True
    teacher_robustness: bool = False
    early_stopping: EarlyStopping | None = None
    first: Mapping[str, int] = field(default_factory=dict)
    limits: Limits | None = None
    price: float = 0.0
    expected: Expected | None = None
    owns_process: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended.

    Attributes:
        failed: {trial identity: error} of the trials that failed.
        stopped: {trial identity: where it was stopped} of those that ended on request.
        stopped_early: {trial identity: when and why} of those that early stopping ended.
        left: how many trials are still to be run, because the sweep ended on request or at a limit.
        limit: which limit was reached, in one line; None: none was.
    """

    failed: dict[str, str]
    stopped: dict[str, str]
    stopped_early: dict[str, str]
    left: int
    limit: str | None = None


def run_sweep(sweep: Sweep, trials: list[TrialConfig]) -> Outcome:
    """Run every trial that is not finished.

    Raises: ValueError for trials that cannot be placed and for a bank that cannot be built,
        OSError where the journal cannot be written.
    """
    journal = Journal(sweep.folder)
    watch = Watch(journal, trials, sweep.store)
    try:
        record_sweep(sweep.store, sweep.record, watch.plans)
        found = begun(sweep.store)
        unfinished = [
            config for config in trials if config.identity not in found or not watch.adopt(config)
        ]
        if not sweep.retry_failed:
            watch.skip(_failed_before(sweep.folder, unfinished))
            unfinished = [c for c in unfinished if c.identity not in watch.failed]
        stops = None
        if sweep.early_stopping is not None:
            epochs = {config.identity: _epochs(config) for config in trials if config.trains}
            stops = replayed(sweep.early_stopping, epochs, sweep.store, found)
            before = {c.identity for c in unfinished} & stops.reasons.keys()
            watch.skip_stopped({trial: stops.reasons[trial] for trial in sorted(before)})
            unfinished = [c for c in unfinished if c.identity not in before]
        stopping = _stopping(sweep, watch)
        limit = None
        if unfinished:
            limit = _build_and_train(sweep, unfinished, watch, stopping, stops)
        if limit:
            journal.append(LimitEvent(reason=limit))
    finally:
        journal.close()
    left = {config.identity for config in unfinished} - watch.ended
    if not (stopping.requested or limit):
        for trial in left - watch.stopped.keys():
            watch.failed[trial] = "ended without a result; run the same command again to retry it"
    remaining = len(left) if stopping.requested or limit else 0
    return Outcome(watch.failed, watch.stopped, watch.stopped_early, remaining, limit)


def _failed_before(folder: Path, trials: list[TrialConfig]) -> dict[str, str]:
    """{trial: error} of those whose last attempt failed, by the journal."""
    wanted = {config.identity for config in trials}
    return {e.trial: e.error for e in read_run(folder).failures if e.trial in wanted}


def _epochs(config: TrialConfig) -> float:
    """How many epochs a trial has."""
    return planned_steps(config) / max(1, train_samples(config) // config.batch_size)


def _stopping(sweep: Sweep, watch: Watch) -> Stopping:
    def running() -> list[TrialConfig]:
        return [watch.trials[trial] for trial in tuple(watch.running)]

    return Stopping(sweep.store, sweep.hold.stop_requested, running)


def _build_and_train(
    sweep: Sweep,
    trials: list[TrialConfig],
    watch: Watch,
    stopping: Stopping,
    stops: EarlyStops | None,
) -> str | None:
    """Returns which limit was reached, in one line, None where none was."""
    resources, store = sweep.resources, sweep.store
    check_fits(trials, resources)
    bank_of, banks = plan_banks(trials, store, sweep.teacher_robustness)
    here = resources.address is None
    plugins = sorted({spec for config in trials for spec in config.plugins})
    builds = Builds(banks, store, resources)
    with contextlib.ExitStack() as stack:
        if here:
            stack.enter_context(builds)  # while Ray starts
        _record_expected(sweep, trials, banks, watch)
        first_builds = here and bool(banks)  # which show their own progress first
        if not first_builds:
            watch.bar = stack.enter_context(SweepView(watch, watch.note()))
        cpus = resources.local_cpus()
        address = resources.address
        stack.enter_context(connected(address, cpus, sweep.folder, plugins, len(trials)))
        if here:
            builds.wait()  # they and the trials would take each other's cores, and memory of GPUs
        else:
            check_shared(store)
            stack.enter_context(builds)
        if first_builds:
            watch.bar = stack.enter_context(SweepView(watch, watch.note()))
        return _train(sweep, trials, bank_of, builds, watch, stopping, stops)


def _record_expected(
    sweep: Sweep, trials: list[TrialConfig], banks: list[BankJob], watch: Watch
) -> None:
    """Write plan.json, and give `watch` what trials take on this machine, until they were seen."""
    expected, resources = sweep.expected, sweep.resources
    if not resources.address:
        cpus, seconds = resources.local_cpus(), seconds_here(list(watch.trials.values()))
        watch.at_once = at_once(trials, resources)
        if not local_gpus(resources):
            watch.set_seconds(seconds)
            record_sweep(sweep.store, sweep.record, watch.plans)
        expected = expected or expected_here(trials, banks, seconds, cpus, resources.gpus_per_trial)
    record_plan(sweep.folder, **({} if expected is None else expected.as_recorded()))


def _train(
    sweep: Sweep,
    trials: list[TrialConfig],
    bank_of: Mapping[str, str],
    builds: Builds,
    watch: Watch,
    stopping: Stopping,
    stops: EarlyStops | None,
) -> str | None:
    """Run the trials, again and again those that other sweeps had and left; as _build_and_train."""
    # The heaviest first, of those that take equal resources: at the end, when some workers have
    # nothing left to do, the trials that the others are waiting for are short. Those that the grid
    # puts first come before.
    last = len(sweep.first)
    ordered = sorted(trials, key=lambda c: (sweep.first.get(c.identity, last), -trial_weight(c)))
    behalf, observer = Behalf(sweep.hold.token), Observer()
    spending = _spending(sweep, trials, watch) if sweep.limits else None
    while ordered and not stopping.requested and not (spending and spending.stopped):
        run_jobs(
            [Job(config, bank_of[config.identity]) for config in ordered],
            sweep.store,
            sweep.folder,
            sweep.resources,
            watch,
            behalf,
            stopping,
            sweep.owns_process,
            stops,
            spending,
            builds,
        )
        if builds.failed:
            builds.wait()
        with stopping.during(lambda: None):
            ordered, gone = wait_for_others(
                [config for config in ordered if config.identity in watch.elsewhere],
                sweep.store,
                watch.adopt,
                lambda: stopping.requested,
                observer,
            )
        behalf = Behalf(sweep.hold.token, gone)
    return spending.stopped if spending else None


def _spending(sweep: Sweep, trials: list[TrialConfig], watch: Watch) -> Spending:
    """What may start under the limits. Raises: ValueError, as `spent_before`."""
    expected, resources = sweep.expected, sweep.resources
    assert expected is not None
    assert sweep.limits is not None
    on_cpu = expected.device == "cpu"
    shares: dict[str, float] = {}
    for config in trials:
        gpus = 0.0 if on_cpu else (resources.gpus_per_trial or 1.0)
        total = placement_of(config, resources, gpus).total
        shares[config.identity] = total["CPU" if on_cpu else "GPU"]
    slots = None if resources.address else watch.at_once
    return Spending(
        sweep.folder, sweep.limits, expected.trial_seconds, shares, sweep.price,
        expected.currency, other=expected.build_money, slots=slots,
    )  # fmt: skip
