"""Threads: torch on one core each, and items computed ahead of their use."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")


@contextlib.contextmanager
def single_core_map(device: str) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a `map` that keeps order: in parallel on a CPU, the built-in one on other devices.

    Each task computes on one core, so results do not depend on the number of cores. It is also
    faster on a busy machine: torch's own threads wait for each other at a barrier after every
    operation, and one that is scheduled away delays all (measured: 5 times the CPU time with two
    OpenMP threads on two busy cores).
    """
    if torch.device(device).type != "cpu":
        yield map
        return
    with single_core_pool(torch.get_num_threads()) as pool:
        yield pool.map


@contextlib.contextmanager
def single_core_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads run torch on one core each; tasks not yet begun are dropped at exit."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # torch.set_num_threads in a pool's thread also sets what threads started later begin with.
        torch.set_num_threads(before)


def prefetch(
    pool: Executor, compute: Callable[[S], T], items: Iterable[S], depth: int
) -> Iterator[T]:
    """`compute(item)` of each item in order, up to `depth` of them ahead of the caller.

    At most `depth + 1` results are in memory besides the one that the caller works on. An error is
    raised when its item's turn comes.
    """
    pending: deque[Future[T]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(compute, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # the caller stopped early, or an item failed
        for future in pending:
            future.cancel()


def check_device(device: str) -> None:
    """Raises: ValueError for a device that torch cannot use on this machine."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0][:120]
        raise ValueError(f"device: `{device}` cannot be used ({first}); try cpu or cuda") from None
