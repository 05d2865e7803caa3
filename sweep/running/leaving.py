"""When the trial of this worker process is to save its state and leave.

- SIGTERM: Ray or the system ends this process. Python handles signals in the main thread, and Tune
  runs trials in another, so the trial's actor installs the handler, see `listen`.
- The driver requests it of all trials (Ctrl-C), or of those on a node that Ray drains.
- The cloud announces that it takes this machine away, see `sweep.running.spot_notice`.

A trial only calls `requested`, which takes no time: a thread looks for the reasons. The ranks of a
gang may be on other nodes than their trial's actor, so their actors look as well, see `watch_node`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import ray

from sweep.running import channel
from sweep.running.spot_notice import SpotNotice, drain_this_node

POLL_SECONDS = 2.0
NOTICE_VARIABLE = "DISTIL_SPOT_NOTICE"  # where this machine's notice is, see SpotNotice

_requested = threading.Event()
_busy = threading.Event()  # while a trial runs


def requested() -> bool:
    """Whether the trial is to leave."""
    return _requested.is_set()


@contextlib.contextmanager
def trial_running() -> Iterator[None]:
    """Inside the block SIGTERM requests the trial to leave; outside it ends the process."""
    _busy.set()
    try:
        yield
    finally:
        _busy.clear()


def listen(sweep: str) -> None:
    """Begin to look for reasons to leave. Call it in the main thread, once in a process."""
    before = signal.getsignal(signal.SIGTERM)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        _requested.set()
        if not _busy.is_set() and callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, on_sigterm)
    watch_node(sweep, lambda: None)


def watch_node(sweep: str, leave: Callable[[], None]) -> None:
    """Call `leave` in a thread once the trials on this node are to leave."""
    source = os.environ.get(NOTICE_VARIABLE)
    notice = SpotNotice(source) if source else None
    thread = threading.Thread(
        target=_look, args=(sweep, notice, leave), daemon=True, name="leaving"
    )
    thread.start()


def _look(sweep: str, notice: SpotNotice | None, leave: Callable[[], None]) -> None:
    node = ray.get_runtime_context().get_node_id()
    while not _requested.wait(POLL_SECONDS):
        with contextlib.suppress(Exception):  # the control process may be away for a while
            if channel.is_leave_requested(sweep, node):
                _requested.set()
        if notice is not None and notice.given():
            _requested.set()
            print("the cloud takes this machine away", file=sys.stderr)
            leave()
            drain_this_node(node)
            return
    leave()
