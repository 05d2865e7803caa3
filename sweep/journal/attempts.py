"""How long a trial ran: its attempts together, without the time between them."""

from __future__ import annotations


class Attempts:
    """Counts the time of a trial's attempts from the times of its rows or events.

    An attempt lasts from its start to the last that it reported. What an attempt that was killed
    did after that is in no journal, and is not counted.
    """

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def add(self, kind: str, time_ms: int) -> None:
        """A row of this kind, such as `start` or `epoch`; starts in their order."""
        if kind == "start":
            self._spans.append((time_ms, time_ms))
            return
        # A resumed trial first reports what its earlier attempts could not, with the times of then.
        for i, (start, end) in reversed(list(enumerate(self._spans))):
            if time_ms >= start:
                self._spans[i] = start, max(end, time_ms)
                return

    @property
    def seconds(self) -> float | None:
        """Of all attempts together; None without a start."""
        if not self._spans:
            return None
        return sum(end - start for start, end in self._spans) / 1000
