"""When the last of many trials ends, on so many devices or in so many slots."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

ROUNDING = 1e-9  # shares of a device, such as ten of 0.1, do not add up exactly


def makespan(
    waiting: Iterable[tuple[float, float]],
    devices: float,
    running: Iterable[tuple[float, float]] = (),
    start: float = 0.0,
    most: int | None = None,
) -> float:
    """Seconds from now until the last trial ends; 0 where there are none.

    waiting, running: (seconds, devices) of each trial; of one that runs, the seconds that are left.
    start: seconds until the first of those that wait may start. most: so many trials run at a time
    at most; None: as many as there is room for. As in a sweep, of the trials that wait and fit the
    longest starts first; one that needs more than there is gets all of it.
    """
    queues: dict[float, list[float]] = {}  # {devices: seconds, the longest last}
    for seconds, share in sorted(waiting):
        queues.setdefault(min(share, devices), []).append(seconds)
    ends = list(running)
    heapq.heapify(ends)
    free, now, last = devices - sum(share for _, share in ends), start, 0.0
    while ends or queues:
        while (most is None or len(ends) < most) and (
            fitting := [share for share in queues if share <= free + ROUNDING]
        ):
            share = max(fitting, key=lambda share: queues[share][-1])
            heapq.heappush(ends, (now + queues[share].pop(), share))
            free -= share
            if not queues[share]:
                del queues[share]
        end, share = heapq.heappop(ends)
        now, last, free = max(now, end), max(last, end), free + share
    return last
