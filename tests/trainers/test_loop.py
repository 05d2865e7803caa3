"""The loop: an interruption changes no bit, saving changes nothing, NaN ends the trial."""

import pytest
import torch

from shards.arms import make_arm
from shards.reader import load_manifest
from shards.splits import load_splits
from trainers.checkpoint import Checkpoints, capture
from trainers.data import Data, permutation
from trainers.engines.single import Single
from trainers.loop import DivergedError, Saver, train
from trainers.objectives import OBJECTIVES
from trainers.students import build_student

CPU = torch.device("cpu")
DIM = 512  # of the embedded teacher


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def data(bank):
    manifest = load_manifest(bank)
    split = load_splits(bank, manifest, "train", ("noise:0.1",))["noise:0.1"]
    preprocess = manifest.plan.teachers[0].preprocess.native(manifest.plan.dataset.image_size)
    return Data(split, make_arm("noise:0.1"), preprocess, CPU)


def run(config, data, place, seconds=0.0, report=lambda values: None, objective=None, clock=None):
    """The trained state without the generator, and the curve without its timestamps."""
    torch.set_num_threads(1)
    model = build_student(config.student, DIM, 8, config.seed)
    saver = Saver(Checkpoints(str(place), config.identity), seconds)
    if clock:
        saver = Saver(Checkpoints(str(place), config.identity), seconds, clock)
    chosen = objective or OBJECTIVES[config.objective]
    curve = train(config, model, chosen, data, Single(CPU), saver, report)
    state = capture(model, [])
    del state["rng/torch"]
    return state, [{k: v for k, v in row.items() if k != "time_ms"} for row in curve]


def stop_after(epoch):
    def report(values):
        if values["epoch"] == epoch:
            raise Interrupted

    return report


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_interrupted_after_each_epoch_it_ends_bitwise_equal(make, data, tmp_path, objective):
    config = make(epochs=3, objective=objective, seed=4)
    weights, curve = run(config, data, tmp_path / "whole")
    for epoch in (1, 2):
        with pytest.raises(Interrupted):
            run(config, data, tmp_path / "broken", report=stop_after(epoch))
        torch.rand(5)
    seen = []
    again, its_curve = run(config, data, tmp_path / "broken", report=seen.append)
    assert [values["epoch"] for values in seen] == [3]  # nothing is done twice
    assert same(weights, again)
    assert curve == its_curve
    assert [row["step"] for row in curve] == [3, 6, 9]
    assert len({row["loss"] for row in curve}) == 3


def test_the_curve_survives_with_its_times(make, data, tmp_path):
    config, first = make(epochs=2), []

    def report(values):
        first.append(values)
        raise Interrupted

    with pytest.raises(Interrupted):
        run(config, data, tmp_path, report=report)
    saved = Checkpoints(str(tmp_path), config.identity).latest()
    assert saved.values["curve"] == first
    assert set(first[0]) == {"step", "epoch", "loss", "time_ms"}


def test_saving_changes_nothing(make, data, tmp_path):
    config = make(epochs=2)
    often, curve = run(config, data, tmp_path / "often", seconds=0)
    never, its_curve = run(config, data, tmp_path / "never", seconds=1e9)
    assert same(often, never)
    assert curve == its_curve
    assert Checkpoints(str(tmp_path / "often"), config.identity).steps() == [3]
    assert Checkpoints(str(tmp_path / "never"), config.identity).steps() == []


def test_saves_follow_the_clock(make, data, tmp_path):
    now = 0.0

    def report(values):
        nonlocal now
        now += 10

    config = make(epochs=5)
    run(config, data, tmp_path, seconds=20, report=report, clock=lambda: now)
    # Looked at at 0, 10, 20, 30 s, before each report: the third epoch's end is the first due.
    assert Checkpoints(str(tmp_path), config.identity).steps() == [9]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_the_step(make, data, tmp_path, value):
    calls, seen = 0, []

    def objective(student_BD, teacher_BD, knobs):
        nonlocal calls
        calls += 1
        loss = OBJECTIVES["cosine"](student_BD, teacher_BD, knobs)
        return loss * value if calls == 5 else loss

    config = make(epochs=4)
    said = rf"diverged at step 5 \(epoch 2\): the loss is -?{value}"
    with pytest.raises(DivergedError, match=said):
        run(config, data, tmp_path, objective=objective, report=seen.append)
    assert [values["epoch"] for values in seen] == [1]
    assert Checkpoints(str(tmp_path), config.identity).steps() == [3]  # nothing broken is kept


def test_training_lowers_the_loss(make, data, tmp_path):
    _, curve = run(make(epochs=4), data, tmp_path)
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
        assert len(set(seen)) == 192
        assert seen == permutation(0, epoch, 200)[:192].tolist()
