"""Why a trial ends before it is done: SIGTERM, a request to stop, a time limit, a lost lease."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shards.support.lease import Lease, is_stop_requested
from trainers.training.preemption import PreemptedError, PreemptionHandler


class StoppedError(PreemptedError):
    """`sweep.stop` asked the trial to end; the same command continues it."""


class TimeLimitError(RuntimeError):
    """The trial reached its time limit; its state is saved."""


@dataclass
class Ending:
    """Whether a trial is to save its state and end now: called at every check of the training loop.

    preempted: SIGTERM. limit: of the training, in seconds from now; None for no limit, as in a
    process that waits for ranks, which may be measuring by then. lease: of the trial, in the
    process of its first rank. lease_folder: of the trial, in a process that waits for ranks.
    """

    preempted: PreemptionHandler
    limit: float | None = None
    lease: Lease | None = None
    lease_folder: str = ""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._start = self.clock()

    def __call__(self) -> bool:
        # A lost lease: the attempt to save then raises LostError.
        lease = self.lease is not None and (self.lease.stop_requested or self.lease.lost)
        return self.preempted() or lease or self._over()

    def _over(self) -> bool:
        return self.limit is not None and self.clock() - self._start >= self.limit

    def _stopped(self) -> bool:
        if self.lease is not None:
            return self.lease.stop_requested
        return bool(self.lease_folder) and is_stop_requested(self.lease_folder)

    @contextlib.contextmanager
    def named(self) -> Iterator[Ending]:
        """A PreemptedError that SIGTERM did not cause gets the type and the words of its cause."""
        try:
            yield self
        except PreemptedError as error:
            if self.preempted():
                raise
            if self._over():
                raise TimeLimitError(f"time limit of {self.limit:g} s; {error}") from None
            if self._stopped():
                raise StoppedError(f"stopped on request; {error}") from None
            raise
