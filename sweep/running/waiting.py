"""The trials that wait to run, in the form in which Ray Tune asks for them one by one.

Tune would otherwise be given all trials at once. It copies such a list for every trial, so its time
would grow with the square of their number. Here it gets an identity and a placement at a time.

Tune never tries a trial again by itself: what is tried again is decided here, so that a trial that
left because its machine is taken away is not counted as one that died.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any, Protocol

from ray.tune.search import Searcher

from sweep.planning.placement import Placement
from sweep.running.spending import Spending

RETRIES = 3  # of a trial that died; an error of the trial itself is not tried again
# Seconds before each of them, where no epoch has ended since the one before: a store that does not
# answer needs time.
WAITS = (0.0, 5.0, 20.0)


@dataclass(frozen=True)
class Entry:
    """A trial that waits: its identity, what it occupies while it runs, and where its bank is."""

    trial: str
    placement: Placement
    bank: str = ""


class Unfinished(Protocol):
    """Banks that are being built, see `sweep.running.building.Builds`."""

    @property
    def failed(self) -> bool:
        """Whether one cannot be built."""
        ...

    def missing(self) -> frozenset[str]:
        """Locations of those that are not complete yet."""
        ...


class Source(Protocol):
    """Trials that come while others run, see `sweep.running.arriving`."""

    def waits(self) -> bool:
        """Whether further ones will come."""
        ...

    def take(self) -> list[Entry]:
        """Those that have come since the last call."""
        ...


class WaitingTrials(Searcher):
    """Gives Tune the trials of `entries`, in their order among those of equal placement.

    Of each placement a few trials are offered at any time, so that a large one that must wait for
    room never keeps small ones waiting, and the reverse.

    offered: at most so many trials of one placement wait for room at a time. concurrent: at most so
    many trials of all placements wait for room or run; None: any number. spending: decides whether
    a trial may still start; None: all may. builds: of banks whose trials wait until they are there,
    and of which a failure ends the sweep; None: all are there. source: of further trials; None:
    there are none.
    """

    def __init__(
        self,
        entries: list[Entry],
        sweep: str,
        offered: int,
        concurrent: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        spending: Spending | None = None,
        builds: Unfinished | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        self._builds, self._source = builds, source
        self._spending = spending
        self._sweep, self._offered, self._concurrent = sweep, offered, concurrent
        self._clock = clock
        # By placement, of those whose bank is there; the smallest number comes first.
        self._waiting: dict[Placement, list[tuple[int, Entry]]] = {}
        self._without_bank: dict[str, list[tuple[int, Entry]]] = {}
        self._unplaced: dict[Placement, int] = {}  # how many were offered, and not started yet
        self._numbers = count()
        self._add(entries)
        self._before = count(-1, -1)  # numbers of trials that come before all others
        self._live: dict[str, Entry] = {}  # by Tune's own number of an attempt
        self._starting: set[str] = set()
        self._later: list[tuple[float, Entry]] = []  # to be tried again at that time
        self._deaths: dict[str, list[str]] = {}
        self._trained: set[str] = set()  # trials of which an epoch has ended since the last death
        self._stopped = False

    # ---- called by Tune ----

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it, of no use: the next driver finds in the store what is finished

    def suggest(self, trial_id: str) -> Any:
        """The next trial's Tune config; None where none may start now, FINISHED at the end."""
        if self._stopped or (self._builds and self._builds.failed):
            return Searcher.FINISHED
        waits = self._source is not None and self._source.waits()
        if self._source is not None:
            self._add(self._source.take())
        self._take_up_again()
        self._take_up_built()
        entry = self._next()
        if entry and self._spending and not self._spending.may_start(entry.trial):
            self._stopped = True
            return Searcher.FINISHED
        if entry is None:
            left = any(self._waiting.values()) or self._without_bank
            ended = not (self._live or self._later or left or waits)
            return Searcher.FINISHED if ended else None
        self._live[trial_id] = entry
        self._starting.add(trial_id)
        self._unplaced[entry.placement] += 1
        deaths = len(self._deaths.get(entry.trial, ()))
        own = {"trial": entry.trial, "sweep": self._sweep, "deaths": deaths}
        return own | asdict(entry.placement)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self._placed(trial_id)
        entry = self._live.pop(trial_id, None)
        if entry and self._spending:
            # A trial that failed, was stopped or runs elsewhere ends without an error for Tune.
            outcome = (result or {}).get("outcome")
            self._spending.ended(entry.trial, whole=outcome == "finished" and not error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is saved, as above."""

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
            wait = 0.0 if trial in self._trained else WAITS[len(reasons) - 1]
            self._trained.discard(trial)
            self._later.append((self._clock() + wait, Entry(trial, placement)))
            return None
        if len(set(reasons)) == 1:
            return f"died {len(reasons)} times: {reason}"
        listed = "; ".join(f"{number}. {text}" for number, text in enumerate(reasons, 1))
        return f"died {len(reasons)} times: {listed}"

    def died_in_place(self, trial: str, reason: str) -> None:
        """A rank of a trial died, and the trial goes on where it was."""
        self._deaths.setdefault(trial, []).append(reason)

    def trained(self, trial: str) -> None:
        """An epoch of a trial has ended."""
        self._trained.add(trial)

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

    def _add(self, entries: list[Entry]) -> None:
        """Put trials behind those that wait already."""
        missing = self._builds.missing() if self._builds else frozenset[str]()
        for number, entry in zip(self._numbers, entries, strict=False):
            self._waiting.setdefault(entry.placement, [])
            self._unplaced.setdefault(entry.placement, 0)
            if entry.bank in missing:
                self._without_bank.setdefault(entry.bank, []).append((number, entry))
            else:
                heapq.heappush(self._waiting[entry.placement], (number, entry))

    def _take_up_again(self) -> None:
        now = self._clock()
        due = [entry for when, entry in self._later if when <= now]
        self._later = [(when, entry) for when, entry in self._later if when > now]
        for entry in due:
            heapq.heappush(self._waiting[entry.placement], (next(self._before), entry))

    def _take_up_built(self) -> None:
        """Trials whose bank has been built since take their place among the others."""
        if self._builds is None or not self._without_bank:
            return
        for bank in self._without_bank.keys() - self._builds.missing():
            for number, entry in self._without_bank.pop(bank):
                heapq.heappush(self._waiting[entry.placement], (number, entry))

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
        return heapq.heappop(self._waiting[min(found, key=lambda p: self._unplaced[p])])[1]
