"""The time that is left: right within a quarter after a tenth of the run, whatever runs."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable

import pytest

from sweep.planning.remaining import Timing, remaining_seconds

Happening = tuple[float, int, str, int]  # seconds, trial, start, step or end, and how many steps
GANGS = 1.15  # how much longer than planned gangs take, besides how slow the machine is
SHARES = [0.1, 0.15, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95]


def said(
    trials: list[Timing], happenings: Iterable[Happening], end: float, slots: int | None
) -> dict[float, float | None]:
    """{share of the run: what was said of the time left, with what was known then}."""
    found: dict[float, float | None] = {}
    pending, ended = sorted(happenings), False
    for share in SHARES:
        while pending and pending[0][0] <= share * end:
            at, i, kind, value = pending.pop(0)
            if kind == "start":
                trials[i].restart(at)
                trials[i].fresh = not ended
            elif kind == "step":
                trials[i].step(value, at)
            else:
                trials[i].ended, ended = at, True
        found[share] = remaining_seconds(trials, share * end, slots)
    return found


def played(
    trials: list[Timing], slots: int, slower: float, imports: float, rows: int, seed: int
) -> tuple[list[Happening], float]:
    """A sweep played on a made-up clock, and its seconds.

    slower: how much longer everything takes than was planned; gangs take GANGS times that.
    imports: seconds of a fresh trial.
    """
    draw = random.Random(seed)
    happenings: list[Happening] = []
    order = sorted(range(len(trials)), key=lambda i: -trials[i].training)
    now, end, fresh, free, running = 0.0, 0.0, slots, slots, list[tuple[float, int]]()
    while order or running:
        while fits := [i for i in order if trials[i].ranks <= free]:
            i, trial = fits[0], trials[fits[0]]
            order.remove(i)
            free -= trial.ranks
            noise = slower * draw.uniform(0.9, 1.1)
            pace = trial.training * noise * (GANGS if trial.ranks > 1 else 1.0) / rows
            happenings.append((now, i, "start", 0))
            is_fresh, fresh = fresh > 0, fresh - trial.ranks
            at = now + (imports if is_fresh else 0.6 if trial.ranks == 1 else 3.0)
            for k in range(1, rows + 1):
                at += pace
                happenings.append((at, i, "step", 100 * k // rows))
            at += (trial.embedding + trial.probing) * noise * (1.5 if is_fresh else 1.0)
            happenings.append((at, i, "end", 0))
            heapq.heappush(running, (at + 0.3, trial.ranks))
            end = max(end, at)
        now, ranks = heapq.heappop(running)
        free += ranks
    return happenings, end


@pytest.mark.parametrize(
    ("training", "slots", "imports"),
    [
        ([10.0] * 18, 2, 6.0),
        ([10.0, 20.0, 40.0, 80.0] * 12, 4, 12.0),
        ([3.0] * 20 + [48.0] * 4, 2, 6.0),
        ([10.0] * 160, 16, 12.0),
        ([1.0, 1.5, 2.0] * 20, 2, 6.0),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 8])
@pytest.mark.parametrize("slower", [0.8, 1.0, 2.0])
@pytest.mark.parametrize("timed", [True, False])
def test_it_is_right_within_a_quarter(
    training: list[float], slots: int, imports: float, rows: int, slower: float, timed: bool
) -> None:
    for seed in range(2):
        trials = [Timing(s, 100, 0.3 * s, 4.0, timed=timed) for s in training]
        happenings, end = played(trials, slots, slower, imports, rows, seed)
        second_row = sorted(h[0] for h in happenings if h[1] == happenings[0][1])[2]
        # One row does not tell imports and training apart: a process's second trial does.
        ends = sorted(at for at, _, kind, _ in happenings if kind == "end")
        seen_at = second_row if rows > 1 else ends[slots]
        for share, seconds in said(trials, happenings, end, slots if timed else None).items():
            left = (1 - share) * end
            if share * end < seen_at and (not timed or slower > 1):
                continue  # nothing is known of the machine, or it is slower than when it was timed
            assert seconds is not None
            assert abs(seconds - left) <= 0.25 * left + 4.0, (share, left, seconds)


@pytest.mark.parametrize("slots", [2, 4])
@pytest.mark.parametrize("slower", [1.0, 1.5])
@pytest.mark.parametrize("first", [1, 2])
def test_gangs_take_the_room_of_all_of_their_ranks(slots: int, slower: float, first: int) -> None:
    for seed in range(4):
        long = [Timing(30.0, 100, 2.0, 3.0, timed=True, ranks=first) for _ in range(12)]
        short = [Timing(20.0, 100, 2.0, 3.0, timed=True, ranks=3 - first) for _ in range(12)]
        happenings, end = played([*long, *short], slots, slower, 6.0, 8, seed)
        for share, seconds in said([*long, *short], happenings, end, slots).items():
            left = (1 - share) * end
            assert seconds is not None
            assert abs(seconds - left) <= 0.25 * left + 4.0, (share, left, seconds)


def test_gangs_of_which_none_has_run_count_as_others_do_and_then_by_themselves() -> None:
    alone = trained(Timing(10.0, 10), 0.0, (5, 10.0), (10, 20.0))
    alone.ended = 20.0
    waiting = [Timing(10.0, 10, ranks=2), Timing(10.0, 10, ranks=2)]
    before = remaining_seconds([alone, *waiting], 20.0, 2)
    assert before == pytest.approx(2 * 20.0, abs=10.0)
    gang = trained(waiting[0], 20.0, (5, 50.0), (10, 80.0))
    gang.ended = 80.0
    assert remaining_seconds([alone, *waiting], 80.0, 2) == pytest.approx(60.0, abs=10.0)
    assert remaining_seconds([alone, gang, Timing(10.0, 10)], 80.0, 2) == pytest.approx(20, abs=5)


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
