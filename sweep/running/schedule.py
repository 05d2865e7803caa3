"""All trials of a sweep through one Ray Tune, which decides where and when each runs.

Tune is not trusted with progress: a trial finds its own checkpoints and results in the store, by
its identity, so that nothing depends on Tune's snapshots, and a sweep can be continued without
them.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray._private.state import state
from ray.air._internal import usage
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from shards.building.cluster_resources import most
from shards.support import storage
from shards.support.environment import seconds_of
from sweep.planning.placement import STRATEGIES, Placement
from sweep.planning.resources import Resources, placement_of, time_limit_of
from sweep.running import channel
from sweep.running.arriving import Arriving
from sweep.running.building import Builds
from sweep.running.early_stopping import EarlyStops
from sweep.running.events import Events, OnEvent, TuneCallback
from sweep.running.health import watched
from sweep.running.interrupts import graceful
from sweep.running.restart import end_command, leave_command, restart_command
from sweep.running.spending import Spending
from sweep.running.stopping import Stopping
from sweep.running.suspended import Suspended
from sweep.running.trial_actor import actor_class
from sweep.running.waiting import Entry, WaitingTrials
from trainers.config.schema import TrialConfig
from trainers.engines.launch import SILENT, SILENT_VARIABLE
from trainers.results.lease import Behalf

OFFERED = 200  # trials that wait for room on a cluster: more of them start more nodes at once


@dataclass(frozen=True)
class Job:
    """A trial and the bank it reads."""

    config: TrialConfig
    bank: str


def gpus_for(resources: Resources) -> float:
    """GPUs of each rank: `gpus_per_trial` if given, else 1 where the cluster can have any."""
    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return float(most("GPU") > 0)


def document_of(
    job: Job, store: str, resources: Resources, gpus: float, behalf: Behalf
) -> dict[str, Any]:
    """The JSON document that the trial's actor reads for a job.

    suspended: seconds after which its guard kills it, see `sweep.running.suspended`; None: it
    starts no guard. how: arguments of `run_trial`.
    """
    return {
        "config": job.config.model_dump(mode="json"),
        "bank": job.bank,
        "store": store,
        "token": behalf.token,
        "gone": behalf.gone,
        "suspended": None if resources.address is None else _suspension_limit(),
        "how": {
            "device": "cuda" if gpus else "cpu",
            "reading": resources.reading,
            "save_seconds": resources.save_seconds,
            "time_limit": time_limit_of(job.config, resources),
        },
    }


def _suspension_limit() -> float:
    return seconds_of(SILENT_VARIABLE, SILENT)


class _Published:
    """The jobs of a sweep, whose documents workers can read; a source of those that arrive."""

    def __init__(
        self,
        sweep: str,
        store: str,
        resources: Resources,
        gpus: float,
        behalf: Behalf,
        arriving: Arriving[Job] | None,
    ) -> None:
        self._sweep, self._store, self._resources = sweep, store, resources
        self._gpus, self._behalf, self._arriving = gpus, behalf, arriving
        self._documents: dict[str, dict[str, Any]] = {}

    def waits(self) -> bool:
        return self._arriving is not None and self._arriving.waits()

    def take(self) -> list[Entry]:
        jobs = self._arriving.take() if self._arriving else []
        return self.entries(jobs) if jobs else []

    def entries(self, jobs: list[Job]) -> list[Entry]:
        """Publish what workers need of the jobs."""
        found: list[Entry] = []
        for job in jobs:
            trial = job.config.identity
            place = placement_of(job.config, self._resources, self._gpus)
            self._documents[trial] = document_of(
                job, self._store, self._resources, place.gpus, self._behalf
            )
            found.append(Entry(trial, place, job.bank))
        channel.publish(self._sweep, self._documents)
        return found


class _InOrder(FIFOScheduler):
    """Leaves the order to WaitingTrials. Tune's own looks through all trials at every event.

    stops: decides which trials are stopped early; None: none are.
    """

    def __init__(self, stops: EarlyStops | None = None) -> None:
        super().__init__()
        self._stops = stops

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it, of no use, see WaitingTrials

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        seen = self._stops.observed(result) if self._stops else None
        if self._stops and seen and self._stops.decide(trial.config["trial"], *seen):
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE

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
    owns_process: bool = False,
    stops: EarlyStops | None = None,
    spending: Spending | None = None,
    builds: Builds | None = None,
    arriving: Arriving[Job] | None = None,
) -> None:
    """Run all jobs. `on_event` is called for every start, epoch, end and failure, in a thread.

    behalf: of this sweep, see Behalf. stopping: looks for a request to stop. owns_process: see
    Sweep. stops: decides which trials are stopped early. spending: which may still start. builds:
    of banks that are not there yet, whose trials wait; where one fails, all trials save and leave.
    arriving: further jobs, which come meanwhile.

    Raises: what `on_event` raised, after the last trial; OSError where the disk is full; ValueError
        where Ray died; KeyboardInterrupt after Ctrl-C or SIGTERM, once the trials have saved their
        state.
    """
    gpus, sweep = gpus_for(resources), uuid.uuid4().hex
    published = _Published(sweep, store, resources, gpus, behalf, arriving)
    offered = OFFERED if resources.address else resources.local_cpus() + 1
    waiting = WaitingTrials(
        published.entries(jobs),
        sweep,
        offered,
        resources.concurrent,
        spending=spending,
        builds=builds,
        source=published if arriving else None,
    )
    events, tune_folder = Events(on_event), folder.resolve() / "tune"

    def leave() -> None:
        waiting.stop()
        channel.request_leave(sweep)

    suspended = Suspended(_suspension_limit())

    def look() -> None:
        if builds and builds.failed:
            leave()
        if resources.address is None:
            suspended.look()
        for node in state.get_draining_nodes():
            channel.request_leave(sweep, node)

    dead: list[str] = []

    def on_dead(what: str) -> None:
        if owns_process:
            if spending:
                spending.note()  # neither of the two comes back
            leave_command(what) if resources.address else restart_command(what)
        dead.append(what)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    try:
        tuner = _tuner(waiting, events, tune_folder, stops)
        at_once = end_command if owns_process else None
        with (
            graceful(leave, waiting.running, at_once),
            watched(on_dead, look),
            stopping.during(waiting.stop),
            spending.noting() if spending else contextlib.nullcontext(),
        ):
            tuner.fit()
    except KeyboardInterrupt:
        if dead:
            raise ValueError(f"Ray died ({dead[0]}); run the sweep again to continue it") from None
        raise
    except OSError as error:
        raise storage.explain_full_disk(error, tune_folder) from None
    finally:
        shutil.rmtree(tune_folder, ignore_errors=True)
        if not dead:
            channel.forget(sweep)
        events.close()


def _tuner(
    waiting: WaitingTrials, events: Events, folder: Path, stops: EarlyStops | None
) -> tune.Tuner:
    """Tune, which writes into `folder` from now on. Raises: OSError."""
    # Tune counts its own callbacks for Ray's usage statistics, which are off, and imports MLflow,
    # Weights & Biases and others to do so: two seconds of every sweep's start.
    usage.tag_callbacks = lambda callbacks: False
    # A variable of PyTorch Lightning's. Without it actors need no environment of their own, and run
    # in the workers that Ray has started already.
    class_cache.DEFAULT_ENV_VARS.clear()
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # TuneCallback reports trials' errors
    return tune.Tuner(
        actor_class(_factory),
        param_space={},
        tune_config=tune.TuneConfig(
            num_samples=-1, search_alg=waiting, scheduler=_InOrder(stops), reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="trials",
            callbacks=[TuneCallback(events, waiting, stops.reasons if stops else {})],
            failure_config=tune.FailureConfig(max_failures=0),
            verbose=0,
        ),
    )
