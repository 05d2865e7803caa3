"""Build the banks of a sweep, on this machine or on its cluster, each once among joined sweeps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Self

from sweep.planning.banks import BankJob
from sweep.planning.resources import Resources
from sweep.running.build_process import start_build
from sweep.running.joined import build_once

# Builds that run at a time on a cluster. The workers of the second wait for room when the trials
# that read the first bank become ready, so that they come before them.
ON_CLUSTER = 2


class Builds:
    """`with Builds(banks, store) as builds:` builds banks, in processes of their own.

    They begin at once and go on beside what this process does. Leaving the context ends them,
    wherever they are, and so does the failure of one of them.

    resources: of the sweep; those with an address build on its cluster, with ON_CLUSTER banks at a
    time. Otherwise, or where they are None, this machine builds one bank after the other.
    """

    def __init__(
        self, banks: Sequence[BankJob], store: str, resources: Resources | None = None
    ) -> None:
        self._store, self._left = store, threading.Event()
        self._arguments = _on_cluster(resources) if resources else []
        self._lock = threading.Lock()  # of all that follows
        self._jobs = deque(banks)
        self._missing = {job.location for job in banks}
        self._processes: set[subprocess.Popen[str]] = set()
        self._error: BaseException | None = None
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._run, name="build", daemon=True)
            for _ in range(ON_CLUSTER if self._arguments else 1)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()
        for thread in self._threads:
            thread.join()

    def missing(self) -> frozenset[str]:
        """Locations of the banks that are not complete yet."""
        with self._lock:
            return frozenset(self._missing)

    @property
    def failed(self) -> bool:
        """Whether a bank cannot be built; `wait` raises why."""
        return self._error is not None

    def wait(self) -> None:
        """Wait until all banks are there, or none is built any more after `stop`.

        Raises: SystemExit, or ValueError, where a bank cannot be built; OSError.
        """
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the builds on request, which is no failure; banks stay as far as they are."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        self._left.set()
        with self._lock:
            for process in self._processes:
                process.kill()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                build_once(job.location, self._store, partial(self._build, job), self._sleep)
            except BaseException as error:
                if not self._stopped:
                    with self._lock:
                        self._error = self._error or error
                self._end()
                return
            with self._lock:
                self._missing.discard(job.location)

    def _next(self) -> BankJob | None:
        with self._lock:
            return self._jobs.popleft() if self._jobs and not self._left.is_set() else None

    def _sleep(self, seconds: float) -> None:
        if self._left.wait(seconds):
            raise SystemExit(1)  # nobody waits any more for the bank that another sweep builds

    def _build(self, job: BankJob) -> None:
        if self._arguments:
            sys.stderr.write(f"building {job.location} on the cluster\n")
        with self._lock:
            if self._left.is_set():
                raise SystemExit(1)
            arguments = [*job.request.arguments(job.location), *self._arguments]
            process = start_build(arguments, through_pipe=bool(self._arguments))
            self._processes.add(process)
        with process:
            for line in process.stderr or ():  # a live view shows what this process prints
                sys.stderr.write(line)
        with self._lock:
            self._processes.remove(process)
        if process.returncode > 0:
            raise SystemExit(process.returncode)  # the build has printed what is wrong
        if process.returncode < 0:
            raise ValueError(
                f"the build of {job.location} was ended by signal {-process.returncode}"
            )


def _on_cluster(resources: Resources) -> list[str]:
    """Arguments of `shards.build` that make it compute on the sweep's cluster; none without one.

    This process has checked the cluster's token already.
    """
    if resources.address is None:
        return []
    gpus = resources.gpus_per_trial
    device = [] if gpus is None else ["--device", "cuda" if gpus else "cpu"]
    return ["--ray", resources.address, "--allow-open-ray", *device]
