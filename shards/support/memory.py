"""How much memory a process may still take, and what becomes of what it frees."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# Parameters of glibc's mallopt, from its malloc.h, and their values.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_ARENA_MAX: 1}
DEFAULT = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 * 1024, M_ARENA_MAX: 0}


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


@contextlib.contextmanager
def collecting_later() -> Iterator[None]:
    """Inside, Python does not look for garbage: imports leave little, and it takes a tenth of them.

    Where it does not look for garbage anyway, that stays so.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def keep_freed_memory() -> bool:
    """Let this process use memory again that it has freed; True where that could be set.

    By default glibc maps every large array anew and unmaps it when it is freed. A training step
    allocates its activations again each time, so the kernel zeroes and maps the same gigabytes at
    every step: at 224 pixels that is half of the CPU time (benchmarks/freed_memory.py). With this
    setting freed memory stays with the process, which then holds up to twice as much at its peak,
    since arrays of different sizes leave gaps. `release_memory` still gives back what is free.

    Call it in the main thread of a process that trains or embeds on a CPU, before it starts
    threads: one that has allocated keeps the heap it has.
    """
    return _set(KEEP)


@contextlib.contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """`keep_freed_memory` inside; at the end what is free goes back to the system."""
    keep_freed_memory()
    try:
        yield
    finally:
        _set(DEFAULT)
        release_memory()


def _set(values: Mapping[int, int]) -> bool:
    if not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")):
        return False
    return all(ctypes.CDLL(None).mallopt(name, value) == 1 for name, value in values.items())


def release_memory() -> None:
    """Return freed memory to the system, for a process that goes on with something else."""
    gc.collect()
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
