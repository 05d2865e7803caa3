"""The trials that wait to run, in the form in which Ray Tune asks for them one by one.

Tune would otherwise be given all trials at once. It copies such a list for every trial, so its time
would grow with the square of their number. Here it gets an identity and a placement at a time.

Tune never tries a trial again by itself: what is tried again is decided here, so that a trial that
left because its machine is taken away is not counted as one that died.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ray.tune.search import Searcher

from sweep.running.placement import Placement
from sweep.running.spending import Spending

RETRIES = 3  # of a trial that died; an error of the trial itself is not tried again
WAITS = (0.0, 5.0, 20.0)  # seconds before each of them: a store that does not answer needs time


@dataclass(frozen=True)
class Entry:
    """A trial that waits: its identity, and what it occupies while it runs."""

    trial: str
    placement: Placement


class WaitingTrials(Searcher):
    """Gives Tune the trials of `entries`, in their order among those of equal placement.

    Of each placement a few trials are offered at any time, so that a large one that must wait for
    room never keeps small ones waiting, and the reverse.

    offered: at most so many trials of one placement wait for room at a time. concurrent: at most so
    many trials of all placements wait for room or run; None: any number. spending: decides whether
    a trial may still start; None: all may.
    """

    def __init__(
        self,
        entries: list[Entry],
        sweep: str,
        offered: int,
        concurrent: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        spending: Spending | None = None,
    ) -> None:
        super().__init__()
        self._spending = spending
        self._sweep, self._offered, self._concurrent = sweep, offered, concurrent
        self._clock = clock
        self._waiting: dict[Placement, deque[Entry]] = {}
        for entry in entries:
            self._waiting.setdefault(entry.placement, deque()).append(entry)
        self._unplaced = dict.fromkeys(self._waiting, 0)  # offered, and not started yet
        self._live: dict[str, Entry] = {}  # by Tune's own number of an attempt
        self._starting: set[str] = set()
        self._later: list[tuple[float, Entry]] = []  # to be tried again at that time
        self._deaths: dict[str, list[str]] = {}
        self._stopped = False

    # ---- called by Tune ----

    def suggest(self, trial_id: str) -> Any:
        """The next trial's Tune config; None where none may start now, FINISHED at the end."""
        if self._stopped:
            return Searcher.FINISHED
        self._take_up_again()
        entry = self._next()
        if entry and self._spending and not self._spending.may_start(entry.trial):
            self._stopped = True
            return Searcher.FINISHED
        if entry is None:
            ended = not (self._live or self._later or any(self._waiting.values()))
            return Searcher.FINISHED if ended else None
        self._live[trial_id] = entry
        self._starting.add(trial_id)
        self._unplaced[entry.placement] += 1
        return {"trial": entry.trial, "sweep": self._sweep, **asdict(entry.placement)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        ran = trial_id not in self._starting
        self._placed(trial_id)
        entry = self._live.pop(trial_id, None)
        if entry and self._spending:
            self._spending.ended(entry.trial, whole=ran and not error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved: the next driver finds in the store what is finished."""

    # ---- called for the events of trials ----

    def started(self, trial_id: str) -> None:
        """An attempt has room and runs."""
        self._placed(trial_id)
        if self._spending and trial_id in self._live:
            self._spending.started(self._live[trial_id].trial)

    def _placed(self, trial_id: str) -> None:
        """An attempt waits for room no longer."""
        if trial_id in self._starting:
            self._starting.remove(trial_id)
            self._unplaced[self._live[trial_id].placement] -= 1

    def died(self, trial: str, placement: Placement, reason: str) -> str | None:
        """A trial's process or node died, or its store did not answer.

        Returns None where the trial is tried again, else why it failed: the reason of each death.
        """
        reasons = self._deaths.setdefault(trial, [])
        reasons.append(reason)
        if len(reasons) <= RETRIES:
            wait = WAITS[len(reasons) - 1]
            self._later.append((self._clock() + wait, Entry(trial, placement)))
            return None
        if len(set(reasons)) == 1:
            return f"died {len(reasons)} times: {reason}"
        listed = "; ".join(f"{number}. {text}" for number, text in enumerate(reasons, 1))
        return f"died {len(reasons)} times: {listed}"

    def left(self, trial: str, placement: Placement) -> None:
        """A trial saved its state and left, because its machine is taken away or is to stop."""
        self._later.append((self._clock(), Entry(trial, placement)))

    def running(self) -> int:
        """How many trials run at present."""
        return len(self._live) - len(self._starting)

    def stop(self) -> None:
        """Give Tune no further trials."""
        self._stopped = True

    # ---- which one is next ----

    def _take_up_again(self) -> None:
        now = self._clock()
        due = [entry for when, entry in self._later if when <= now]
        self._later = [(when, entry) for when, entry in self._later if when > now]
        for entry in due:
            self._waiting[entry.placement].appendleft(entry)

    def _next(self) -> Entry | None:
        """A trial of the placement of which the fewest trials wait for room."""
        if self._concurrent is not None and len(self._live) >= self._concurrent:
            return None
        found = [
            placement
            for placement, entries in self._waiting.items()
            if entries and self._unplaced[placement] < self._offered
        ]
        if not found:
            return None
        return self._waiting[min(found, key=lambda p: self._unplaced[p])].popleft()
