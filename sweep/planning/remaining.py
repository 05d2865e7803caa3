"""How long a sweep still takes: what is left, dealt out to as many ranks at a time as run now.

Dividing what is left by the rate so far counts the start of the sweep into the rate, and takes the
last trials to share a machine that they leave idle. So each trial's seconds are those that were
planned, times what trials like it have taken so far, and the rest of the schedule is played
through. A gang needs room for all of its ranks, and has times of its own.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from sweep.planning.makespan import makespan

FRESH = 8.0  # seconds until a process has imported what a trial needs
REUSED = 0.5  # the same in a process that has run a trial, until one was seen
GANG = 4.0  # the same of a gang, whose ranks start and meet
STARTING = 10.0  # seconds until Ray and its workers have started
SEEN = 200  # newest trials that are looked at
LATEST = 16  # of equal plans, newest of which seconds are taken: a machine may become slower
TEACHER = 1.6  # how much longer measuring takes in a fresh trial, until another was seen
BETWEEN = 15.0  # seconds in which the next trial takes the place of one that has ended


@dataclass
class Timing:
    """One trial as far as it is known.

    Attributes:
        training: planned seconds of its training; 0 for a trial that is only measured.
        steps: optimiser steps in all.
        embedding, probing: planned seconds of its measurements: the student's passes over images,
            and the arithmetic on its embeddings.
        timed: whether the plan was timed on the machine that runs the trial. Otherwise only
            ratios of planned seconds mean something.
        ranks: processes that run it together.
        done: steps so far.
        started, trained, ended: seconds on one clock at which it began, made its newest known
            step, and ended; None for what has not happened.
        first: (step, seconds) of the first known step of this attempt. The rate is counted from
            there, since what comes before is reading data and, in a process's first trial, imports.
        failed: whether it ended without a result.
        fresh: whether it is the first of its process, which imports libraries and fills caches.
    """

    training: float
    steps: int
    embedding: float = 0.0
    probing: float = 0.0
    timed: bool = False
    ranks: int = 1
    done: int = 0
    started: float | None = None
    first: tuple[int, float] | None = None
    trained: float | None = None
    ended: float | None = None
    failed: bool = False
    fresh: bool = False

    def step(self, done: int, now: float) -> None:
        """Note that `done` steps were made by `now`."""
        if self.first is None:
            self.first = (done, now)
        self.done, self.trained = max(self.done, done), now

    def restart(self, now: float) -> None:
        """Note that an attempt began."""
        self.started, self.first, self.trained, self.ended = now, None, None, None
        self.failed = False

    def interrupt(self) -> None:
        """Note that the attempt is over, and that the trial waits for another one."""
        self.started, self.first, self.trained = None, None, None

    @property
    def running(self) -> bool:
        return self.started is not None and self.ended is None

    @property
    def waiting(self) -> bool:
        return self.started is None and self.ended is None

    def seconds_a_step(self) -> float | None:
        """None before two rows of this attempt are known."""
        if self.first is None or self.trained is None or self.done <= self.first[0]:
            return None
        return (self.trained - self.first[1]) / (self.done - self.first[0])


def remaining_seconds(
    trials: Sequence[Timing], now: float, slots: int | None = None
) -> float | None:
    """Seconds until the last of the trials ends.

    slots: how many ranks run at a time, where that is known; else as many as ran of late.
    None before anything was seen of trials whose plan was not timed.
    """
    waiting = [trial for trial in trials if trial.waiting]
    running = [trial for trial in trials if trial.running]
    if not waiting and not running:
        return 0.0
    costs = _Costs.of_trials(trials, now)
    if costs is None:
        return None
    start = 0.0
    if not running and not any(trial.ended for trial in trials):
        start = STARTING + FRESH
    return makespan(
        [(costs.whole(trial), trial.ranks) for trial in waiting],
        slots or _slots(trials, now),
        [(costs.left(trial, now), trial.ranks) for trial in running],
        start,
    )


def _slots(trials: Iterable[Timing], now: float) -> int:
    """The most ranks that ran together of late, or ever where none runs; at least 1."""
    spans = [(t.started, t.ended, t.ranks) for t in trials if t.started is not None]
    since = now - BETWEEN if any(ended is None for _, ended, _ in spans) else -math.inf
    changes: list[tuple[float, int]] = []
    for started, ended, ranks in spans:
        if ended is None or ended >= since:
            changes += [(max(started, since), ranks), (now if ended is None else ended, -ranks)]
    most = count = 0
    for _, change in sorted(changes):  # of equal times, ends come first
        count += change
        most = max(most, count)
    return max(1, most)


@dataclass(frozen=True)
class _Ratios:
    """Seconds that were seen over those that were planned, by the planned ones.

    Of equal plans the median. Between two plans the ratio goes with the plan's logarithm; beyond
    all of them it is that of the nearest. planned: ascending, above 0.
    """

    planned: tuple[float, ...]
    ratios: tuple[float, ...]

    @classmethod
    def between(cls, pairs: Iterable[tuple[float, float]]) -> _Ratios | None:
        """Of (planned, seen) seconds, the newest last; None where there are none."""
        found: dict[float, list[float]] = {}
        for planned, seen in pairs:
            if planned > 0:
                found.setdefault(planned, []).append(seen / planned)
        if not found:
            return None
        planned = tuple(sorted(found))
        return cls(planned, tuple(median(found[one][-LATEST:]) for one in planned))

    def seconds(self, planned: float) -> float:
        """What a plan of so many seconds takes."""
        if planned <= 0:
            return 0.0
        above = bisect_right(self.planned, planned)
        if above in (0, len(self.planned)):
            return planned * self.ratios[max(0, above - 1)]
        (low, high), (first, last) = self.planned[above - 1 :][:2], self.ratios[above - 1 :][:2]
        part = math.log(planned / low) / math.log(high / low)
        return planned * (first + part * (last - first))


PLANNED = _Ratios((1.0,), (1.0,))


@dataclass(frozen=True)
class _Costs:
    """What trials take before their training, for it, and after it.

    before: seconds, in a process that has run a trial, {ranks: of trials with so many}. training:
    the same, with those of all trials under None. slower: how much longer training takes than
    planned. measuring: by what `planned_measuring` returns.
    """

    before: Mapping[int, float]
    training: Mapping[int | None, _Ratios]
    slower: float
    measuring: _Ratios

    @classmethod
    def of_trials(cls, trials: Iterable[Timing], now: float) -> _Costs | None:
        """By the newest trials that have run to their end, and those that run.

        Of trials that are fresh only the rate of training is taken, where others are known.
        """
        trials = list(trials)
        started = [t for t in trials if t.started is not None and not t.failed]
        ended = sorted((t for t in started if t.ended is not None), key=_end)[-SEEN:]
        seen = [*ended, *(t for t in started if t.ended is None and t.trained is not None)]
        timed = all(trial.timed for trial in trials if not trial.ended)
        if not seen and not timed:
            return None
        pairs = [(t, s) for t in seen if (s := _training(t, timed))]
        training: dict[int | None, _Ratios] = {}
        for ranks in {None, *(t.ranks for t, _ in pairs)}:
            of_these = _Ratios.between(_usual([p for p in pairs if ranks in (None, p[0].ranks)]))
            if of_these is not None:
                training[ranks] = of_these
        if None not in training:
            # All that is known is that trials are late, if they are.
            late = [t for t in started if t.training]
            slow = [1.0, *(_at_least(t, now) / t.training for t in late if timed)]
            training[None] = _Ratios((1.0,), (max(slow),))
        slower = mean(training[None].ratios)
        costs = cls({}, training, slower, PLANNED)
        begun = [(t.ranks, costs.seen_before(t)) for t in seen if t.first and not t.fresh]
        before = {r: median(s for ranks, s in begun if ranks == r) for r in {r for r, _ in begun}}
        after = [(t, _end(t) - max(t.trained or 0.0, t.started or 0.0)) for t in ended]
        usual = [(t, s) for t, s in after if not t.fresh]
        if not usual:
            # Such a trial imports, and the first one on a bank measures the teacher too.
            usual = [(t, s / TEACHER) for t, s in after]
        measured = [(costs.planned_measuring(t), s) for t, s in usual]
        return cls(before, training, slower, _Ratios.between(measured) or PLANNED)

    def seen_before(self, trial: Timing) -> float:
        """Seconds from the start of a trial, whose first step is known, to that step."""
        assert trial.started is not None
        assert trial.first is not None
        step, at = trial.first
        steps = self.of_training(trial) * step / max(1, trial.steps)
        return max(0.0, at - trial.started - steps)

    def of_training(self, trial: Timing) -> float:
        """Seconds of the whole training."""
        return self.training.get(trial.ranks, self.training[None]).seconds(trial.training)

    def of_start(self, trial: Timing) -> float:
        """Seconds before the training, in a process that has run a trial."""
        return self.before.get(trial.ranks, REUSED if trial.ranks == 1 else GANG)

    def planned_measuring(self, trial: Timing) -> float:
        """Seconds of a trial's measurements, as far as training tells how fast the machine is."""
        # Where only ratios are known, the student may train on a GPU; probes never do.
        slower = self.slower if trial.timed else min(2.0, max(1.0, self.slower))
        probing = trial.probing * slower
        return max(1e-3, trial.embedding * self.slower + probing)

    def after(self, trial: Timing) -> float:
        return self.measuring.seconds(self.planned_measuring(trial))

    def whole(self, trial: Timing) -> float:
        """Seconds of a trial that has not begun."""
        return self.of_start(trial) + self.of_training(trial) + self.after(trial)

    def left(self, trial: Timing, now: float) -> float:
        """Seconds that a running trial still takes."""
        assert trial.started is not None
        pace = trial.seconds_a_step()
        if pace is None:
            pace = self.of_training(trial) / max(1, trial.steps)
        training = (trial.steps - trial.done) * pace
        begun = trial.trained
        if begun is None:
            before = self.of_start(trial)
            begun = trial.started + (max(FRESH, before) if trial.fresh else before)
        return max(0.0, begun + training + self.after(trial) - now)


