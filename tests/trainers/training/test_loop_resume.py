"""Interrupted at any step and resumed, a trial leaves the same bits as an undisturbed one."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.trainers import small_runs
from tests.trainers.small_runs import (
    CPU,
    checkpoints,
    data_of,
    left_at,
    run,
    same,
    stop_at,
    timeless,
    weights,
)
from trainers.engines.single import Single
from trainers.objectives import cosine
from trainers.training.checkpoint import ARRAYS
from trainers.training.optim import OPTIMIZERS
from trainers.training.preemption import PreemptedError
from trainers.training.state import TrainingState

STEPS = 6


@pytest.fixture(scope="module")
def data(bank):
    return {arm: data_of(bank, arm) for arm in ("noise:0.1", "crop_flip:4")}


def disturb():
    """What another process would find: generators elsewhere."""
    torch.rand(5)
    np.random.seed(3)
    random.seed(3)


def observe(step, student):
    student.eval()
    return {"sum": float(sum(w.double().sum() for w in student.state_dict().values()))}


TRIALS = [
    {"optimizer": "adam", "arm": "crop_flip", "ema": 0.5, "curve_every": "2 steps"},
    {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": "2 steps"},
    {"optimizer": "sgd", "accumulate": 2, "objective": "cosine+infonce", "channels_last": False},
    {"optimizer": "muon", "epochs": None, "duration": "6 steps", "batch_size": 50, "seed": 4},
    {"optimizer": "muon", "student": "timm:test_resnet", "weight_decay": 0.1, "ema": 0.9},
]


def test_every_optimiser_is_among_them():
    assert {change["optimizer"] for change in TRIALS} == set(OPTIMIZERS)


@pytest.mark.parametrize("change", TRIALS, ids=lambda c: " ".join(map(str, c.values())))
def test_stopped_after_every_step_it_ends_bitwise_equal(make, data, tmp_path, change):
    """One step a process, five resumes in a row, against one run: everything that is kept."""
    config = make(**({"epochs": 2} | change))
    arm = data[config.arm]
    whole = left_at(STEPS, config, arm, tmp_path / "whole", observe=observe)
    assert whole.step == STEPS
    for step in range(1, STEPS + 1):
        disturb()
        broken = left_at(1, config, arm, tmp_path / "broken", observe=observe)
        assert broken.step == step
    assert same(whole.arrays, broken.arrays)
    for name in ("curve", "observed"):
        assert timeless(whole.values[name]) == timeless(broken.values[name])
    assert whole.values["observed"] or not config.curve_every


def test_killed_between_saves_it_ends_bitwise_equal(make, data, tmp_path, monkeypatch):
    """The process is gone at the fifth step without a word; the last save was after the third."""
    config = make(epochs=3, objective="cosine+infonce", seed=4)
    whole = run(config, data["noise:0.1"], tmp_path / "whole", seconds=1e9)
    real, done = TrainingState.end_step, []

    def stepped(self, loss):
        if self.step == 4:
            raise KeyboardInterrupt
        self.saver.seconds = 0.0 if self.step == 2 else 1e9
        real(self, loss)
        done.append(self.step)

    monkeypatch.setattr(TrainingState, "end_step", stepped)
    with pytest.raises(KeyboardInterrupt):
        run(config, data["noise:0.1"], tmp_path / "broken")
    monkeypatch.undo()
    assert (done, checkpoints(config, tmp_path / "broken").steps()) == ([1, 2, 3, 4], [3])
    disturb()
    seen = []
    again = run(config, data["noise:0.1"], tmp_path / "broken", report=seen.append)
    assert [values["epoch"] for values in seen] == [2, 3]  # what was reported once is not again
    assert same(weights(whole), weights(again))
    assert timeless(whole.epochs) == timeless(again.epochs)


def test_dropout_draws_on(make, data, tmp_path):
    """A student that draws from torch's generator goes on with the next draw."""
    config = make(epochs=2)

    def objective(student_BD, teacher_BD):
        noise_B = torch.from_numpy(np.random.rand(len(student_BD))) * random.random()
        dropped_BD = torch.nn.functional.dropout(student_BD, 0.5)
        return cosine(dropped_BD + 0.1 * noise_B[:, None], teacher_BD)

    disturb()
    arm = data["noise:0.1"]
    whole = left_at(STEPS, config, arm, tmp_path / "whole", objective=objective)
    for _ in range(STEPS):
        disturb()
        broken = left_at(1, config, arm, tmp_path / "broken", objective=objective)
    assert same(whole.arrays, broken.arrays)
    other = left_at(STEPS, config, arm, tmp_path / "other")
    assert not same(whole.arrays, other.arrays)  # the draws mattered


class Heard(Single):
    """An engine whose broadcasts are written down, or, for another rank, come from the list."""

    def __init__(self, rank: int, values: list[int]) -> None:
        super().__init__(CPU)
        self.rank, self.values = rank, values

    def broadcast(self, value: int) -> int:
        if self.rank == 0:
            self.values.append(value)
            return value
        return self.values.pop(0)


def test_all_ranks_take_the_same_of_two_checkpoints_of_a_step(make, data, tmp_path, monkeypatch):
    """The later holder of a lease on an object store was killed while it saved that step again."""
    config = make(epochs=2)
    left_at(3, config, data[config.arm], tmp_path)
    whole = tmp_path / "step-00000003"
    whole.rename(tmp_path / "step-00000003.00000001")
    (tmp_path / "step-00000003.00000002").mkdir()
    (tmp_path / "step-00000003.00000002" / ARRAYS).write_bytes(b"cut")
    said: list[int] = []
    for rank in (0, 1):
        monkeypatch.setattr(small_runs, "Single", lambda device, rank=rank: Heard(rank, said))
        with pytest.raises(PreemptedError, match="state saved at step 4"):
            run(config, data[config.arm], tmp_path, stop=stop_at(1))
    assert said == []


def test_leaving_says_how_to_go_on(make, data, tmp_path):
    with pytest.raises(PreemptedError, match=r"^state saved at step 1; the same command again"):
        run(make(), data["noise:0.1"], tmp_path, stop=lambda: True)


def test_asked_at_the_very_end_it_is_only_measured_later(make, data, tmp_path):
    config = make(epochs=1)
    state = left_at(3, config, data["noise:0.1"], tmp_path)
    assert state.step == 3
    steps = []
    again = run(config, data["noise:0.1"], tmp_path, report=steps.append)
    assert steps == []
    assert again.epochs == state.values["curve"]


def test_the_curve_survives_with_its_times(make, data, tmp_path):
    config, first = make(epochs=2), []

    def report(values):
        first.append(values)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, data["noise:0.1"], tmp_path, report=report)
    assert checkpoints(config, tmp_path).latest().values["curve"] == first
