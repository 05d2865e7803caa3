"""Ray Tune: trials become Tune trials; a cluster becomes one machine.

Tune decides where and when a trial runs and starts it again when its process or node dies. What
has been computed is never taken from Tune: a trial finds its own checkpoints and results under
the store, by its identity.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from shards.building import ray_workers
from sweep.journal.tracking import quiet
from trainers.config.schema import TrialConfig, make_config
from trainers.engines import ENGINES, check_engine
from trainers.engines.launch import RankError
from trainers.engines.watchdog import STUCK
from trainers.training.preemption import PreemptedError
from trainers.trial import run_trial

Tell = Callable[[str, str, dict[str, Any]], None]
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record: no CSV, JSON, ...
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # or `fit` swallows Ctrl-C and returns as if all were well
    "MALLOC_ARENA_MAX": "2",  # Tune runs each trial in a new thread, which would get its own heap
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table whatever `verbose` says
}
RETRIES = 3  # of a trial whose process or node died; its own errors are not tried again
OBJECT_STORE = 100 * 1024 * 1024


@dataclass(frozen=True)
class Job:
    """A trial and the bank it reads."""

    config: TrialConfig
    bank: str


@dataclass(frozen=True)
class Resources:
    """Where a sweep runs: `address` of a running Ray (None: one is started here).

    `reading` is how its trials read their bank, which changes no result.
    """

    address: str | None = None
    cpus: int | None = None
    gpus_per_trial: float | None = None
    concurrent: int | None = None
    reading: str = "auto"

    def local_cpus(self) -> int:
        return self.cpus or os.cpu_count() or 1


def check_fits(trials: list[TrialConfig], resources: Resources) -> None:
    """A trial that this machine cannot hold would wait for ever; a cluster may still grow.

    Raises: ValueError with what is asked and what is there, or how to install an engine.
    """
    part = (resources.gpus_per_trial or 0.0) % 1
    most = max((config.ranks for config in trials), default=1)
    if part and most > 1:
        raise ValueError(
            f"--gpus-per-trial: {resources.gpus_per_trial:g} for each of {most} ranks; ranks share "
            "no GPU, choose a whole number"
        )
    if resources.address:
        for config in trials:
            ENGINES[config.engine].check_installed()
        return
    there = {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}
    if resources.local_cpus() > there["CPU"]:
        raise ValueError(f"--cpus: {resources.cpus} asked for, this machine has {there['CPU']}")
    there["CPU"] = resources.local_cpus()
    gpus = resources.gpus_per_trial
    for config in trials:
        each = float(there["GPU"] > 0) if gpus is None else gpus
        for kind, asked in _bundle(config.ranks, config.threads, each).items():
            if asked > there[kind]:
                raise ValueError(
                    f"{config.ranks} ranks of a trial ask for {asked:g} {kind}s, there are "
                    f"{there[kind]}; lower ranks, threads or --gpus-per-trial"
                )
        check_engine(config, torch.device("cuda" if each else "cpu"))


def _bundle(ranks: int, threads: int, gpus: float) -> dict[str, float]:
    """What one trial occupies, all on one machine."""
    return {"CPU": float(ranks * threads), "GPU": gpus * ranks}


@contextlib.contextmanager
def connected(resources: Resources, folder: Path) -> Iterator[None]:
    """A Ray to work on, for the sweep in `folder`; one started here is gone afterwards."""
    quiet()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    owner, cpus = str(folder.resolve()), resources.local_cpus()
    with ray_workers.connected(resources.address, owner, cpus, OBJECT_STORE):
        yield


def gpus_for(resources: Resources) -> float:
    """GPUs a trial gets: as asked, else 1 where the cluster has any."""
    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return float(ray.cluster_resources().get("GPU", 0.0) > 0)


def entry_of(job: Job, store: str, resources: Resources, gpus: float) -> dict[str, Any]:
    """What `trainable` is told of a job, as JSON."""
    return {
        "config": job.config.model_dump(mode="json"),
        "bank": job.bank,
        "store": store,
        "device": "cuda" if gpus else "cpu",
        "reading": resources.reading,
    }


def trainable(space: dict[str, Any]) -> None:
    """One Tune trial. Its own errors are an outcome, reported; only a death is retried.

    A rank that died, was stuck, or was asked to leave, is a death: the next attempt goes on from
    what is saved.
    """
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
    except Exception as error:  # becomes the trial's recorded outcome
        if isinstance(error, RankError) and (error.code < 0 or error.code == STUCK):
            raise RuntimeError(str(error)) from None  # of a kind that Ray can pickle
        text = " ".join(str(error).split()) or type(error).__name__
        tune.report({"outcome": "failed", "error": f"{type(error).__name__}: {text}"[:1000]})
    finally:
        give_memory_back()


def give_memory_back() -> None:
    """A reused actor keeps what glibc does not return by itself, trial after trial."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class _Events(tune.Callback):
    """Passes what Tune's trials say to `tell(trial identity, kind, values)`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = self._guarded(tell)
        self.broken: OSError | None = None

    def _guarded(self, tell: Tell) -> Tell:
        """A journal that cannot be written stops no trial: results are in the store as well."""

        def guarded(trial: str, kind: str, values: dict[str, Any]) -> None:
            try:
                tell(trial, kind, values)
            except OSError as error:
                self.broken = error

        return guarded

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks; this one only makes sense in this process

    @staticmethod
    def _identity(trial: Any) -> str:
        return make_config(trial.config["job"]["config"]).identity

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(self._identity(trial), "start", {})

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        identity = self._identity(trial)
        outcome = result.get("outcome")
        if outcome == "failed":
            self._tell(identity, "failed", {"error": result["error"]})
        elif outcome == "finished":
            self._tell(identity, "finished", {})
        elif "epoch" in result:
            self._tell(
                identity, "epoch", {k: result[k] for k in ("step", "epoch", "loss", "time_ms")}
            )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "its process died").strip().splitlines()
        self._tell(self._identity(trial), "failed", {"error": lines[-1][:1000]})


def run_jobs(
    jobs: list[Job],
    store: str,
    folder: Path,
    resources: Resources,
    tell: Tell,
) -> None:
    """Run all jobs; `tell` hears of starts, epochs, ends and failures as they happen.

    Raises: OSError, after the last trial, when `tell` raised one.
    """
    gpus, events = gpus_for(resources), _Events(tell)
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for job in jobs:
        entry = entry_of(job, store, resources, gpus)
        groups.setdefault((job.config.ranks, job.config.threads), []).append(entry)
    for (ranks, threads), entries in groups.items():
        bundle = _bundle(ranks, threads, gpus)
        placed = tune.with_resources(trainable, tune.PlacementGroupFactory([bundle]))
        tuner = tune.Tuner(
            placed,
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
    if events.broken is not None:
        raise events.broken
