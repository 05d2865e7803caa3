"""How much memory a process may still take."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path


def free_memory(root: Path = Path("/")) -> int:
    """Free bytes of the system, or fewer where the process's control group is limited to fewer.

    Linux counts its file cache as free (MemAvailable), because it gives it back when needed;
    elsewhere only unused pages are counted. `root` is the file system's root, for tests.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        text = (root / "proc/meminfo").read_text()
        for kibibytes in re.findall(r"^MemAvailable: *(\d+) kB", text, re.M):
            free = 1024 * int(kibibytes)
    with contextlib.suppress(OSError, ValueError):  # the file says `max` where there is no limit
        group = root / "sys/fs/cgroup"
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free