def _end(trial: Timing) -> float:
    return trial.ended or 0.0


def _usual(pairs: list[tuple[Timing, float]]) -> list[tuple[float, float]]:
    """(planned, seen) seconds of training; of fresh trials where no others are known."""
    usual = [(t, seconds) for t, seconds in pairs if not t.fresh] or pairs
    return [(t.training, seconds) for t, seconds in usual]


def _training(trial: Timing, timed: bool) -> float | None:
    """Seconds of the whole training at the rate so far; None before that is known.

    timed: whether there is a plan to go by until two rows of a trial are known.
    """
    pace = trial.seconds_a_step()
    if pace is not None:
        return pace * trial.steps
    if trial.trained is None or trial.started is None or not trial.done:
        return None
    if timed and (trial.fresh or trial.done < trial.steps):
        return None
    until = trial.trained - trial.started  # one row, from which the start cannot be told apart
    until -= min(FRESH if trial.fresh else REUSED, until / 2)
    return until * trial.steps / trial.done


def _at_least(trial: Timing, now: float) -> float:
    """Seconds that the whole training takes at least, of a trial with one row or none."""
    assert trial.started is not None
    until = max(0.0, (trial.trained or trial.ended or now) - trial.started - 2 * FRESH)
    return until * trial.steps / max(1, trial.done) if trial.trained else until
