"""Where a build computes: a device that works, and a CPU's cores used without barriers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


@contextlib.contextmanager
def one_core_each(device: str) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that keeps order: parallel on a CPU, the built-in one elsewhere.

    Each task computes on one core, so results do not depend on how many cores there are, and
    no thread waits at a barrier for one that another process has pushed off its core (measured:
    5 times the CPU time with two OpenMP threads on two busy cores).
    """
    if torch.device(device).type != "cpu":
        yield map
        return
    with single_cores(torch.get_num_threads()) as pool:
        yield pool.map


@contextlib.contextmanager
def single_cores(count: int) -> Iterator[ThreadPoolExecutor]:
    """`count` threads in which torch computes on one core each; what has not begun is dropped."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what threads made from now on start with


def check_device(device: str) -> None:
    """Raises: ValueError for a device that is not there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0][:120]
        raise ValueError(f"device: `{device}` cannot be used ({first}); try cpu or cuda") from None
