"""The time that is left: right within a quarter after a tenth of the run, whatever runs."""

from __future__ import annotations

import heapq
import random

import pytest

from sweep.planning.remaining import Timing, remaining_seconds


def played(
    works: list[float], slots: int, import_seconds: float, pace: float, rows: int, seed: int
) -> tuple[float, dict[float, float | None]]:
    """A sweep played on a made-up clock: (seconds it took, {share of them: what was said})."""
    draw = random.Random(seed)
    trials = [Timing(work, steps=100) for work in works]
    happenings: list[tuple[float, int, object]] = []
    free, order = [(0.0, True)] * slots, sorted(range(len(works)), key=lambda i: -works[i])
    heapq.heapify(free)
    end = 0.0
    for i in order:
        at, fresh = heapq.heappop(free)
        trial, noise = trials[i], draw.uniform(0.9, 1.1)
        happenings.append((at, i, ("start", fresh)))
        at += (import_seconds if fresh else 0.4) + 0.2
        for k in range(1, rows + 1):
            at += trial.work * pace * noise / rows
            happenings.append((at, i, ("step", 100 * k // rows)))
        at += (3.0 if fresh else 1.0) + 0.02 * trial.work * pace
        happenings.append((at, i, ("end", 0)))
        heapq.heappush(free, (at, False))
        end = max(end, at)
    said: dict[float, float | None] = {}
    pending, shares = sorted(happenings, key=lambda h: h[0]), [0.1, 0.3, 0.5, 0.7, 0.9]
    for share in shares:
        now = share * end
        while pending and pending[0][0] <= now:
            at, i, (kind, value) = pending.pop(0)  # type: ignore[misc]
            if kind == "start":
                trials[i].restart(at)
                trials[i].fresh = value
            elif kind == "step":
                trials[i].step(value, at)
            else:
                trials[i].ended = at
        said[share] = remaining_seconds(trials, now)
    return end, said


@pytest.mark.parametrize(
    ("works", "slots", "import_seconds"),
    [
        ([1.0] * 18, 2, 3.0),
        ([1.0, 2.0, 4.0, 8.0] * 12, 4, 12.0),
        ([1.0] * 20 + [16.0] * 2, 2, 6.0),
        ([1.0] * 400, 16, 12.0),
    ],
)
@pytest.mark.parametrize("rows", [2, 5])
def test_it_is_right_within_a_quarter(
    works: list[float], slots: int, import_seconds: float, rows: int
) -> None:
    for seed in range(3):
        end, said = played(works, slots, import_seconds, pace=10.0, rows=rows, seed=seed)
        for share, seconds in said.items():
            if seconds is None:  # no trial has two rows yet
                assert share == 0.1 or (rows == 2 and len(works) == 22)
                continue
            left = (1 - share) * end
            assert abs(seconds - left) <= 0.25 * left + 4.0, (share, left, seconds)


# A run of grid `full` on digits on two cores: one epoch of 5 steps a trial; students of 8, 2 and
# 0.5 million parameters. (work, seconds at which a trial began, reported its epoch, and ended.)
# Measuring takes most of the time, and the first two trials import libraries.
RECORDED = [
    (1.0, 0.0, 42.575, 95.271),
    (1.0, 0.104, 40.272, 94.993),
    (0.09, 95.442, 97.438, 104.13),
    (0.09, 95.789, 98.16, 105.067),
    (1.0, 104.797, 114.657, 143.029),
    (0.09, 105.406, 106.698, 113.778),
    (0.09, 114.114, 115.663, 121.948),
    (1.0, 122.708, 132.033, 163.215),
    (0.0048, 143.481, 143.724, 147.669),
    (0.0048, 147.984, 148.251, 153.06),
    (0.0048, 153.458, 153.77, 158.838),
    (0.0048, 159.231, 159.554, 164.462),
]


def at(now: float) -> list[Timing]:
    """What was known of the recorded trials at that time."""
    first = min(ended for *_, ended in RECORDED)
    found: list[Timing] = []
    for work, started, trained, ended in RECORDED:
        trial = Timing(work, steps=5)
        if started <= now:
            trial.restart(started)
            trial.fresh = started < first
        if trained <= now:
            trial.step(5, trained)
        if ended <= now:
            trial.ended = ended
        found.append(trial)
    return found


def test_of_a_recorded_run_of_three_capacities_it_is_right_or_nothing_is_said() -> None:
    """It said 295 s where 66 were left, when only the largest students had been measured."""
    end = max(ended for *_, ended in RECORDED)
    said = {now: remaining_seconds(at(now), now) for now in range(16, 164)}
    for now, seconds in said.items():
        if seconds is not None:
            assert abs(seconds - (end - now)) <= 0.25 * (end - now) + 4.0, (now, seconds)
    assert all(said[now] is not None for now in range(148, 164))


def test_measuring_other_works_is_taken_from_those_that_were_measured() -> None:
    """Seconds after training are 3 for every trial here, and 10 for each unit of work."""
    trials: list[Timing] = []
    for work in (1.0, 3.0):
        trials.append(trained(Timing(work, 10), 0.0, (5, 5.0 * work), (10, 10.0 * work)))
        trials[-1].ended = 10.0 * work + 3.0 + 10.0 * work
    (waiting,) = trials[2:] = [Timing(2.0, 10)]
    assert waiting.waiting
    assert remaining_seconds(trials, 63.0) == pytest.approx(20.0 + 3.0 + 20.0)


def test_nothing_is_said_before_anything_was_seen_and_zero_at_the_end() -> None:
    trials = [Timing(1.0, 10), Timing(1.0, 10)]
    assert remaining_seconds(trials, 0.0) is None
    trials[0].restart(1.0)
    assert remaining_seconds(trials, 2.0) is None
    for trial in trials:
        trial.started, trial.ended = 1.0, 3.0
    assert remaining_seconds(trials, 3.0) == 0.0


def test_a_failed_trial_counts_for_no_time_and_is_not_waited_for() -> None:
    done, failed, waiting = Timing(1.0, 10), Timing(1.0, 10), Timing(1.0, 10)
    done.restart(0.0)
    done.step(5, 5.0)
    done.step(10, 10.0)
    done.ended = 12.0
    failed.restart(12.0)
    failed.ended, failed.failed = 12.1, True
    assert remaining_seconds([done, failed, waiting], 12.1) == pytest.approx(12.0, abs=1.0)


def trained(trial: Timing, start: float, *rows: tuple[int, float]) -> Timing:
    trial.restart(start)
    for step, at in rows:
        trial.step(step, at)
    return trial


def test_measuring_is_a_tenth_of_training_until_a_trial_has_ended() -> None:
    running = trained(Timing(1.0, 10), 0.0, (2, 2.0), (6, 6.0))
    assert remaining_seconds([running], 6.0) == pytest.approx(4.0 + 1.0)


def test_an_attempt_that_was_begun_again_has_a_rate_of_its_own() -> None:
    running = trained(Timing(1.0, 100), 0.0, (10, 1.0), (20, 2.0))
    trained(running, 1000.0, (30, 1001.0), (40, 1003.0))
    assert running.seconds_a_step() == pytest.approx(0.2)


def test_the_longest_of_the_waiting_trials_comes_first() -> None:
    ended = trained(Timing(1.0, 10), 0.0, (5, 5.0), (10, 10.0))
    ended.ended = 10.0
    running = [trained(Timing(1.0, 10), 10.0, (1, 11.0), (10, 20.0)) for _ in range(2)]
    waiting = [Timing(work, 10) for work in (1.0, 1.0, 2.0)]
    assert remaining_seconds([ended, *running, *waiting], 20.0) == pytest.approx(20.0)
