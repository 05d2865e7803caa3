"""All trials of a sweep through one Ray Tune, which decides where and when each runs.

Tune is not trusted with progress: a trial finds its own checkpoints and results in the store, by
its identity, so that nothing depends on Tune's snapshots, and a sweep can be continued without
them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from shards.building import ray_workers
from sweep.environment import set_defaults
from sweep.running import channel
from sweep.running.events import Events, OnEvent, TuneCallback
from sweep.running.placement import STRATEGIES, Placement
from sweep.running.resources import Resources, placement_of
from sweep.running.stopping import Stopping
from sweep.running.trial_actor import trainable
from sweep.running.waiting import Entry, WaitingTrials
from trainers.config.schema import TrialConfig
from trainers.results.lease import Behalf

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record: no CSV, JSON, ...
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # or `fit` swallows Ctrl-C and returns as if finished
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots are not used, and hold all trials so far
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # WaitingTrials limits how many wait for room
    "MALLOC_ARENA_MAX": "1",  # Tune runs each trial in a new thread, which would get its own heap
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table whatever `verbose` is
}
OFFERED = 200  # trials that wait for room on a cluster: more of them start more nodes at once
OBJECT_STORE = 100 * 1024 * 1024  # bytes; trials read their bank from the store, not through Ray


@dataclass(frozen=True)
class Job:
    """A trial and the bank it reads."""

    config: TrialConfig
    bank: str


@contextlib.contextmanager
def connected(resources: Resources, folder: Path) -> Iterator[None]:
    """A connection to Ray for the sweep in `folder`; a Ray started here is stopped at the end."""
    set_defaults()
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    owner, cpus = str(folder.resolve()), resources.local_cpus()
    with ray_workers.connected(resources.address, owner, cpus, OBJECT_STORE, logs=folder):
        yield


def gpus_for(resources: Resources) -> float:
    """GPUs of each rank: `gpus_per_trial` if given, else 1 where the cluster has any."""
    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return float(ray.cluster_resources().get("GPU", 0.0) > 0)


def document_of(
    job: Job, store: str, resources: Resources, gpus: float, behalf: Behalf
) -> dict[str, Any]:
    """The JSON document that `trainable` reads for a job. `how`: arguments of `run_trial`."""
    return {
        "config": job.config.model_dump(mode="json"),
        "bank": job.bank,
        "store": store,
        "token": behalf.token,
        "gone": behalf.gone,
        "how": {
            "device": "cuda" if gpus else "cpu",
            "reading": resources.reading,
            "save_seconds": resources.save_seconds,
            "time_limit": resources.time_limit,
        },
    }


class _InOrder(FIFOScheduler):
    """Leaves the order to WaitingTrials. Tune's own looks through all trials at every event."""

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        return None


def _factory(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    placement = Placement.of(config)
    return tune.PlacementGroupFactory(placement.bundles, strategy=STRATEGIES[placement.placement])


def run_jobs(
    jobs: list[Job],
    store: str,
    folder: Path,
    resources: Resources,
    on_event: OnEvent,
    behalf: Behalf,
    stopping: Stopping,
) -> None:
    """Run all jobs. `on_event` is called for every start, epoch, end and failure, in a thread.

    behalf: of this sweep, see Behalf. stopping: looks for a request to stop.

    Raises: OSError, after the last trial, where `on_event` raised one.
    """
    gpus, sweep = gpus_for(resources), uuid.uuid4().hex
    documents = {
        job.config.identity: document_of(job, store, resources, gpus, behalf) for job in jobs
    }
    channel.publish(sweep, documents)
    entries = [Entry(job.config.identity, placement_of(job.config, gpus)) for job in jobs]
    offered = OFFERED if resources.address else resources.local_cpus() + 1
    waiting = WaitingTrials(entries, sweep, offered, resources.concurrent)
    events = Events(on_event)
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors of trials are told by events
    tuner = tune.Tuner(
        tune.with_resources(trainable, _factory),
        param_space={},
        tune_config=tune.TuneConfig(
            num_samples=-1, search_alg=waiting, scheduler=_InOrder(), reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder.resolve() / "tune"),
            name="trials",
            callbacks=[TuneCallback(events, waiting)],
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
    try:
        with stopping.during(waiting.stop):
            tuner.fit()
    finally:
        shutil.rmtree(folder / "tune", ignore_errors=True)
        events.close()
    channel.forget(sweep)
