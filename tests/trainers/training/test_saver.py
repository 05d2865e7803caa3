"""When checkpoints are saved: as often as a share of the time allows, by an injected clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainers.training.checkpoint import Checkpoints, State
from trainers.training.state import Saver


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(Checkpoints):
    """Checkpoints that take `cost` seconds each, and fail while `error` is set."""

    def __init__(self, location: str, clock: Clock, cost: float) -> None:
        super().__init__(location, {})
        self.clock, self.cost, self.saved = clock, cost, []
        self.error: OSError | None = None

    def save(self, state: State) -> None:
        self.clock.now += self.cost
        if self.error:
            raise self.error
        self.saved.append(state.step)


def ran(saver: Saver, clock: Clock, seconds: float, step_seconds: float = 0.1) -> None:
    """Steps of a training that lasts `seconds`."""
    start, step = clock.now, 0
    while clock.now - start < seconds:
        clock.now += step_seconds
        step += 1
        if saver.due():
            saver.save(State(step, {}, {}))


@pytest.mark.parametrize(
    ("cost", "count", "share"),
    [(0.01, 460, 0.005), (0.2, 24, 0.005), (2.0, 8, 2 / 120), (10.0, 1, 0.02)],
)
def test_saving_takes_a_small_share_of_the_time(
    tmp_path: Path, cost: float, count: int, share: float
) -> None:
    """0.5 %, and more where checkpoints would be over two minutes apart, but at most 2 %."""
    clock = Clock()
    slow = Slow(str(tmp_path), clock, cost)
    saver = Saver(slow, clock=clock)
    saver.expect(int((cost - 0.03) * 1e8))  # as large as its cost suggests
    ran(saver, clock, 1000.0)
    assert len(slow.saved) >= count
    assert len(slow.saved) * cost <= share * clock.now + cost


def test_a_trial_of_seconds_saves_too(tmp_path: Path) -> None:
    clock = Clock()
    slow = Slow(str(tmp_path), clock, 0.03)
    saver = Saver(slow, clock=clock)
    saver.expect(12 * 700_000)  # width:1 with Adam
    ran(saver, clock, 15.0)
    assert len(slow.saved) >= 2
    assert slow.saved[0] <= 60  # the 6th second


def test_a_wrong_expectation_is_corrected_by_the_first_one(tmp_path: Path) -> None:
    clock = Clock()
    slow = Slow(str(tmp_path), clock, 5.0)
    saver = Saver(slow, clock=clock)
    saver.expect(0)
    ran(saver, clock, 240.0)
    assert len(slow.saved) == 1
    assert saver.interval == pytest.approx(250.0)


def test_given_seconds_are_kept(tmp_path: Path) -> None:
    clock = Clock()
    slow = Slow(str(tmp_path), clock, 5.0)
    ran(Saver(slow, 10.0, clock), clock, 150.0, step_seconds=1.0)
    assert len(slow.saved) == 10


def test_a_store_that_fails_for_a_while_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    slow = Slow("s3://bucket/trial", clock, 4.0)  # never asked: saving is replaced
    slow.error = OSError("s3://bucket/trial: answered 500;\ntry later")
    saver = Saver(slow, clock=clock)
    saver.expect(0)
    ran(saver, clock, 20.0)
    assert slow.saved == []
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: checkpoint of step 15 not saved: s3://bucket/trial: answered")
    slow.error = None
    ran(saver, clock, 31.0)  # and not only after the 200 s that 4 s of saving call for
    assert len(slow.saved) == 1


def test_a_disk_that_fails_ends_the_trial(tmp_path: Path) -> None:
    clock = Clock()
    slow: Any = Slow(str(tmp_path), clock, 0.1)
    slow.error = OSError("no space")
    with pytest.raises(OSError, match="no space"):
        Saver(slow, clock=clock).save(State(1, {}, {}))
