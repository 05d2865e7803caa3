"""The driver of a sweep: banks first, then every trial that is not finished.

It runs in the process of `sweep.run`. Results go to the store and to the journal as they come,
and from the journal to MLflow; see `sweep.journal`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from shards.building.ray_workers import build_on_connected_ray
from shards.support.progress import Progress
from sweep.journal.events import Journal
from sweep.journal.run_record import open_record, record_sweep
from sweep.journal.tracking import Tracker
from sweep.planning.banks import BankJob, build_bank, plan_banks
from sweep.planning.costs import guess
from sweep.planning.sizes import trial_weight
from sweep.running.resources import Resources, check_fits
from sweep.running.schedule import Job, connected, run_jobs
from sweep.running.watch import Watch, planned_trials
from trainers.config.schema import TrialConfig
from trainers.results.folder import begun


@dataclass(frozen=True)
class Sweep:
    """Where a sweep runs and where it writes.

    Attributes:
        folder: of the journal and the report, on this machine.
        store: folder or URL of banks, trial results and checkpoints.
        resources: Ray's address, and what each trial may use.
        tracking_uri: of MLflow.
        teacher_robustness: whether new banks hold the teacher's figures under the test arms in
            place of its embeddings.
    """

    folder: Path
    store: str
    resources: Resources
    tracking_uri: str
    teacher_robustness: bool = False


def run_sweep(sweep: Sweep, trials: list[TrialConfig]) -> dict[str, str]:
    """Run every trial that is not finished; return {trial identity: error} of those that failed.

    Raises: ValueError for trials that cannot be placed and for a bank that cannot be built,
        OSError where the journal cannot be written.
    """
    record = open_record(sweep.folder, sweep.store, sweep.folder.resolve().name)
    record_sweep(sweep.store, record, planned_trials(trials))
    journal = Journal(sweep.folder)
    tracker = Tracker(sweep.folder, sweep.folder.resolve().name, sweep.tracking_uri)
    watch = Watch(journal, trials, sweep.store)
    try:
        found = begun(sweep.store)
        unfinished = [
            config for config in trials if config.identity not in found or not watch.adopt(config)
        ]
        tracker.start()
        if unfinished:
            _build_and_train(sweep, unfinished, watch)
    finally:
        journal.close()
    for config in unfinished:
        if config.identity not in watch.ended:
            watch.failed[config.identity] = (
                "ended without a result; run the same command again to retry it"
            )
    tracker.finish(status="FAILED" if watch.failed else "FINISHED")
    for line in tracker.warnings():
        print(f"warning: {line}", file=sys.stderr)
    return watch.failed


def _build_and_train(sweep: Sweep, trials: list[TrialConfig], watch: Watch) -> None:
    resources = sweep.resources
    check_fits(trials, resources)
    bank_of, banks = plan_banks(trials, sweep.store, sweep.teacher_robustness)
    if resources.address is None:
        # Before Ray starts: the build then has all cores and all memory for itself.
        for job in banks:
            _build_here(job)
    bar = Progress("trials", watch.total())
    bar.resume_at(watch.done())
    first_guess = "" if resources.address else guess(trials, resources.local_cpus())
    bar.note = watch.note() + first_guess
    with bar, connected(resources, sweep.folder):
        watch.bar = bar
        if resources.address is not None:
            for job in banks:
                _build_on_cluster(job, resources)
        # The heaviest first: at the end, when some workers have nothing left to do, the trials
        # that the others are waiting for are short.
        ordered = sorted(trials, key=trial_weight, reverse=True)
        jobs = [Job(config, bank_of[config.identity]) for config in ordered]
        run_jobs(jobs, sweep.store, sweep.folder, resources, watch)


def _build_here(job: BankJob) -> None:
    """Build a bank in a process of its own, whose memory is free again when it ends."""
    code = build_bank(job)
    if code > 0:
        raise SystemExit(code)  # the build has printed what is wrong
    if code < 0:
        raise ValueError(f"the build of {job.location} was ended by signal {-code}")


def _build_on_cluster(job: BankJob, resources: Resources) -> None:
    print(f"building {job.location} on the cluster", file=sys.stderr)
    gpus = resources.gpus_per_trial
    device = None if gpus is None else "cuda" if gpus else "cpu"
    build_on_connected_ray(job.request, job.location, device=device)
