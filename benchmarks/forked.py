"""A process of its own for each measurement, forked from one that has imported everything.

Memory and caches start afresh in each, as in a new process, without its seconds of imports.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def with_one_thread() -> None:
    """Start this program again with one thread, if it may have more: libraries ask at import."""
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | ONE_THREAD)


def in_a_fork(measure: Callable[..., T], *arguments: object) -> T:
    """`measure(*arguments)` in a child of this process, which must have no other threads."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(measure, arguments)
