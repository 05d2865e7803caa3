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
