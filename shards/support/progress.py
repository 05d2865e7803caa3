"""Progress with an ETA from the first second: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self


def clock(seconds: float) -> str:
    """75 -> `1:15`, 4000 -> `1:06:40`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """`with Progress("build", total) as bar: bar.update(done, "note")`.

    `done` counts towards `total` in any unit. Output goes to stderr: a live line on a terminal,
    elsewhere at most one line every `every` seconds.
    """

    def __init__(self, title: str, total: float, every: float = 5.0) -> None:
        self.title, self.total, self.every = title, max(total, 1e-9), every
        self.done, self.note = 0.0, ""
        self.start = self.shown = time.monotonic()
        self.first = 0.0
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._print(0.0)
        return self

    def resume_at(self, done: float) -> None:
        """Set the part that an earlier process did; it is left out of the rate."""
        self.first = self.done = done

    def update(self, done: float, note: str = "") -> None:
        """Set how much is done and, unless empty, the note behind it."""
        self.done, self.note = done, note or self.note
        self.tick()

    def tick(self) -> None:
        """Print if the last output is old enough. It is cheap, so call it after every step."""
        now = time.monotonic()
        if now - self.shown >= (0.2 if self.live else self.every):
            self._print(now - self.start)

    def eta(self, elapsed: float) -> str:
        """`ETA 1:15`, at the rate so far."""
        gained = self.done - self.first
        left = (self.total - self.done) / gained * elapsed if gained > 0 else None
        return f"ETA {clock(left)}" if left is not None else "ETA --:--"

    def _print(self, elapsed: float) -> None:
        self.shown = time.monotonic()
        share = min(1.0, self.done / self.total)
        eta = self.eta(elapsed)
        line = f"{self.title} {share:4.0%}  {clock(elapsed)} elapsed, {eta}  {self.note}"
        if self.live:
            sys.stderr.write(f"\r\x1b[2K{line}"[:120])
        else:
            sys.stderr.write(line.rstrip() + "\n")
        sys.stderr.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.done, self.note = self.total, ""
        self._print(time.monotonic() - self.start)
        if self.live:
            sys.stderr.write("\n")
