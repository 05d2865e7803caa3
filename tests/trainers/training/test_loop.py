"""The loop: durations, curves, what is observed, and losses that are not finite."""

from __future__ import annotations

import contextlib
import copy
from unittest import mock

import pytest
import torch

from tests.trainers.small_runs import checkpoints, data_of, left_at, run, same, timeless, weights
from trainers.engines.single import Single
from trainers.objectives import cosine
from trainers.training.data import Data, permutation
from trainers.training.divergence import DivergedError
from trainers.training.ema import MovingAverage
from trainers.training.state import Saver


@pytest.fixture(scope="module")
def data(bank):
    return data_of(bank)


def test_saving_checkpoints_does_not_change_training(make, data, tmp_path):
    config = make(epochs=2)
    often, never = (run(config, data, tmp_path / str(s), seconds=s) for s in (0, 1e9))
    assert same(weights(often), weights(never))
    assert timeless(often.epochs) == timeless(never.epochs)
    assert checkpoints(config, tmp_path / "0").steps() == [5, 6]
    assert checkpoints(config, tmp_path / str(1e9)).steps() == []


def test_the_first_checkpoint_is_expected_to_cost_what_its_size_suggests(make, data, tmp_path):
    sizes = []

    class Watched(Saver):
        def expect(self, size):
            sizes.append(size)

    with mock.patch("tests.trainers.small_runs.Saver", Watched):
        trained = run(make(epochs=1), data, tmp_path, seconds=None)
    weights = sum(p.numel() * 4 for p in trained.student.parameters())
    assert sizes == [3 * weights]


def test_saves_follow_the_clock(make, data, tmp_path):
    """A step takes 10 s: looked at each time, every third of them is due."""
    now = 0.0

    def objective(student_BD, teacher_BD):
        nonlocal now
        now += 10
        return cosine(student_BD, teacher_BD)

    config = make(epochs=5)
    saved = []

    def report(values):
        saved.extend(checkpoints(config, tmp_path).steps())

    run(config, data, tmp_path, seconds=30, objective=objective, clock=lambda: now, report=report)
    assert sorted(set(saved)) == [3, 6, 9, 12, 15]


def test_quick_steps_are_not_looked_at_one_by_one(make, data, tmp_path):
    """Between the ends of epochs, looks come at growing distances while they come too soon."""
    looks = []
    config = make(epochs=1, batch_size=4)

    def stop():
        looks.append(None)
        return False

    run(config, data, tmp_path, seconds=1e9, stop=stop, clock=lambda: 0.0)
    assert len(looks) == 6  # after 1, 3, 7, 15, 31 steps, and at the end of all 50


# ---- how long ----

LENGTHS = [
    ("4 steps", [(3, 1), (4, 4 / 3)]),
    ("3 steps", [(3, 1)]),
    ("2 steps", [(2, 2 / 3)]),
    ("300 samples", [(3, 1), (4, 4 / 3)]),
    ("1.7 epochs", [(3, 1), (5, 5 / 3)]),
    ("2 epochs", [(3, 1), (6, 2)]),
    ("0 epochs", []),
]


@pytest.mark.parametrize(("duration", "rows"), LENGTHS)
def test_it_may_end_inside_an_epoch(make, data, tmp_path, duration, rows):
    seen = []
    trained = run(make(epochs=None, duration=duration), data, tmp_path, report=seen.append)
    assert [(row["step"], row["epoch"]) for row in trained.epochs] == rows
    assert seen == trained.epochs
    assert all(set(row) == {"step", "epoch", "loss", "time_ms"} for row in seen)
    assert [type(row["epoch"]) for row in seen] == [type(epoch) for _, epoch in rows]


def test_the_last_part_of_an_epoch_has_its_own_mean(make, data, tmp_path):
    losses = []

    def objective(student_BD, teacher_BD):
        loss = cosine(student_BD, teacher_BD)
        losses.append(float(loss.detach()))
        return loss

    config = make(epochs=None, duration="5 steps")
    curve = run(config, data, tmp_path, objective=objective).epochs
    assert [row["loss"] for row in curve] == pytest.approx(
        [sum(losses[:3]) / 3, sum(losses[3:]) / 2], rel=1e-12
    )


def test_a_longer_trial_begins_like_a_shorter_one(make, data, tmp_path):
    short = run(make(epochs=None, duration="4 steps"), data, tmp_path / "a")
    long = left_at(4, make(epochs=3), data, tmp_path / "b")
    held = {n.removeprefix("model/"): t for n, t in long.arrays.items() if n.startswith("model/")}
    assert same(weights(short), held)


def test_training_lowers_the_loss(make, data, tmp_path):
    curve = run(make(epochs=4), data, tmp_path).epochs
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.05


def test_a_full_pass_is_a_permutation_without_the_short_batch(make, data, tmp_path, monkeypatch):
    shown = []
    real = Data.batch

    def batch(self, index_B, epoch):
        shown.append((epoch, index_B.tolist()))
        return real(self, index_B, epoch)

    monkeypatch.setattr(Data, "batch", batch)
    run(make(epochs=2), data, tmp_path)
    assert [epoch for epoch, _ in shown] == [0, 0, 0, 1, 1, 1]
    for epoch in (0, 1):
        seen = [i for at, index in shown if at == epoch for i in index]
        assert seen == permutation(0, epoch, 200)[:192].tolist()
        assert len(set(seen)) == 192


