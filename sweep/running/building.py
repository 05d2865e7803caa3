"""Build the banks of a sweep, on this machine or on its cluster, each once among joined sweeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from typing import Self

from shards.building.ray_workers import build_on_connected_ray
from sweep.planning.banks import BankJob, start_build
from sweep.running.joined import build_once
from sweep.running.resources import Resources


class LocalBuild:
    """`with LocalBuild(banks, store) as build: ...; build.wait()`: builds on this machine.

    The build begins at once and goes on beside what this process does, such as the start of Ray.
    Leaving the context ends it, wherever it is.
    """

    def __init__(self, banks: Sequence[BankJob], store: str) -> None:
        self._banks, self._store = banks, store
        self._error: BaseException | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="build", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()

    def wait(self) -> None:
        """Raises: SystemExit, or ValueError, where a bank cannot be built; OSError."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for job in self._banks:
                build_once(job.location, self._store, partial(self._build, job), self._sleep)
        except BaseException as error:
            self._error = error

    def _sleep(self, seconds: float) -> None:
        if self._left.wait(seconds):
            raise SystemExit(1)  # nobody waits any more for the bank that another sweep builds

    def _build(self, job: BankJob) -> None:
        """Build a bank in a process of its own, whose memory is free again when it ends."""
        self._process = start_build(job)
        if self._left.is_set():
            self._process.kill()
        code = self._process.wait()
        if code > 0:
            raise SystemExit(code)  # the build has printed what is wrong
        if code < 0:
            raise ValueError(f"the build of {job.location} was ended by signal {-code}")


def build_on_cluster(banks: Sequence[BankJob], store: str, resources: Resources) -> None:
    """Build banks on the Ray that this process is connected to. Raises: as the build."""
    for job in banks:
        build_once(job.location, store, partial(_build_on_cluster, job, resources))


def _build_on_cluster(job: BankJob, resources: Resources) -> None:
    print(f"building {job.location} on the cluster", file=sys.stderr)
    gpus = resources.gpus_per_trial
    device = None if gpus is None else "cuda" if gpus else "cpu"
    build_on_connected_ray(job.request, job.location, device=device)
