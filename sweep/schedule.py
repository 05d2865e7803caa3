"""Ray: the only place that imports it. Trials become Tune trials; a cluster becomes one machine.

Tune decides where and when a trial runs and starts it again when its process or node dies. What
has been computed is never taken from Tune: a trial finds its own checkpoints and results under
the store, by its identity.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from shards.build import Request, build
from trainers.config import TrialConfig, make_config
from trainers.trial import run_trial

RETRIES = 3  # of a trial whose process or node died; its own errors are not tried again
OBJECT_STORE = 100 * 1024 * 1024


@dataclass(frozen=True)
class Job:
    """A trial and the bank it reads."""

    config: TrialConfig
    bank: str


@dataclass(frozen=True)
class Resources:
    """Where a sweep runs: `address` of a running Ray (None: one is started here)."""

    address: str | None = None
    cpus: int | None = None
    gpus_per_trial: float | None = None
    concurrent: int | None = None


@contextlib.contextmanager
def connected(resources: Resources) -> Iterator[None]:
    """A Ray to work on; one started here is gone afterwards, with its files."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if resources.address:
        ray.init(address=resources.address, log_to_driver=False)
        folder = ""
    else:
        folder = tempfile.mkdtemp(prefix="ray-")  # socket paths must stay short
        ray.init(
            num_cpus=resources.cpus or os.cpu_count(),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
    try:
        yield
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def build_on_cluster(request: Request, location: str, gpus: float) -> None:
    """Build a bank in a task on the cluster, on a GPU when trials get one."""

    @ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=RETRIES)
    def task(text: str) -> None:
        device = "cuda" if gpus else "cpu"
        build(Request.model_validate_json(text), location, device)

    ray.get(task.remote(request.model_dump_json()))


def gpus_for(resources: Resources) -> float:
    """GPUs a trial gets: as asked, else 1 where the cluster has any. Errors: ValueError."""
    have = ray.cluster_resources().get("GPU", 0.0)
    asked = resources.gpus_per_trial
    if asked is None:
        return 1.0 if have else 0.0
    if not resources.address and asked > have:
        raise ValueError(f"--gpus-per-trial: {asked:g} asked for, this machine has {have:g}")
    return asked


def trainable(space: dict[str, Any]) -> None:
    """One Tune trial. Its own errors are an outcome, reported; only a death is retried."""
    job = space["job"]
    config = make_config(job["config"])
    try:
        run_trial(config, job["bank"], job["store"], lambda v: tune.report(dict(v)), job["device"])
        tune.report({"outcome": "finished"})
    except Exception as error:  # becomes the trial's recorded outcome
        text = " ".join(str(error).split()) or type(error).__name__
        tune.report({"outcome": "failed", "error": f"{type(error).__name__}: {text}"[:1000]})


class _Events(tune.Callback):
    """Passes what Tune's trials say to `tell(trial identity, kind, values)`."""

    def __init__(self, tell: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._tell = tell

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
    tell: Callable[[str, str, dict[str, Any]], None],
) -> None:
    """Run all jobs; `tell` hears of starts, epochs, ends and failures as they happen."""
    gpus = gpus_for(resources)
    groups: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for job in jobs:
        entry = {
            "config": job.config.model_dump(mode="json"),
            "bank": job.bank,
            "store": store,
            "device": "cuda" if gpus else "cpu",
        }
        groups.setdefault((job.config.ranks, job.config.threads), []).append(entry)
    for (ranks, threads), entries in groups.items():
        bundle = {"CPU": float(ranks * threads), "GPU": gpus * ranks}
        _check_fits(bundle, resources)
        placed = tune.with_resources(trainable, tune.PlacementGroupFactory([bundle]))
        tuner = tune.Tuner(
            placed,
            param_space={"job": tune.grid_search(entries)},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=resources.concurrent
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder / "tune"),
                name="trials",
                callbacks=[_Events(tell)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        )
        tuner.fit()
        shutil.rmtree(folder / "tune", ignore_errors=True)


def _check_fits(bundle: dict[str, float], resources: Resources) -> None:
    """A trial that no machine here can hold would wait for ever."""
    if resources.address:
        return
    have = ray.cluster_resources()
    for kind, asked in bundle.items():
        if asked > have.get(kind, 0.0):
            raise ValueError(
                f"a trial asks for {asked:g} {kind} (ranks x threads), this machine has "
                f"{have.get(kind, 0.0):g}; lower ranks or threads"
            )
