"""Kills processes that stay suspended (SIGSTOP), for which Ray would wait for ever.

A trial is then tried again, and a raylet is replaced. Of a Ray that the driver has started, the
driver looks at all processes. On a cluster every process of a trial starts a guard, which looks at
that process alone:

    python -m sweep.running.suspended PID SECONDS
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import psutil

# As in trainers.engines.launch, which a guard does not import: it would load torch.
SILENT_VARIABLE = "DISTIL_SILENT_SECONDS"
OF_RAY = ("ray::", "raylet", "gcs_server")  # beginnings of the names of its processes
LOOKS = 8  # within the limit


def processes_of_ray() -> list[psutil.Process]:
    """Processes of Ray below this one."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(OF_RAY):
                found.append(process)
    return found


class Suspended:
    """Kills those of `processes` that were suspended for `limit` seconds."""

    def __init__(
        self,
        limit: float,
        processes: Callable[[], Iterable[psutil.Process]] = processes_of_ray,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self._processes, self._clock = limit, processes, clock
        self._since: dict[psutil.Process, float] = {}
        self._next_look = clock()

    def look(self) -> None:
        """Look at the processes; several times within the limit, however often it is called."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + self.limit / LOOKS
        since, self._since = self._since, {}
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_STOPPED:
                    continue
                self._since[process] = since.get(process, now)
                if now - self._since[process] >= self.limit:
                    print(
                        f"warning: process {process.pid} ({process.name()}) was suspended for "
                        f"{self.limit:g} s and is killed; {SILENT_VARIABLE} sets the limit",
                        file=sys.stderr,
                        flush=True,
                    )
                    process.kill()


def start_guard(limit: float) -> None:
    """Start a process that kills this one once it was suspended for `limit` s, and ends with it."""
    command = [sys.executable, "-m", "sweep.running.suspended", str(os.getpid())]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.Popen([*command, str(limit)], env=environment, stdin=subprocess.DEVNULL)


def guard(pid: int, limit: float) -> None:
    """Look at the parent process `pid` until it has ended."""
    suspended = Suspended(limit, lambda: [psutil.Process(pid)])
    while os.getppid() == pid:
        with contextlib.suppress(psutil.NoSuchProcess):
            suspended.look()
        time.sleep(limit / LOOKS / 2)


if __name__ == "__main__":
    guard(int(sys.argv[1]), float(sys.argv[2]))
