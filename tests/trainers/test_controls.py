"""Controls as ordinary trials: untrained, supervised, the teacher in K dimensions, subsets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shards.bank.order import keyed_order
from shards.bank.reader import load_manifest
from trainers.canonical import make_config
from trainers.config.schema import TrialConfig
from trainers.inputs import resolve
from trainers.probes.feature_banks import projected_features
from trainers.results.folder import trial_folder
from trainers.runner import run_trial
from trainers.students import build_student, describe
from trainers.students.files import load_student
from trainers.training.wrappers import Classified, TwoViews, unwrap_student, wrap_student

CPU = torch.device("cpu")
QUICK = {"probes": ("spectrum", "linear")}
SIZED = {"classes": 5, "batch_size": 32}  # 20 train images a class


def stored(root, config):
    return load_student(Path(trial_folder(str(root), config)) / "student")


# ---- trials of every kind, end to end ----


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"objective": "theia", "target": "standardised"}, marks=pytest.mark.thorough),
        {"objective": "mse", "target": "phi_s"},
        pytest.param({"target": "whitened"}, marks=pytest.mark.thorough),
        pytest.param({"target": "pca:8"}, marks=pytest.mark.thorough),
        pytest.param({"objective": "cosine+koleo+rkd"}, marks=pytest.mark.thorough),
        {"objective": "cosine+infonce", "infonce_positive": "student"},
        pytest.param({"objective": "supervised"}, marks=pytest.mark.thorough),
    ],
    ids=str,
)
def test_every_target_and_objective_trains(bank, make, tmp_path, change):
    config = make(epochs=2, **QUICK, **change)
    result = run_trial(config, bank, str(tmp_path))
    losses = [row.loss for row in result.epochs]
    assert losses[-1] < losses[0]
    assert result.student.total == describe("width:1", 512, 32).parameters.total
    assert result.metrics["test/linear/paper/accuracy"] > 0.5
    if config.target in ("phi_s", "labels"):
        again = run_trial(config, bank, str(tmp_path / "again"), reading="streaming")
        assert again.metrics == result.metrics
    assert stored(tmp_path, config).head[-1].out_features == 512


def test_supervised_the_student_inside_is_measured_and_learns_the_labels(bank, make, tmp_path):
    config = make(epochs=6, objective="supervised", arm="clean", **QUICK)
    result = run_trial(config, bank, str(tmp_path))
    assert config.target == "labels"
    first, last = (result.epochs[at].loss for at in (0, -1))
    assert last < first - 1
    assert 1 < first < 3  # ln 10 is 2.3
    assert result.metrics["test/linear/paper/accuracy"] > 0.8
    assert "test/cosine_to_teacher" not in result.metrics  # it never heard of it
    assert "teacher/cosine_to_teacher" in result.teacher


@pytest.mark.thorough
def test_interrupted_a_supervised_trial_goes_on_with_its_classifier(bank, make, tmp_path):
    config = make(epochs=2, objective="supervised", **QUICK)
    whole = run_trial(config, bank, str(tmp_path / "whole"))

    def stop(values):
        raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, str(tmp_path / "cut"), stop, save_seconds=0)
    again = run_trial(config, bank, str(tmp_path / "cut"), save_seconds=0)
    assert again.metrics == whole.metrics


def test_untrained_it_is_the_initial_student_with_statistics_of_the_clean_images(
    bank, make, tmp_path
):
    config = make(epochs=0, objective="supervised", **QUICK)
    result = run_trial(config, bank, str(tmp_path))
    assert result.epochs == result.observations.rows == []
    found, initial = stored(tmp_path, config), build_student("width:1", 512, 32, config.seed)
    for name, weights in initial.named_parameters():
        assert torch.equal(weights, found.get_parameter(name))
    moved = [not torch.equal(b, found.get_buffer(n)) for n, b in initial.named_buffers()]
    assert all(moved)
    assert result.metrics["test/linear/paper/accuracy"] > 0.2


# ---- the teacher in K dimensions ----


def test_teacher_pca_is_measured_like_any_student(bank, make, tmp_path):
    config = make(student="teacher_pca:8", seed=5, epochs=9)
    result = run_trial(config, bank, str(tmp_path))
    assert result.student.model_dump() == {
        "spec": "teacher_pca:8", "trunk": 0, "head": 0, "total": 0, "macs": 0, "image_size": 32,
    }  # fmt: skip
    assert not (Path(trial_folder(str(tmp_path), config)) / "student").exists()
    names = {name.replace("test/", "teacher/", 1) for name in result.metrics}
    assert names == set(result.teacher)  # the stored corrupted views included
    assert result.metrics["test/rank/effective"] <= 9
    assert run_trial(config, bank, str(tmp_path)) == result
    whole = run_trial(make(student="teacher_pca:199"), bank, str(tmp_path))
    for name in ("linear/paper/accuracy", "noise/pixel/0.1/accuracy", "rank/effective"):
        reference = whole.teacher[f"teacher/{name}"]
        assert whole.metrics[f"test/{name}"] == pytest.approx(reference, rel=0.02)


def test_its_features_are_the_best_of_rank_k(bank, make):
    config = make(student="teacher_pca:8")
    splits = resolve(config, bank).load(CPU)
    x_ND = projected_features(splits).train_ND.astype(np.float64)
    spread = np.linalg.svd(x_ND, compute_uv=False)
    assert (spread > 1e-5 * spread[0]).sum() == 9  # 8 components and the mean
    order_N = keyed_order(splits.clean_train.keys)
    stored_ND = splits.clean_train.embedding_NVD[order_N, 0].astype(np.float64)
    best = np.linalg.svd(stored_ND - stored_ND.mean(axis=0))
    share = (best[1][:8] ** 2).sum() / (best[1] ** 2).sum()
    cosine = (x_ND * stored_ND).sum(axis=1)
    assert (cosine**2).mean() == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"student": "teacher_pca:600"}, "student `teacher_pca:600`: 200 train embeddings of 512"),
        ({"target": "pca:600"}, "target: `pca:600`: 200 train embeddings of 512 dimensions have"),
        ({"classes": 11}, "classes: 11, but digits in {} has 10; choose at most 10"),
        ({"classes": 3}, "classes: the first 3 have 60 train and 18 test samples; a batch needs"),
    ],
)
def test_what_only_the_bank_can_refuse(bank, make, tmp_path, change, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        run_trial(make(**change), bank, str(tmp_path))
    assert said.format(bank) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("result.json"))


# ---- the first n classes ----


@pytest.mark.parametrize("reading", ["resident", "streaming"])
def test_the_first_classes_keep_their_keys_labels_and_views(bank, make, reading):
    manifest = load_manifest(bank)
    whole = resolve(make(), bank).load(CPU, "resident")
    few = resolve(make(**SIZED), bank).load(CPU, reading)
    assert few.inputs.classes == manifest.plan.dataset.classes[:5]
    for one, all_of in [
        (few.train, whole.train),
        (few.clean_train, whole.clean_train),
        *((few.test[arm], whole.test[arm]) for arm in ("clean", "noise:0.1")),
    ]:
        shown = np.flatnonzero(all_of.labels_N < 5)
        assert 0 < len(shown) < len(all_of.keys)
        assert one.keys == tuple(all_of.keys[i] for i in shown)
        assert sorted(set(one.labels_N.tolist())) == [0, 1, 2, 3, 4]
        order = np.array([3, 0, len(shown) - 1])
        for name in ("images_NHWC", "params_NVP", "embedding_NVD", "norm_NV"):
            found = getattr(one, name)[order]
            assert np.array_equal(found, getattr(all_of, name)[shown[order]])
        assert one.images_NHWC.shape == (len(shown), *all_of.images_NHWC.shape[1:])
    assert few.train.labels_N.tolist() == few.clean_train.labels_N.tolist()


def test_a_trial_on_fewer_classes(bank, make, tmp_path):
    config = make(**SIZED, **QUICK)
    result, streamed = (
        run_trial(config, bank, str(tmp_path / reading), reading=reading)
        for reading in ("resident", "streaming")
    )
    assert result.data.model_dump() == {
        "train": 100, "test": 30, "classes": 5, "chance": 0.2, "dim": 512, "views_per_sample": 1,
    }  # fmt: skip
    assert result.epochs[-1].step == 3
    assert streamed.metrics == result.metrics
    assert streamed.teacher == result.teacher
    whole = run_trial(make(**QUICK, epochs=0), bank, str(tmp_path / "resident"))
    assert whole.teacher != result.teacher  # beside it, but not in its place
    projected = make(student="teacher_pca:4", classes=5, batch_size=32)
    features = projected_features(resolve(projected, bank).load(CPU))
    assert len(features.text_CD) == len(features.classes) == 5
    assert len(features.test_ND) == len(features.test_labels_N) == 30


# ---- what is trained ----


def test_the_classifier_is_a_pure_function_of_the_seed():
    outside = torch.get_rng_state()
    modules = [
        wrap_student(
            _config(objective="supervised", seed=s), build_student("width:1", 64, 32, s), 64, 5
        )
        for s in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), outside)
    first, same, other = (m.classifier.weight for m in modules)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    images_BCHW = torch.rand(3, 3, 32, 32)
    module = modules[0].eval()
    assert isinstance(module, Classified)
    embedding_BD = module.student(images_BCHW)
    expected = torch.cat([embedding_BD, module.classifier(embedding_BD)], dim=1)
    assert torch.equal(module(images_BCHW), expected)


def test_two_views_go_through_one_student():
    config = _config(objective="infonce", infonce_positive="student", arm="noise", views=2)
    student = build_student("width:1", 64, 32, 0)
    module = wrap_student(config, student, 64, 10).eval()
    assert isinstance(module, TwoViews)
    assert unwrap_student(module) is student
    one, other = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)
    found = module(torch.cat([one, other], dim=1))
    torch.testing.assert_close(found, torch.cat([student(one), student(other)], dim=1))
    assert wrap_student(_config(), student, 64, 10) is student


def _config(**fields) -> TrialConfig:
    least = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
    return make_config(least | fields)
