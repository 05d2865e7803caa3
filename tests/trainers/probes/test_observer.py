"""Curves: what a look gives, that it disturbs nothing, and that a trial keeps its rows."""

import numpy as np
import pytest
import torch
from torch import nn

from shards.measures.infonce import uniformity
from shards.measures.spectrum import effective_rank
from tests.golden.independent import keyed
from trainers.inputs import resolve
from trainers.probes.features import unit
from trainers.probes.observer import Observer, ridge_accuracy, temporarily_in_eval
from trainers.results.folder import trial_folder
from trainers.runner import run_trial
from trainers.students import build_student
from trainers.training.wrappers import Classified

CPU = torch.device("cpu")
NAMES = {
    "rank/effective", "rank/participation", "cosine_to_teacher", "alignment", "uniformity",
    "ridge/accuracy", *(f"spectrum/{2**i}" for i in range(10)),
}  # fmt: skip
CURVE = {"epochs": 2, "curve_every": "2 steps", "curve_samples": 40, "probes": ("spectrum",)}


@pytest.fixture(scope="module")
def watching(bank, make):
    """(observer of 40 images, what it reads)."""
    splits = resolve(make(**CURVE), bank).load(CPU)
    return Observer(splits, CPU), splits


def test_a_row_holds_the_measures_of_the_chosen_images(watching):
    observer, splits = watching
    student = build_student("width:1", 512, 32, 0)
    row = observer(7, student)
    assert set(row) == NAMES
    test = observer._measured
    assert len(test.keys) == 40
    keys = splits.test["clean"].keys
    assert list(test.keys) == [keys[row] for row in keyed(keys)][:40]
    images_BCHW = torch.cat(list(observer._data[1].view(0, 100)))
    with torch.no_grad():
        x_ND = unit(student.eval()(images_BCHW).numpy())
    teacher_ND = unit(test.embedding_NVD[:, 0])
    assert row["rank/effective"] == pytest.approx(effective_rank(x_ND))
    assert row["uniformity"] == pytest.approx(uniformity(x_ND))
    variances = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False) ** 2
    assert row["spectrum/4"] == pytest.approx(variances[:4].sum() / variances.sum(), abs=1e-5)
    assert row["spectrum/512"] == pytest.approx(1)
    apart = np.square(x_ND - teacher_ND).sum(axis=1).mean()
    assert row["alignment"] == pytest.approx(apart, abs=1e-5)
    assert row["cosine_to_teacher"] == pytest.approx((x_ND * teacher_ND).sum(axis=1).mean())
    reference = observer.teacher()
    assert reference["cosine_to_teacher"] == pytest.approx(1)
    assert reference["rank/effective"] == pytest.approx(effective_rank(teacher_ND))


def test_a_student_with_axes_of_its_own_is_not_compared_by_cosines(bank, make):
    config = make(**CURVE, objective="rkd")
    row = Observer(resolve(config, bank).load(CPU), CPU)(7, build_student("width:1", 512, 32, 0))
    assert set(row) == NAMES - {"cosine_to_teacher", "alignment"}


def test_the_images_are_the_same_for_every_seed(watching, bank, make):
    observer, _ = watching
    other = Observer(resolve(make(seed=9, **CURVE), bank).load(CPU), CPU)
    assert other._train.keys == observer._train.keys
    longer = resolve(make(**CURVE | {"curve_samples": 10_000}), bank)
    more = Observer(longer.load(CPU), CPU)
    assert (len(more._train.keys), len(more._measured.keys)) == (200, 60)


