"""Python child processes that end with their parent, and may show that they are alive.

A parent that is killed outright (SIGKILL, out of memory) cannot end its children itself, and a
forgotten child would hold a GPU or a lock for hours. On Linux the kernel does it instead
(`prctl(PR_SET_PDEATHSIG)`, man 2 prctl); elsewhere the child is not protected.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# The child runs this before any heavy import, so that there is no long window in which it could
# outlive its parent. The parent may have died before `prctl` was called: hence the comparison of
# process ids. 1 is PR_SET_PDEATHSIG. The heartbeat is a thread, so a slow step keeps it going;
# it stops once its file is gone.
_PROLOGUE = """\
import ctypes, os, signal, sys, threading, time
_parent, _heartbeat = int(sys.argv.pop(1)), sys.argv.pop(1)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != _parent:
        sys.exit("the parent process has ended")
def _beat():
    while os.path.exists(_heartbeat):
        os.utime(_heartbeat)
        time.sleep(1)
if _heartbeat:
    threading.Thread(target=_beat, daemon=True).start()
"""


def run_module(module: str) -> str:
    """Python code that does what `python -m MODULE` does."""
    return f"import runpy\nrunpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"


def child_command(code: str, arguments: Sequence[str], heartbeat: Path | None = None) -> list[str]:
    """The command line of a Python process that runs `code` and dies with the calling process.

    The process that calls this must be the one that starts the child. `code` finds `arguments`
    in `sys.argv[1:]`. The child sets the modification time of the existing file `heartbeat` to
    the present once a second.
    """
    prefix = [str(os.getpid()), str(heartbeat) if heartbeat else ""]
    return [sys.executable, "-c", _PROLOGUE + code, *prefix, *arguments]


class Heartbeats:
    """How long each of several children has sent no heartbeat.

    Time is added up from one check to the next, at most one second each. So the time during which
    this process was suspended is not counted: a machine that sleeps suspends its children as well.

    files: of each child's heartbeat. limit: seconds.
    """

    def __init__(self, files: list[Path], limit: float) -> None:
        self._files, self.limit = files, limit
        self._last_beat = [0] * len(files)
        self._silent_seconds = [0.0] * len(files)
        self._checked = time.monotonic()

    def silent(self, alive: Sequence[int]) -> int | None:
        """A child among `alive` without a heartbeat for longer than the limit, or None."""
        now = time.monotonic()
        elapsed, self._checked = min(now - self._checked, 1.0), now
        for child in alive:
            beat = self._files[child].stat().st_mtime_ns
            quiet = beat == self._last_beat[child]
            self._silent_seconds[child] = self._silent_seconds[child] + elapsed if quiet else 0.0
            self._last_beat[child] = beat
            if self._silent_seconds[child] > self.limit:
                return child
        return None
