"""A sweep that `sweep.stop` requests to end: its trials save their state, and no other starts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator

from shards.support.lease import request_stop
from shards.support.retry import briefly
from trainers.config.schema import TrialConfig
from trainers.results.lease import lease_folder

LOOK = 1.0  # seconds between two looks for a request


class Stopping:
    """Looks for a request while trials run, and passes it on to them through their leases.

    stop_requested: whether the sweep is to stop; it may read the store, and raise OSError.
    running: the trials at work.

    Attributes: `requested`, whether a request was found.
    """

    def __init__(
        self,
        store: str,
        stop_requested: Callable[[], bool],
        running: Callable[[], Iterable[TrialConfig]],
    ) -> None:
        self._store, self._stop_requested, self._running = store, stop_requested, running
        self._passed_on: set[str] = set()  # trials whose leases hold the request
        self.requested = False

    @contextlib.contextmanager
    def during(self, stop: Callable[[], None]) -> Iterator[None]:
        """Look every LOOK seconds; `stop` is called once when a request is found."""
        ended = threading.Event()

        def look_again() -> None:
            while not ended.wait(LOOK):
                # A store that does not answer: later, and not waited for, as the trials may end.
                with contextlib.suppress(OSError), briefly():
                    self.look(stop)

        thread = threading.Thread(target=look_again, name="stopping", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def look(self, stop: Callable[[], None]) -> None:
        """Look once. Raises: OSError."""
        if not self.requested and self._stop_requested():
            self.requested = True
            stop()
        if self.requested:
            for config in self._running():
                # One that has been started, but has not taken its lease yet, gets it later.
                if config.identity not in self._passed_on and request_stop(
                    lease_folder(self._store, config)
                ):
                    self._passed_on.add(config.identity)
