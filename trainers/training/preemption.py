"""Preemption: a scheduler sends SIGTERM some seconds before it reclaims the machine.

`requested` is for schedulers and users that announce it in another way.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Self


class PreemptedError(RuntimeError):
    """SIGTERM or a request ended the trial; the same command continues it."""


class PreemptionHandler:
    """Inside `with PreemptionHandler() as preempted` SIGTERM raises PreemptedError.

    Inside `with preempted.deferred()` SIGTERM only makes `preempted()` true, so that the training
    loop can finish its step and save; the error is raised when that block ends. Outside the main
    thread the handler does nothing, because Python handles signals in the main thread only.

    requested: returns true once the trial is to end for another reason, which counts as SIGTERM;
    but it is called only where `preempted()` is, and at the end of `deferred`.
    """

    def __init__(self, requested: Callable[[], bool] = lambda: False) -> None:
        self._requested = requested
        self._received = self._deferred = False
        self._previous: Any = None  # the handler before this one

    def __call__(self) -> bool:
        """Whether SIGTERM has been received, or the end of the trial was requested."""
        return self._received or self._requested()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    @contextlib.contextmanager
    def deferred(self) -> Generator[None]:
        """A context in which SIGTERM raises nothing until its end.

        Raises: PreemptedError at its end, where `preempted()` is true and no other error was
            raised.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self._raise_if_received()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        if not self._deferred:
            self._raise_if_received()

    def _raise_if_received(self) -> None:
        if self():
            how = "by SIGTERM" if self._received else "on request"
            raise PreemptedError(f"ended {how}; the same command again continues")
