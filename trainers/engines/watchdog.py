"""Watchdog: a process whose step does not end exits, so that the trial can be tried again.

A rank that waits too long for the others does so because one of them is stuck; a trial of one rank
because its device or a library is. The limit is DISTIL_STUCK_SECONDS (default 600). With several
ranks it also bounds what the first one may do alone while the others wait for it: saving and
measuring.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta

from shards.support.environment import seconds_of

LIMIT_VARIABLE, LIMIT = "DISTIL_STUCK_SECONDS", 600.0
MARGIN = 60.0  # torch's own limit is later, because its messages say less
STUCK = 5  # exit status of a process that waited too long; a retry may succeed


def process_group_timeout() -> timedelta:
    """The timeout of torch's own collectives."""
    return timedelta(seconds=seconds_of(LIMIT_VARIABLE, LIMIT) + MARGIN)


def _exit(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)
    # The main thread is blocked inside the collective, where no exception can reach it.
    os._exit(STUCK)


class Watchdog:
    """Limits the time of operations that may never end: `with watchdog.during("gather"):`.

    limit: seconds; by default DISTIL_STUCK_SECONDS. on_stuck: called with a message, in a thread,
    when one such block lasts longer; by default it exits the process. alone: whether there are no
    other ranks to wait for.
    """

    def __init__(
        self,
        limit: float | None = None,
        on_stuck: Callable[[str], None] = _exit,
        alone: bool = False,
    ) -> None:
        self.limit, self._alone = limit or seconds_of(LIMIT_VARIABLE, LIMIT), alone
        self._on_stuck = on_stuck
        self._operation: tuple[str, int] | None = None
        self._count = 0
        self._over = threading.Event()

    @contextlib.contextmanager
    def during(self, name: str) -> Generator[None]:
        """Watch the block, which may contain others; `name` appears in the message."""
        self._count += 1
        before, self._operation = self._operation, (name, self._count)
        try:
            yield
        finally:
            self._operation = before

    def start(self) -> None:
        """Start the thread that watches."""
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def stop(self) -> None:
        """End the thread."""
        self._over.set()

    def _watch(self) -> None:
        """Check several times within the limit whether the same block is still running.

        Time in which this process was suspended is not counted. Otherwise all ranks of a machine
        that slept would exit when it wakes.
        """
        pause = min(1.0, self.limit / 8)
        seen, waited, last = None, 0.0, time.monotonic()
        while not self._over.wait(pause):
            now = time.monotonic()
            operation = self._operation
            same = operation is not None and operation == seen
            waited = waited + min(now - last, 2 * pause) if same else 0.0
            seen, last = operation, now
            if waited > self.limit and operation is not None:
                self._on_stuck(self._message(operation[0]))
                return

    def _message(self, name: str) -> str:
        whom, stuck = "the other ranks", "one of them"
        if self._alone:
            whom, stuck = "a step to go on", "the device or a library"
        return (
            f"waited {self.limit:g} s for {whom} (in {name}): {stuck} is stuck; {LIMIT_VARIABLE} "
            "sets the limit"
        )
