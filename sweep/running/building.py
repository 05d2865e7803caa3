"""Build the banks of a sweep, on this machine or on its cluster, each once among joined sweeps."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial

from shards.building.ray_workers import build_on_connected_ray
from sweep.planning.banks import BankJob, build_bank
from sweep.running.joined import build_once
from sweep.running.resources import Resources


def build_here(banks: Iterable[BankJob], store: str) -> None:
    """Build banks on this machine. Raises: SystemExit, or ValueError, where one cannot be built."""
    for job in banks:
        build_once(job.location, store, partial(_build_here, job))


def build_on_cluster(banks: Iterable[BankJob], store: str, resources: Resources) -> None:
    """Build banks on the Ray that this process is connected to. Raises: as the build."""
    for job in banks:
        build_once(job.location, store, partial(_build_on_cluster, job, resources))


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
