"""The progress of a sweep in its own terminal: a live view, or plain lines where there is none."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live

from shards.support.progress import Progress, clock
from sweep.journal.overview import view
from sweep.running.watch import Watch

QUIET = 30.0  # seconds after which a line is printed though no trial reports anything


class SweepView(Progress):
    """As Progress, with the time left of the trials' own pace, and on a terminal every trial.

    note: what is said until a trial has reported.
    """

    def __init__(self, watch: Watch, note: str) -> None:
        super().__init__("trials", watch.total())
        self.watch = watch
        self.resume_at(watch.done())
        self.note = note
        self._live: Live | None = None
        self._left = threading.Event()

    def __enter__(self) -> Self:
        if self.live:
            # Ray's and pip's lines go above the view: Live prints what is written meanwhile there.
            console = Console(stderr=True)
            self._live = Live(
                console=console, get_renderable=self._render, refresh_per_second=2, transient=True
            )
            self._live.start()
            return self
        threading.Thread(target=self._tick, name="view", daemon=True).start()
        return super().__enter__()

    def _tick(self) -> None:
        """Trials that are measured report nothing for a while; a line tells that they run."""
        while not self._left.wait(QUIET):
            self.tick()

    def _render(self) -> RenderableType:
        return view(self.watch.overview(), time.monotonic() - self.start)

    def eta(self, elapsed: float) -> str:
        """By the plan and the trials' own pace; none where there is neither."""
        seconds = self.watch.remaining()
        return f"ETA {clock(seconds)}" if seconds is not None else "ETA --:--"

    def _print(self, elapsed: float) -> None:
        if self._live is None:
            super()._print(elapsed)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        if self._live is not None:
            self._live.stop()
            self._live, self.live = None, False  # the last line stays
        super().__exit__(kind, error, trace)
