"""Trials that come while others run: from the thread of events to Tune's loop."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")


class Arriving(Generic[Job]):
    """Called for every event of a trial as `watch` is, which it calls; then looks for new jobs.

    watch: what is to know of the events. arrived: the jobs that have come since the last call; it
    may wait for the store. awaited: whether an event of a trial that runs may lead to further ones.
    """

    def __init__(
        self,
        watch: Callable[[str, str, dict[str, Any]], None],
        arrived: Callable[[], list[Job]],
        awaited: Callable[[], bool],
    ) -> None:
        self._watch, self._arrived, self._awaited = watch, arrived, awaited
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._looking = self._broken = False

    def __call__(self, trial: str, kind: str, values: dict[str, Any]) -> None:
        """Raises: what `watch` and `arrived` raise; nothing is awaited any more then."""
        try:
            self._watch(trial, kind, values)
            self._looking = True
            for job in self._arrived():
                self._jobs.put(job)
            self._looking = False
        except BaseException:
            self._broken = True
            raise

    def waits(self) -> bool:
        """Whether further jobs will come. Ask before `take`: some may come in between."""
        # In this order: what is awaited no more has been found by then, or is being looked at.
        return (self._awaited() or self._looking) and not self._broken

    def take(self) -> list[Job]:
        """The jobs that have come since the last call."""
        found: list[Job] = []
        while True:
            try:
                found.append(self._jobs.get_nowait())
            except Empty:
                return found