# ---- losses that are not finite ----


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_loss_that_is_not_finite_names_step_and_samples(make, data, tmp_path, value, seconds):
    calls, seen = 0, []

    def objective(student_BD, teacher_BD):
        nonlocal calls
        calls += 1
        loss = cosine(student_BD, teacher_BD)
        return loss * value if calls == 5 else loss

    config = make(epochs=4)
    batch = [data.keys[i] for i in permutation(0, 1, 200)[64:128].tolist()]
    said = (
        rf"diverged at step 5 \(epoch 2\): the loss is -?{value} on 64 samples "
        rf"\(`{batch[0]}`, `{batch[1]}`, `{batch[2]}`, \.\.\.\); try a smaller lr"
    )
    with pytest.raises(DivergedError, match=said):
        run(config, data, tmp_path, seconds, seen.append, objective)
    assert [values["epoch"] for values in seen] == [1]
    # Nothing broken is kept, whether or not anybody looked between the fifth step and the end.
    assert checkpoints(config, tmp_path).steps() == ([3, 4] if seconds == 0 else [])


def test_one_bad_micro_batch_spoils_its_step(make, data, tmp_path):
    calls = 0

    def objective(student_BD, teacher_BD):
        nonlocal calls
        calls += 1
        assert len(student_BD) == 32
        loss = cosine(student_BD, teacher_BD)
        return loss * float("nan") if calls == 7 else loss

    with pytest.raises(DivergedError, match=r"step 4 \(epoch 2\): the loss is nan on 64 samples"):
        run(make(epochs=2, accumulate=2), data, tmp_path, objective=objective)


def test_every_part_of_a_step_is_watched(make, data, tmp_path, monkeypatch):
    """On a GPU reading the losses waits for queued work, which may wait for other ranks."""
    watched = []

    def record(self, name):
        watched.append(name)
        return contextlib.nullcontext()

    monkeypatch.setattr(Single, "watched", record)
    run(make(), data, tmp_path)
    assert set(watched) == {"forward", "backward", "step", "the loss", "the weights"}


# ---- what is observed ----


def watching(seen):
    def observe(step, student):
        student.eval()
        torch.rand(3)  # draws of its own disturb nothing
        seen.append(step)
        return {"first": float(next(student.parameters()).detach().flatten()[0])}

    return observe


@pytest.mark.parametrize(
    ("every", "steps"),
    [("2 steps", [0, 2, 4, 5]), ("1 epochs", [0, 3, 5]), ("100 samples", [0, 1, 2, 3, 4, 5])],
)
def test_it_is_observed_before_at_multiples_and_after(make, data, tmp_path, every, steps):
    seen = []
    config = make(epochs=None, duration="5 steps", curve_every=every)
    trained = run(config, data, tmp_path / "a", observe=watching(seen))
    assert seen == steps
    assert [(r["step"], r["epoch"]) for r in trained.observations] == [(s, s / 3) for s in steps]
    assert len({row["first"] for row in trained.observations}) == len(steps)
    plain = run(config, data, tmp_path / "b")
    assert plain.observations == []
    assert same(weights(plain), weights(trained))


def test_without_curve_every_nothing_is_observed(make, data, tmp_path):
    seen = []
    assert run(make(), data, tmp_path, observe=watching(seen)).observations == seen == []


def test_the_untrained_student_is_observed_once(make, data, tmp_path):
    seen = []
    run(make(epochs=0, curve_every="1 epochs"), data, tmp_path, observe=watching(seen))
    assert seen == [0]


def test_observed_less_than_a_step_is_refused(make, data, tmp_path):
    config = make(curve_every="63 samples")
    with pytest.raises(ValueError, match="curve_every"):
        run(config, data, tmp_path, observe=watching([]))


# ---- averaged weights ----


def test_the_average_is_that_of_its_formula(make, data, tmp_path):
    """Recomputed in float64 from the weights after each step, BatchNorm's statistics included."""
    states = []

    def observe(step, student):
        states.append(copy.deepcopy(student.state_dict()))
        return {}

    plain = make(curve_every="1 steps", epochs=2)
    run(plain, data, tmp_path / "plain", observe=observe)
    trained = run(make(epochs=2, ema=0.15), data, tmp_path / "ema")
    expected = {n: t.double() for n, t in states[0].items()}
    for step, state in enumerate(states[1:]):
        decay = min(0.15, (1 + step) / (10 + step))
        for name, tensor in state.items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
            if not tensor.is_floating_point():
                expected[name] = tensor.double()
    found = weights(trained)
    assert set(found) == set(expected)
    for name, tensor in found.items():
        assert torch.allclose(tensor.double(), expected[name], rtol=1e-5, atol=1e-6), name
    assert not torch.equal(found["trunk.0.weight"], states[-1]["trunk.0.weight"])
    assert found["trunk.1.num_batches_tracked"] == 6


def test_without_decay_the_model_itself_is_measured():
    model = torch.nn.Linear(2, 2)
    average = MovingAverage(model, 0.0)
    average.update(0)
    assert average.student is model


def test_halves_are_averaged_in_float32():
    model = torch.nn.Linear(2, 1, bias=False).bfloat16()
    average = MovingAverage(model, 0.999)
    assert average.student.weight.dtype == torch.float32
    assert not average.student.weight.requires_grad
    with torch.no_grad():
        model.weight += 1
    average.update(10_000)
    assert average.student.weight.dtype == torch.float32
