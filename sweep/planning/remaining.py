"""How long a sweep still takes: what is left, dealt out to as many trials at a time as run now.

Dividing what is left by the rate so far counts the start of the sweep into the rate, and takes the
last trials to share a machine that they leave idle. So the seconds of a trial are estimated from
those that have run, and the rest of the schedule is played through.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import linear_regression, mean, median

REUSED = 0.5  # seconds before training in a process that has run a trial, until one was seen
MEASURING = 0.1  # seconds of measuring for each of training, until one was seen
APART = 1.6  # the largest ratio of two estimates of which the mean is right within a quarter
SEEN = 200  # newest trials of which seconds are taken; the machine may have become slower


@dataclass
class Timing:
    """One trial as far as it is known.

    Attributes:
        work: relative cost of its training; trials with twice the work train twice as long.
        steps: optimiser steps in all.
        done: steps so far.
        started, trained, ended: seconds on one clock at which it began, made its newest known
            step, and ended; None for what has not happened.
        first: (step, seconds) of the first known step of this attempt. The rate is counted from
            there, since what comes before is reading data and, in a process's first trial, imports.
        failed: whether it ended without a result.
        fresh: whether it is the first of its process, which imports libraries and fills caches.
    """

    work: float
    steps: int
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


@dataclass(frozen=True)
class _Line:
    """Seconds by a trial's work: the median of those with equal work, else on a line through these.

    medians: {work: seconds}, at least one. fixed, slope: of the line, none below 0.
    """

    medians: dict[float, float]
    fixed: float
    slope: float

    @classmethod
    def through(cls, seen: Iterable[tuple[float, float]], share: float) -> _Line | None:
        """Of (work, seconds). share: of one work alone, how much of it would be the same for all.

        None where nothing was seen.
        """
        by_work: dict[float, list[float]] = {}
        for work, seconds in seen:
            by_work.setdefault(work, []).append(seconds)
        if not by_work:
            return None
        medians = {work: median(seconds) for work, seconds in by_work.items()}
        works, seconds = list(medians), list(medians.values())
        if len(medians) == 1 or not any(works):
            fixed = share * mean(seconds)
            return cls(medians, fixed, (mean(seconds) - fixed) / max(*works, 1e-9))
        slope, fixed = linear_regression(works, seconds)
        if slope < 0:
            return cls(medians, mean(seconds), 0.0)
        if fixed < 0:
            total = sum(work * work for work in works)
            slope = sum(w * s for w, s in zip(works, seconds, strict=True)) / total
        return cls(medians, max(0.0, fixed), slope)

    def of(self, work: float) -> float:
        return self.medians.get(work, self.fixed + self.slope * work)


@dataclass(frozen=True)
class _Costs:
    """Seconds of a trial before its training, of its training, and after it.

    after: None until a trial has ended.
    """

    before: float
    training: _Line
    after: _Line | None

    def after_training(self, trial: Timing) -> float:
        if self.after is None:
            return MEASURING * self.training.of(trial.work)
        return self.after.of(trial.work)

    def of(self, trial: Timing) -> float:
        return self.before + self.training.of(trial.work) + self.after_training(trial)


def remaining_seconds(trials: Sequence[Timing], now: float) -> float | None:
    """Seconds until the last of the trials ends, with as many at a time as run now.

    None before enough has been seen. As long as no trials of other works were measured it is not
    known whether measuring those takes as long, or in proportion to their work: then the mean of
    the two, and None where they are too far apart.
    """
    waiting = [trial for trial in trials if trial.waiting]
    running = [trial for trial in trials if trial.running]
    if not waiting and not running:
        return 0.0
    found: list[float] = []
    for share in (0.0, 1.0):
        costs = _costs(trials, share)
        if costs is None:
            return None
        found.append(_end(waiting, running, costs, now))
    least, most = sorted(found)
    return None if most > APART * least else (least + most) / 2


def _end(waiting: list[Timing], running: list[Timing], costs: _Costs, now: float) -> float:
    free = [_left(trial, costs, now) for trial in running] or [0.0]
    heapq.heapify(free)
    end = max(free)
    for trial in sorted(waiting, key=lambda trial: trial.work, reverse=True):
        until = heapq.heappop(free) + costs.of(trial)
        heapq.heappush(free, until)
        end = max(end, until)
    return end


def _left(trial: Timing, costs: _Costs, now: float) -> float:
    """Seconds that a running trial still takes."""
    assert trial.started is not None
    pace = trial.seconds_a_step()
    if pace is None:
        pace = costs.training.of(trial.work) / max(1, trial.steps)
    training = (trial.steps - trial.done) * pace + costs.after_training(trial)
    if trial.trained is None:
        return max(0.0, trial.started + costs.before + training - now)
    return max(0.0, trial.trained + training - now)


def _costs(trials: Iterable[Timing], share: float) -> _Costs | None:
    """Medians over the newest trials that have run to their end, and those that run.

    share: see `_Line.through`, of the time after training. Of trials that are fresh only the rate
    of training is taken, where others are known; with share 0 the rest too, for works of which no
    others are known, since what is known of lighter ones may not hold for them.
    """
    timed = [t for t in trials if t.started is not None and not t.failed]
    ended = sorted((t for t in timed if t.ended is not None), key=lambda t: t.ended or 0.0)[-SEEN:]
    seen = [*ended, *(t for t in timed if t.ended is None and t.trained is not None)]
    if not seen:
        return None
    paces = [(t, pace) for t in seen if (pace := t.seconds_a_step()) is not None]
    training = _Line.through(((t.work, pace * t.steps) for t, pace in paces), share=0.0)
    if training is not None:
        before = [_before(t, training) for t in seen if t.first is not None and not t.fresh]
    else:  # one row a trial: what comes before it cannot be separated from training
        usual = [(t.work, _until_row(t)) for t in seen if not t.fresh]
        training, before = _Line.through(usual, share=0.0), [0.0]
        if training is None:
            return None
    known = {t.work for t in ended if not t.fresh}
    usual = [t for t in ended if not t.fresh or (t.work not in known and not share)]
    usual = usual or ended
    after = [(t.work, (t.ended or 0.0) - max(t.trained or 0.0, t.started or 0.0)) for t in usual]
    return _Costs(median(before or [REUSED]), training, _Line.through(after, share))


def _until_row(trial: Timing) -> float:
    """Seconds that training took altogether, by the newest row; 0 without one."""
    if trial.trained is None or trial.started is None or not trial.done:
        return 0.0
    return (trial.trained - trial.started) * trial.steps / trial.done


def _before(trial: Timing, training: _Line) -> float:
    """Seconds from the start of a trial to its first step."""
    assert trial.started is not None
    assert trial.first is not None
    step, at = trial.first
    return max(0.0, at - trial.started - training.of(trial.work) * step / max(1, trial.steps))
