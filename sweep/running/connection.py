"""The sweep's connection to Ray, which can begin before anything that takes long is imported.

A driver imports for longer than Ray needs to start, and Ray's workers import the same for each
trial's actor. So a sweep of this machine whose trials can begin at once starts Ray first, and its
workers import while the driver does: `started_at_once`. Nothing that this module imports needs
torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray

from shards.building import ray_connection
from shards.support.environment import exported

TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journal is the record: no CSV, JSON, ...
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # or `fit` swallows Ctrl-C and returns as if finished
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # snapshots are not used, and hold all trials so far
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",  # WaitingTrials limits how many wait for room
    "MALLOC_ARENA_MAX": "1",  # Tune runs each trial in a new thread, which would get its own heap
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table whatever `verbose` is
}
OBJECT_STORE = 100 * 1024 * 1024  # bytes; trials read their bank from the store, not through Ray
READY = 4  # workers, at most, that import before there is a trial for them
PRELOADED = "sweep.running.preloaded"  # what the workers import
COUNT = "DISTIL_PRELOADED"  # environment variable of workers: how many of them do so

_kept: list[bool] = []  # not empty inside `started_at_once`


@contextlib.contextmanager
def connected(
    address: str | None, cpus: int, folder: Path, plugins: Sequence[str], trials: int
) -> Iterator[None]:
    """A connection to Ray for the sweep in `folder`; a Ray started here is stopped at the end.

    cpus: of a Ray started here. plugins: MODULE@HASH of those that the trials need. trials: how
    many there are; workers for so many, or READY, import what these need.

    Raises: ValueError where nothing answers at `address`, or a Ray does not start here.
    """
    if _kept and ray.is_initialized():
        yield
        return
    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    owner = str(folder.resolve())
    connection = ray_connection.connected(
        address, owner, cpus, OBJECT_STORE, folder, plugins, preload=PRELOADED
    )
    with contextlib.ExitStack() as stack:
        with exported({COUNT: str(min(cpus, trials, READY))}):
            stack.enter_context(connection)
        yield


@contextlib.contextmanager
def started_at_once(cpus: int, folder: Path, plugins: Sequence[str], trials: int) -> Iterator[None]:
    """Inside, Ray runs on this machine, and `connected` uses it. Arguments, Raises: as there."""
    with connected(None, cpus, folder, plugins, trials):
        _kept.append(True)
        try:
            yield
        finally:
            _kept.pop()
