"""What a trial occupies, and whether the machine has it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

from sweep.planning.makespan import ROUNDING
from sweep.planning.placement import Placement
from trainers.config.schema import TrialConfig
from trainers.engines import ENGINES, check_engine


@dataclass(frozen=True)
class Resources:
    """Where the trials of a sweep run and what each may use.

    Attributes:
        address: of a running Ray cluster; None starts one on this machine.
        cpus: CPU cores of this machine to use; None means all. Not used with `address`.
        gpus_per_trial: GPUs of each rank of a trial, below 1 to share one between trials; None
            means 1 where the cluster has GPUs, or can start nodes with them, and 0 elsewhere.
        concurrent: at most so many trials at a time; None means as many as there is room for.
        needs: {trial identity: what the grid says about its resources}, see `sweep.planning.grid`.
        reading: how trials read their bank: `auto`, `resident` or `streaming`. Results are equal.
        save_seconds: between two checkpoints of a trial; None: as seldom as is cheap, see Saver.
        time_limit: seconds after which a trial's training is ended, where `needs` has no limit of
            its own; None: no limit.
    """

    address: str | None = None
    cpus: int | None = None
    gpus_per_trial: float | None = None
    concurrent: int | None = None
    reading: str = "auto"
    save_seconds: float | None = None
    time_limit: float | None = None
    needs: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, options: argparse.Namespace, needs: Mapping[str, dict[str, Any]]) -> Resources:
        """Those of the options of `sweep.run`."""
        return cls(
            address=options.address,
            cpus=options.cpus,
            gpus_per_trial=options.gpus_per_trial,
            concurrent=options.max_concurrent,
            reading=options.reading,
            save_seconds=options.save_seconds,
            time_limit=None if options.time_limit is None else 60 * options.time_limit,
            needs=needs,
        )

    def local_cpus(self) -> int:
        return self.cpus or os.cpu_count() or 1


def placement_of(config: TrialConfig, resources: Resources, gpus: float) -> Placement:
    """What a trial occupies; `gpus` are those of each rank where the grid does not say."""
    needs = resources.needs.get(config.identity, {})
    cpus, gpus = needs.get("cpus", config.threads), needs.get("gpus", gpus)
    return Placement(config.ranks, float(cpus), float(gpus), needs.get("placement", "pack"))


def share_of(config: TrialConfig, resources: Resources, on_cpu: bool) -> float:
    """How many devices a trial takes: CPU cores, or GPUs.

    Its threads take a core each, also where the grid asks for fewer. A trial without a GPU is
    planned with one for each rank where GPUs are counted, for only GPUs are paid there.
    """
    total = placement_of(config, resources, resources.gpus_per_trial or 1.0).total
    if on_cpu:
        return max(total["CPU"], float(config.threads * config.ranks))
    return total["GPU"] or float(config.ranks)


def time_limit_of(config: TrialConfig, resources: Resources) -> float | None:
    """Seconds after which a trial's training is ended; None: no limit."""
    minutes = resources.needs.get(config.identity, {}).get("minutes")
    return resources.time_limit if minutes is None else 60.0 * minutes


def available(resources: Resources) -> dict[str, float]:
    """CPU cores and GPUs of this machine that trials may use."""
    return {"CPU": float(resources.local_cpus()), "GPU": float(torch.cuda.device_count())}


def local_gpus(resources: Resources) -> float:
    """GPUs of each rank on this machine, where the grid does not say."""
    given = resources.gpus_per_trial
    return float(torch.cuda.device_count() > 0) if given is None else given


def slots_of(trials: list[TrialConfig], resources: Resources) -> int:
    """How many ranks of these trials run at a time on this machine, about; at least 1."""
    ranks = sum(config.ranks for config in trials)
    slots = float(ranks)
    if resources.concurrent:
        slots = resources.concurrent * ranks / len(trials)
    gpus = local_gpus(resources)
    for kind, amount in available(resources).items():
        needed = sum(placement_of(config, resources, gpus).total[kind] for config in trials)
        if needed:
            slots = min(slots, amount * ranks / needed)
    return max(1, int(slots + ROUNDING))


def most_at_a_time(trials: list[TrialConfig], resources: Resources) -> int:
    """At most how many of these trials run at a time; all of them on a cluster, which may grow."""
    most = min(len(trials), resources.concurrent or len(trials))
    if resources.address:
        return most
    gpus = local_gpus(resources)
    for kind, amount in available(resources).items():
        shares = sorted(placement_of(config, resources, gpus).total[kind] for config in trials)
        fits = sum(total <= amount + ROUNDING for total in accumulate(shares))
        most = min(most, fits)
    return most


def check_fits(trials: list[TrialConfig], resources: Resources) -> None:
    """Check that every trial can be placed, for Ray would let it wait for ever.

    On a cluster only engines are checked, since nodes may still join.

    Raises: ValueError with what is needed and what there is, or how to install an engine.
    """
    gpus = resources.gpus_per_trial
    for config in trials:
        share = placement_of(config, resources, gpus or 0.0).gpus
        if share % 1 and config.ranks > 1:
            raise ValueError(
                f"--gpus-per-trial, or resources.gpus of the grid: {share:g} for each of "
                f"{config.ranks} ranks; ranks cannot share a GPU, choose a whole number"
            )
    if resources.address:
        for config in trials:
            ENGINES[config.engine].check_installed()
        return
    cores = os.cpu_count() or 1
    if resources.local_cpus() > cores:
        raise ValueError(f"--cpus: {resources.cpus}; this machine has {cores}")
    there = available(resources)
    for config in trials:
        placement = placement_of(config, resources, local_gpus(resources))
        for kind, needed in placement.total.items():
            if needed > there[kind]:
                raise ValueError(
                    f"a trial with {config.ranks} ranks needs {needed:g} {kind}s, there are "
                    f"{there[kind]:g}; lower ranks, threads, --gpus-per-trial or "
                    "the grid's resources"
                )
        check_engine(config, torch.device("cuda" if placement.gpus else "cpu"))
