"""What a command does when Ray dies under it: it starts itself again, in the same process.

Ray cannot be trusted in a process in which it has died: its C++ code may wait for ever, or end the
process. execve(2) replaces the whole program and keeps the process's number, so that a shell or a
scheduler that started the command does not notice. The store says what is left to do.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn

import psutil

from shards.support.command import INTERRUPTED

TRIES = "DISTIL_RAY_RESTARTS"  # of this command so far
SINCE = "DISTIL_STARTED"  # seconds since 1970 at which the command that was replaced began
MOST = 5


_BEGAN: list[float] = []  # what `began_at` has returned last


def began_at() -> float:
    """Seconds since 1970 at which this command began, before Ray died under it where it has."""
    # Taken away, for in Python a later sweep of this process begins at a time of its own.
    _BEGAN[:] = [float(os.environ.pop(SINCE, "0")) or time.time()]
    return _BEGAN[0]


def restart_command(dead: str) -> NoReturn:
    """End all children and run this command anew; after MOST times, end. dead: what of Ray."""
    count = int(os.environ.get(TRIES, "0"))
    if count >= MOST:
        leave_command(f"{dead}, after {count} restarts")
    _end_children()
    print(
        f"\nwarning: Ray's {dead} on this machine has died; starting another Ray and going on",
        file=sys.stderr,
        flush=True,
    )
    os.environ[TRIES] = str(count + 1)
    if _BEGAN:
        os.environ[SINCE] = repr(_BEGAN[0])
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def leave_command(dead: str) -> NoReturn:
    """End this process at once with one line. dead: what of Ray."""
    print(
        f"\nerror: Ray has died ({dead}); run the same command again to continue",
        file=sys.stderr,
        flush=True,
    )
    _end_children()
    os._exit(1)


def end_command() -> NoReturn:
    """End this process at once, as a second Ctrl-C asks for."""
    print("\ninterrupted; run the same command again to continue", file=sys.stderr, flush=True)
    _end_children()
    os._exit(INTERRUPTED)


def _end_children() -> None:
    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            child.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(children, timeout=5)
    time.sleep(0.1)  # for the end of what they printed
