"""Imports what a trial needs, in a worker of Ray that has no work yet.

Ray's first workers on a machine import this module when they start, see `sweep.running.connection`:
the process in which a trial begins has imported what it needs while the driver did the same. Only
so many workers do so as the sweep begins with trials; others may hold ranks, which need less.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from filelock import FileLock
from ray._private import worker

from shards.support.environment import exported
from shards.support.memory import collecting_later
from sweep.running.connection import COUNT

IN_TRIALS = "sweep.running.trial_actor"


def preload(folder: Path, count: int, cores: int) -> bool:
    """Import, unless `count` workers with the same `folder` do so already; whether this one did.

    One core is left to the driver. Not all workers import at once on the others: the first trial
    begins when one of them is done.
    """
    for number in range(count):
        try:
            (folder / f"preloaded-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        lock = folder / f"preloading-{number % max(1, cores - 1)}.lock"
        # As Ray sets it for a trial of one core, where it is not set: libraries read it once. What
        # a trial uses, it sets itself.
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        with FileLock(lock), exported(threads), collecting_later():
            importlib.import_module(IN_TRIALS)
        return True
    return False


def _preload_here() -> None:
    node: Any = worker._global_node
    count = int(os.environ.get(COUNT, "0"))
    if node is not None and count:
        preload(Path(node.get_session_dir_path()), count, os.cpu_count() or 1)


_preload_here()
