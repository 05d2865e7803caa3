"""How long the teachers themselves were at work in a build."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch


class Stopwatch:
    """Seconds that the teachers alone were at work, summed over workers."""

    def __init__(self, device: str) -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._lock, self._sum = threading.Lock(), 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, action: Callable[[], torch.Tensor]) -> torch.Tensor:
        if self._cuda:
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            pair[0].record()
            result = action()
            pair[1].record()
            self._events.append(pair)
            return result
        start = time.perf_counter()
        result = action()
        with self._lock:
            self._sum += time.perf_counter() - start
        return result

    def seconds(self) -> float:
        if self._events:
            torch.cuda.synchronize()
            self._sum += sum(start.elapsed_time(end) / 1000 for start, end in self._events)
            self._events.clear()
        return self._sum
