"""How long an upload may take without progress: waiting for MLflow counts, for a CPU does not."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

# States of a thread (man 5 proc_pid_stat): it runs or waits for a CPU; it waits for a disk.
AT_WORK = {"R", "D"}
LONGEST = 10  # times the patience, whatever the process does


class Patience:
    """Whether a process has waited for so many seconds without progress.

    On a busy machine a process in the background may need minutes until it has imported MLflow and
    made a database. While a thread of it (but the calling one) is able to run, it does not wait
    for a server; that time does not count where /proc shows it. After LONGEST times `seconds` it
    is over in any case.

    seconds: without progress. pid: of the process.
    """

    def __init__(self, seconds: float, pid: int) -> None:
        self._seconds, self._threads = seconds, Path(f"/proc/{pid}/task")
        self.renew()

    def renew(self) -> None:
        """Count from now: there was progress."""
        self._waited, self._since = 0.0, time.monotonic()
        self._looked = self._since

    def is_over(self) -> bool:
        """Look once more; several times a second."""
        now = time.monotonic()
        if not self._works():
            self._waited += now - self._looked
        self._looked = now
        return self._waited >= self._seconds or now - self._since >= LONGEST * self._seconds

    def _works(self) -> bool:
        caller = str(threading.get_native_id())
        for stat in self._threads.glob("*/stat"):
            if stat.parent.name == caller:
                continue
            with contextlib.suppress(OSError):  # the thread has ended
                # The name, which may hold blanks and brackets, is in brackets before the state.
                if stat.read_text().rpartition(")")[2].split()[0] in AT_WORK:
                    return True
        return False
