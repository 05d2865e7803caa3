"""Ctrl-C and SIGTERM end a sweep: the first lets trials save their state, the second does not."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

GRACE = 25.0  # seconds for trials to save and leave after the first signal


@contextlib.contextmanager
def graceful(
    leave: Callable[[], None],
    running: Callable[[], int],
    at_once: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Inside the block, the first signal calls `leave` in a thread and lets the block go on.

    When no trial is `running` any more, after GRACE seconds, or at the second signal, the block
    ends with KeyboardInterrupt. at_once: called at the second signal before that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    main = threading.main_thread().ident
    assert main is not None
    signalled, over = threading.Event(), threading.Event()

    def wait() -> None:
        leave()
        end = time.monotonic() + GRACE
        while running() and time.monotonic() < end and not over.wait(0.2):
            pass
        if not over.is_set():
            over.set()
            signal.pthread_kill(main, signal.SIGINT)

    def on_signal(number: int, frame: FrameType | None) -> None:
        if signalled.is_set():
            if at_once is not None and not over.is_set():
                at_once()
            over.set()
            raise KeyboardInterrupt
        signalled.set()
        print(
            f"\nending: trials save their state for up to {GRACE:g} s; once more ends at once",
            file=sys.stderr,
        )
        threading.Thread(target=wait, daemon=True, name="interrupt").start()

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, on_signal) for kind in kinds]
    try:
        yield
    finally:
        over.set()
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
    if signalled.is_set():
        raise KeyboardInterrupt
