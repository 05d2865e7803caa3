"""What a trial occupies, and whether the machine has it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from sweep.running.placement import Placement
from trainers.config.schema import TrialConfig
from trainers.engines import ENGINES, check_engine


@dataclass(frozen=True)
class Resources:
    """Where the trials of a sweep run and what each may use.

    Attributes:
        address: of a running Ray cluster; None starts one on this machine.
        cpus: CPU cores of this machine to use; None means all. Not used with `address`.
        gpus_per_trial: GPUs of each rank of a trial, below 1 to share one between trials; None
            means 1 where there are GPUs and 0 elsewhere.
        concurrent: at most so many trials at a time; None means as many as there is room for.
        reading: how trials read their bank: `auto`, `resident` or `streaming`. Results are equal.
        save_seconds: between two checkpoints of a trial; None: as often as costs 2 % of the time.
        time_limit: seconds after which a trial's training is ended; None: no limit.
    """

    address: str | None = None
    cpus: int | None = None
    gpus_per_trial: float | None = None
    concurrent: int | None = None
    reading: str = "auto"
    save_seconds: float | None = None
    time_limit: float | None = None

    def local_cpus(self) -> int:
        return self.cpus or os.cpu_count() or 1


def placement_of(config: TrialConfig, gpus: float) -> Placement:
    """What a trial occupies; `gpus` are those of each rank."""
    return Placement(config.ranks, float(config.threads), gpus)


def check_fits(trials: list[TrialConfig], resources: Resources) -> None:
    """Check that every trial can be placed, for Ray would let it wait for ever.

    On a cluster only engines are checked, since nodes may still join.

    Raises: ValueError with what is needed and what there is, or how to install an engine.
    """
    gpus = resources.gpus_per_trial
    most_ranks = max((config.ranks for config in trials), default=1)
    if gpus is not None and gpus % 1 and most_ranks > 1:
        raise ValueError(
            f"--gpus-per-trial: {gpus:g} for each of {most_ranks} ranks; ranks cannot share a "
            "GPU, choose a whole number"
        )
    if resources.address:
        for config in trials:
            ENGINES[config.engine].check_installed()
        return
    cores = os.cpu_count() or 1
    if resources.local_cpus() > cores:
        raise ValueError(f"--cpus: {resources.cpus}; this machine has {cores}")
    available = {"CPU": resources.local_cpus(), "GPU": torch.cuda.device_count()}
    each = float(available["GPU"] > 0) if gpus is None else gpus
    for config in trials:
        for kind, needed in placement_of(config, each).total.items():
            if needed > available[kind]:
                raise ValueError(
                    f"a trial with {config.ranks} ranks needs {needed:g} {kind}s, there are "
                    f"{available[kind]}; lower ranks, threads or --gpus-per-trial"
                )
        check_engine(config, torch.device("cuda" if each else "cpu"))
