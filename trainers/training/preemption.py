"""SIGTERM: what a scheduler sends some seconds before it takes the machine away."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self


class PreemptedError(RuntimeError):
    """The trial was asked to leave; the same command continues it."""


class Notice:
    """`with Notice() as notice`: SIGTERM raises PreemptedError, at once or when it suits.

    Inside `with notice.deferred()` it only makes `notice()` true. In a thread that is not the
    main one nothing changes: signals are not for it to handle.
    """

    def __init__(self) -> None:
        self._heard = self._waits = False
        self._before: Any = None

    def __call__(self) -> bool:
        """Whether SIGTERM has come."""
        return self._heard

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Raises: PreemptedError at the end, if SIGTERM came and nothing else ended the block."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        self._leave()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if not self._waits:
            self._leave()

    def _leave(self) -> None:
        if self._heard:
            raise PreemptedError("asked to leave; the same command again continues")
