"""Trials on Ray Tune, which decides where and when each runs.

Tune also starts a trial again when its process or node dies. It is not trusted with progress: a
trial finds its own checkpoints and results in the store, by its identity, so that nothing depends
on Tune's snapshots, and a sweep can be continued without them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from shards.building import ray_workers
from shards.support.memory import keep_freed_memory, release_memory
from sweep.environment import set_defaults
from sweep.running.resources import Resources, bundle
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig
from trainers.engines.launch import RankError
from trainers.engines.watchdog import STUCK
from trainers.training.preemption import PreemptedError
from trainers.trial import run_trial

OnEvent = Callable[[str, str, dict[str, Any]], None]  # (trial identity, kind, values)
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record: no CSV, JSON, ...
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # or `fit` swallows Ctrl-C and returns as if finished
    "MALLOC_ARENA_MAX": "1",  # Tune runs each trial in a new thread, which would get its own heap
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table whatever `verbose` is
}
RETRIES = 3  # of a trial whose process or node died; an exception of its own is not retried
OBJECT_STORE = 100 * 1024 * 1024  # bytes; trials read their bank from the store, not through Ray
REPORTED = ("step", "epoch", "loss", "time_ms")


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


def entry_of(job: Job, store: str, resources: Resources, gpus: float) -> dict[str, Any]:
    """The JSON document that `trainable` gets for a job."""
    return {
        "config": job.config.model_dump(mode="json"),
        "bank": job.bank,
        "store": store,
        "device": "cuda" if gpus else "cpu",
        "reading": resources.reading,
    }


def trainable(space: dict[str, Any]) -> None:
    """One trial, as Tune runs it, in a worker process.

    An exception of the trial is its outcome: it is reported and not retried, since it would occur
    again. RuntimeError makes Tune retry: it is raised where a rank died or stopped responding,
    and where its node ended it by SIGTERM. The next attempt resumes from the newest checkpoint.
    """
    keep_freed_memory()
    job = space["job"]
    config = make_config(job["config"])

    def report(values: dict[str, Any]) -> None:
        tune.report(dict(values))

    try:
        how = {"device": job["device"], "reading": job["reading"]}
        run_trial(config, job["bank"], job["store"], report, **how)
        tune.report({"outcome": "finished"})
    except PreemptedError as error:
        raise RuntimeError(str(error)) from None
    except Exception as error:
        if isinstance(error, RankError) and (error.code < 0 or error.code == STUCK):
            raise RuntimeError(str(error)) from None  # Ray cannot pickle a RankError
        text = " ".join(str(error).split()) or type(error).__name__
        tune.report({"outcome": "failed", "error": f"{type(error).__name__}: {text}"[:1000]})
    finally:
        release_memory()  # Tune reuses the process for the next trial, which may need less


class _Events(tune.Callback):
    """Passes the events of Tune's trials on to `on_event(trial identity, kind, values)`.

    An OSError of `on_event` stops no trial, since results are in the store as well. It is kept in
    `error` and raised when all trials have ended.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.error: OSError | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks; this one is of no use in another process

    def _pass_on(self, trial: Any, kind: str, values: dict[str, Any]) -> None:
        try:
            self._on_event(make_config(trial.config["job"]["config"]).identity, kind, values)
        except OSError as error:
            self.error = error

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._pass_on(trial, "start", {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        outcome = result.get("outcome")
        if outcome == "failed":
            self._pass_on(trial, "failed", {"error": result["error"]})
        elif outcome == "finished":
            self._pass_on(trial, "finished", {})
        elif "epoch" in result:
            self._pass_on(trial, "epoch", {name: result[name] for name in REPORTED})

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        self._pass_on(trial, "failed", {"error": lines[-1][:1000]})


def run_jobs(
    jobs: list[Job], store: str, folder: Path, resources: Resources, on_event: OnEvent
) -> None:
    """Run all jobs. `on_event` is called for every start, epoch, end and failure.

    Trials that need equal resources form one Tune experiment, since Tune gives all trials of an
    experiment the same; experiments run one after another.

    Raises: OSError, after the last trial, where `on_event` raised one.
    """
    gpus, events = gpus_for(resources), _Events(on_event)
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for job in jobs:
        entry = entry_of(job, store, resources, gpus)
        groups.setdefault((job.config.ranks, job.config.threads), []).append(entry)
    for (ranks, threads), entries in groups.items():
        placement = tune.PlacementGroupFactory([bundle(ranks, threads, gpus)])
        tuner = tune.Tuner(
            tune.with_resources(trainable, placement),
            param_space={"job": tune.grid_search(entries)},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=resources.concurrent
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder.resolve() / "tune"),
                name="trials",
                callbacks=[events],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        )
        tuner.fit()
        shutil.rmtree(folder / "tune", ignore_errors=True)
    if events.error is not None:
        raise events.error
