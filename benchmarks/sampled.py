"""Runs a sweep as a child process and samples the CPU time and memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

EVERY = 0.1  # seconds between two samples; what a process used since its last one is not counted
DRIVER, UPLOAD, WORKERS = "driver", "upload", "workers"


@dataclass
class Sampled:
    """A sweep that has ended.

    seconds: it took. cpu: {role: CPU seconds of its processes, ended ones included}. mib: {role:
    largest resident memory of its processes together}. timeline: (time.time(), cpu at that time)
    of every sample.
    """

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict[str, float])
    mib: dict[str, float] = field(default_factory=dict[str, float])
    timeline: list[tuple[float, dict[str, float]]] = field(default_factory=lambda: [])

    def cpu_between(self, start: float, end: float, role: str) -> float:
        """CPU seconds of a role between two times of `time.time()`."""
        used = [[cpu[role] for when, cpu in self.timeline if when <= at][-1] for at in (start, end)]
        return used[1] - used[0]


def run_sampled(arguments: list[str], log: Path) -> Sampled:
    """`python -m sweep.run ARGUMENTS`, its output in `log`. Raises: RuntimeError where it fails.

    The roles are the driver's process, the process that uploads to MLflow, and all others: Ray's
    own and the workers.
    """
    found, start = Sampled(), time.monotonic()
    used: dict[tuple[int, float], tuple[str, float]] = {}
    with log.open("w") as stream:
        command = [sys.executable, "-m", "sweep.run", *arguments]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream, env=os.environ)
        driver = psutil.Process(child.pid)
        while child.poll() is None:
            with contextlib.suppress(psutil.Error):
                _sample(driver, used, found)
            time.sleep(EVERY)
    found.seconds = time.monotonic() - start
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: {log.read_text()[-1000:]}")
    return found


def _sample(
    driver: psutil.Process, used: dict[tuple[int, float], tuple[str, float]], found: Sampled
) -> None:
    memory: dict[str, float] = dict.fromkeys((DRIVER, UPLOAD, WORKERS), 0.0)
    for process in [driver, *driver.children(recursive=True)]:
        with contextlib.suppress(psutil.Error), process.oneshot():
            key = process.pid, process.create_time()
            role = used[key][0] if key in used else _role(process, driver)
            times = process.cpu_times()
            used[key] = role, times.user + times.system
            memory[role] += process.memory_info().rss / 2**20
    cpu: dict[str, float] = dict.fromkeys(memory, 0.0)
    for role, seconds in used.values():
        cpu[role] += seconds
    found.cpu = cpu
    found.mib = {role: max(found.mib.get(role, 0.0), mib) for role, mib in memory.items()}
    found.timeline.append((time.time(), cpu))


def _role(process: psutil.Process, driver: psutil.Process) -> str:
    if process == driver:
        return DRIVER
    return UPLOAD if any("upload_process" in part for part in process.cmdline()) else WORKERS
