"""Several sweeps on one store: each trial, and each bank, is made by one of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from shards.bank.manifest import MANIFEST
from shards.support import storage
from shards.support.lease import HeldError, Observer, is_free, ours, wait_and_take
from trainers.config.schema import TrialConfig
from trainers.results.lease import holder

LOOK = 2.0  # seconds between two looks at what other sweeps do
BUILDS = "bank-leases"


def wait_for_others(
    trials: list[TrialConfig],
    store: str,
    adopt: Callable[[TrialConfig], bool],
    stop: Callable[[], bool],
    observer: Observer | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[list[TrialConfig], tuple[str, ...]]:
    """Wait for trials that other sweeps run, until some of them are free or all are finished.

    adopt: takes a finished trial's result; False where there is none. stop: whether to give up.

    Returns: the trials that no process runs any more, and the holders that gave no sign of life.
    """
    observer, waiting = observer or Observer(), list(trials)
    while waiting and not stop():
        waiting = [config for config in waiting if not adopt(config)]
        free: list[TrialConfig] = []
        gone: list[str] = []
        for config in waiting:
            claim = holder(store, config, observer)
            if is_free(claim):
                free.append(config)
            elif claim is not None and observer.expired(claim):
                free.append(config)
                gone.append(claim.holder)
        if free:
            return free, tuple(gone)
        if waiting:
            sleep(LOOK)
    return [], ()


def build_once(
    location: str,
    store: str,
    build: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call `build`, which makes the bank at `location`, unless another sweep makes it."""
    name = location.rstrip("/").rsplit("/", 1)[-1]
    place, said = storage.join(store, BUILDS, name), False
    while not storage.exists(storage.join(location, MANIFEST)):
        try:
            lease = wait_and_take(place, ours(f"bank {name}"))
        except HeldError as error:
            if not said:
                print(f"waiting for {location}: {error.claim.process} builds it", file=sys.stderr)
                said = True
            sleep(LOOK)
            continue
        with lease:
            if not storage.exists(storage.join(location, MANIFEST)):
                build()
        # Whoever takes it now finds the bank finished. Other builds may still use the folder.
        storage.delete(place)
        if storage.is_local(store):
            with contextlib.suppress(OSError):
                storage.local_path(storage.join(store, BUILDS)).rmdir()