class Dropping(nn.Module):
    """Draws at every forward pass in training, and has statistics that move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x_BD):
        return self.drop(self.norm(x_BD))


def test_modes_buffers_and_the_generator_are_restored():
    model = Dropping().train()
    model.drop.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    state = torch.get_rng_state()
    with temporarily_in_eval(model):
        assert not model.norm.training
        model.train()(torch.randn(8, 4))  # not what an observer would do
        torch.rand(3)
    assert model.norm.training
    assert not model.drop.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    with pytest.raises(RuntimeError), temporarily_in_eval(model):
        raise RuntimeError
    assert model.norm.training


def test_training_steps_are_bitwise_the_same_with_looks_between(watching):
    observer, _ = watching

    def trained(look: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        model = Classified(build_student("width:1", 512, 32, 0), 512, 10, 0).train()
        model.student.trunk.append(nn.Dropout(0.3))
        optimizer = torch.optim.Adam(model.parameters())
        for step in range(4):
            if look:
                observer(step, model)
            model(torch.rand(8, 3, 32, 32)).square().mean().backward()
            optimizer.step()
            if look:
                observer(step, model)  # gradients are kept too
            optimizer.zero_grad()
        return model.state_dict()

    one, other = trained(False), trained(True)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_trial_keeps_its_rows_and_is_the_same_without_them(bank, make, tmp_path):
    config = make(**CURVE)
    result = run_trial(config, bank, str(tmp_path))
    assert [row.step for row in result.observations.rows] == [0, 2, 4, 6]
    assert [row.epoch for row in result.observations.rows] == pytest.approx([0, 2 / 3, 4 / 3, 2])
    assert all(set(row.values) == NAMES for row in result.observations.rows)
    first, *_, last = (row.values["cosine_to_teacher"] for row in result.observations.rows)
    assert last > first
    assert {n for n in result.teacher if "/curve/" in n} == {f"teacher/curve/{n}" for n in NAMES}
    plain = make(epochs=2, probes=("spectrum",))
    assert plain.identity != config.identity
    without = run_trial(plain, bank, str(tmp_path))
    assert without.observations.rows == []
    assert without.metrics == result.metrics
    weights = [
        tmp_path / trial_folder("", c)[1:] / "student/student.safetensors" for c in (config, plain)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_interrupted_it_goes_on_with_the_rows_it_had(bank, make, tmp_path):
    config = make(**CURVE)

    def stop(values):
        raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, str(tmp_path / "cut"), stop, save_seconds=0)
    again = run_trial(config, bank, str(tmp_path / "cut"), save_seconds=0)
    whole = run_trial(config, bank, str(tmp_path / "whole"))
    assert again.observations.rows == whole.observations.rows


# ---- ridge ----


def test_ridge_tells_apart_what_can_be_told_apart():
    rng = np.random.default_rng(0)
    labels, more = rng.integers(0, 3, 200), rng.integers(0, 3, 100)
    centres = 9 * np.eye(3, 8)
    x_ND, y_ND = (unit(centres[y] + rng.normal(size=(len(y), 8)) + 2) for y in (labels, more))
    assert ridge_accuracy(x_ND, labels, y_ND, more) == 1
    assert ridge_accuracy(x_ND, labels + 40, y_ND, more + 40) == 1  # names of classes are free
    turn_DD = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    assert ridge_accuracy(x_ND @ turn_DD, labels, y_ND @ turn_DD, more) == 1
    assert ridge_accuracy(x_ND, rng.permutation(labels), y_ND, more) < 0.6


def test_ridge_is_scikit_learns():
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(1)
    labels, more = rng.integers(0, 4, 80), rng.integers(0, 4, 300)
    x_ND, y_ND = (
        (rng.normal(size=(len(y), 12)) + np.eye(4, 12)[y]).astype(np.float32)
        for y in (labels, more)
    )
    centred_ND = x_ND - x_ND.mean(axis=0, dtype=np.float64)
    model = Ridge(alpha=(centred_ND**2).sum() / 12).fit(x_ND.astype(float), np.eye(4)[labels])
    expected = (model.predict(y_ND.astype(float)).argmax(axis=1) == more).mean()
    assert ridge_accuracy(x_ND, labels, y_ND, more) == pytest.approx(expected)
    assert 0.3 < expected < 1


def test_ridge_of_what_never_varies_gives_a_value():
    same_ND = np.ones((6, 3), dtype=np.float32)
    assert 0 <= ridge_accuracy(same_ND, np.arange(6) % 2, same_ND, np.arange(6) % 2) <= 1
