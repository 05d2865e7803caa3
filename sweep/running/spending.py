"""Which trials may still start under `--budget` and `--deadline`, by what trials have taken so far.

A trial counts with its estimate from the moment it is given to Ray until it ends, then with what it
took. Estimates are multiplied with the median of taken over estimated, once trials have ended.
"""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from statistics import median

from pydantic import Field

from shards.support import storage
from shards.support.schema import StrictModel, parsed
from sweep.planning.limits import Limits

FILE = "spent.json"
EVERY = 10.0  # seconds between two notes of what was spent, while trials run


class Spent(StrictModel):
    """The content of spent.json: money of all starts of a sweep so far, in `currency`."""

    currency: str
    money: float = Field(ge=0)


def spent_before(folder: Path, currency: str) -> float:
    """Money of earlier starts. Raises: ValueError for a damaged file or another currency."""
    path = folder / FILE
    if not path.exists():
        return 0.0
    found = parsed(Spent, path.read_bytes(), str(path))
    if found.currency != currency:
        raise ValueError(
            f"{path}: spent in {found.currency}, the prices are in {currency}; give prices in "
            f"{found.currency}"
        )
    return found.money


class Spending:
    """Decides whether a trial may start.

    Calls come from Tune's own loop; notes of what was spent are also made by other threads.

    seconds: {trial: estimated seconds}. shares: {trial: GPUs or cores that it occupies}. Of trials
    that are not among these, as later ones of a search, the medians count. price: of one of them
    for an hour. other: money besides trials, such as building banks. slots: so many ranks run at a
    time; None where that is not known, and a trial is then taken to start at once. ranks: {trial:
    how many it has}; None: all have one. begun: trials that may go on from a checkpoint.

    Attributes: `stopped`, why no more trials start, in one line; None while they may.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        seconds: Mapping[str, float],
        shares: Mapping[str, float],
        price: float,
        currency: str,
        other: float = 0.0,
        slots: int | None = None,
        ranks: Mapping[str, int] | None = None,
        begun: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._limits, self._clock = folder / FILE, limits, clock
        self._seconds, self._shares = seconds, shares
        self._price, self._currency = price / 3600, currency
        self._slots, self._ranks = slots, ranks or dict.fromkeys(shares, 1)
        self._before = spent_before(folder, currency) + other
        self._given: dict[str, float | None] = {}  # when it started; None: it waits for room
        self._ended = 0.0  # money of attempts that have ended
        self._ratios: list[float] = []
        self._begun = set(begun)  # and those of which an attempt has ended without a result
        self._lock = threading.Lock()  # of what `money` reads, and of the file
        self.stopped: str | None = None

    def may_start(self, trial: str) -> bool:
        """Whether the trial's estimate fits. The first that does not ends the starting for good."""
        if self.stopped is None:
            self.stopped = self._over(trial)
        if self.stopped is None:
            with self._lock:
                self._given[trial] = None
        return self.stopped is None

    def started(self, trial: str) -> None:
        if trial in self._given:
            with self._lock:
                self._given[trial] = self._clock()

    def ended(self, trial: str, whole: bool) -> None:
        """An attempt has ended. whole: with a result, so that its seconds say something.

        Those of an attempt that went on from an earlier one's checkpoint say nothing.
        """
        with self._lock:
            start = self._given.pop(trial, None)
            taken = 0.0 if start is None else self._clock() - start
            self._ended += taken * self._rate(trial)
        if start is not None:
            estimated = _of(self._seconds, trial)
            if whole and trial not in self._begun and estimated > 0:
                self._ratios.append(taken / estimated)
            if not whole:
                self._begun.add(trial)  # its next attempt does only the rest
        self.note()

    def money(self) -> float:
        """Spent by now, earlier starts included."""
        now = self._clock()
        running = ((t, start) for t, start in self._given.items() if start is not None)
        elapsed = sum((now - start) * self._rate(trial) for trial, start in running)
        return self._before + self._ended + elapsed

    def _rate(self, trial: str) -> float:
        return _of(self._shares, trial) * self._price

    def _expected(self, trial: str) -> float:
        return _of(self._seconds, trial) * (median(self._ratios) if self._ratios else 1.0)

    def _left(self, trial: str) -> float:
        """Seconds that a trial still takes, from its start or from now."""
        start = self._given[trial]
        return max(0.0, self._expected(trial) - (0.0 if start is None else self._clock() - start))

    def _over(self, trial: str) -> str | None:
        """Which limit the trial would break, in one line."""
        if self._limits.money is not None:
            committed = sum(self._left(other) * self._rate(other) for other in self._given)
            all_in = self.money() + committed + self._expected(trial) * self._rate(trial)
            if all_in > self._limits.money:
                return (
                    f"--budget {_amount(self._limits.money)} {self._currency}: "
                    f"{_amount(self.money())} spent, {_amount(all_in)} with the trials that run "
                    "and one more; no more are started, run the same command with more to continue"
                )
        if self._limits.deadline is not None:
            end = self._starts(trial) + self._expected(trial)
            if end > self._limits.deadline:
                late = end - self._limits.deadline
                return (
                    f"--deadline: one more trial would end about {late / 60:.0f} min after it; no "
                    "more are started, run the same command with a later one to continue"
                )
        return None

    def _starts(self, trial: str) -> float:
        """When a further trial would start: after those that wait, in the order they get room."""
        now = self._clock()
        if self._slots is None:
            return now
        ends: list[float] = []  # when each slot is free
        for other, start in self._given.items():
            if start is not None:
                ends += [now + self._left(other)] * self._slots_of(other)
        ends = sorted(ends)[-self._slots :]
        ends += [now] * (self._slots - len(ends))
        heapq.heapify(ends)
        for other in (t for t, start in self._given.items() if start is None):
            taken = [heapq.heappop(ends) for _ in range(self._slots_of(other))]
            for _ in taken:
                heapq.heappush(ends, taken[-1] + self._expected(other))
        return heapq.nsmallest(self._slots_of(trial), ends)[-1]

    def _slots_of(self, trial: str) -> int:
        """How many slots a trial takes."""
        assert self._slots is not None
        return min(self._slots, round(_of(self._ranks, trial)))

    @contextlib.contextmanager
    def noting(self, every: float = EVERY) -> Iterator[None]:
        """Inside the block, note what was spent every so many seconds, and once at its end.

        A driver that is killed then forgets no more than that of the trials that run.
        """
        over = threading.Event()

        def note_again() -> None:
            while not over.wait(every):
                self.note()

        thread = threading.Thread(target=note_again, name="spending", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.note()

    def note(self) -> None:
        """Keep what was spent for the next start. A full disk is reported by the journal."""
        with self._lock, contextlib.suppress(OSError):
            storage.write_json(str(self._path), {"currency": self._currency, "money": self.money()})


def _of(values: Mapping[str, float], trial: str) -> float:
    return values[trial] if trial in values else median(values.values())


def _amount(money: float) -> str:
    """With cents, or with more digits where there are only cents."""
    return f"{money:,.2f}" if money >= 1 else f"{money:.2g}"
