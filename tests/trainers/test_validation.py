"""Validation samples: held out of all that is fitted, and what curves are measured on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shards.bank.order import held_out_rows
from trainers.inputs import resolve
from trainers.probes.names import metric_of
from trainers.probes.observer import Observer
from trainers.runner import run_trial
from trainers.students import build_student

CPU = torch.device("cpu")
HELD = {"validation_samples": 40}
CURVE = {"curve_every": "1 epochs", "curve_samples": 1000, "probes": ("spectrum", "linear")}


def keys_of(bank, config, reading="auto"):
    """(keys trained on, keys held out) of a trial."""
    splits = resolve(config, bank).load(CPU, reading)
    assert splits.train.keys == splits.clean_train.keys
    return splits.train.keys, splits.validation.keys


# ---- which samples ----


def test_the_draw_depends_on_keys_and_seed_alone() -> None:
    keys = tuple(f"image-{i}" for i in range(200))
    rows = held_out_rows(keys, 50, 0)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 50
    names = {keys[row] for row in rows}
    turned = keys[::-1]
    assert {turned[row] for row in held_out_rows(turned, 50, 0)} == names
    assert {keys[row] for row in held_out_rows(keys, 20, 0)} < names
    assert {keys[row] for row in held_out_rows(keys, 50, 1)} != names
    halves = [np.sum(held_out_rows(keys, 100, seed) < 100) for seed in range(40)]
    assert 46 < np.mean(halves) < 54  # no part of the list is preferred


def test_every_arm_student_and_seed_holds_out_the_same(bank, make):
    trained, held = keys_of(bank, make(**HELD))
    assert len(held) == 40
    assert len(trained) == 160
    assert not {*trained} & {*held}
    everything = resolve(make(), bank).load(CPU)
    assert everything.validation is None
    assert {*trained, *held} == {*everything.train.keys}
    assert [key for key in everything.train.keys if key in {*trained}] == list(trained)
    for change in ({"seed": 5}, {"arm": "crop_flip"}, {"student": "width:2"}):
        assert keys_of(bank, make(**HELD, **change)) == (trained, held)
    assert keys_of(bank, make(**HELD), "streaming") == (trained, held)
    some = keys_of(bank, make(**HELD, classes=5, batch_size=16))
    assert [len(keys) for keys in some] == [60, 40]  # of the images of those classes


def test_embeddings_stay_with_their_images(bank, make):
    splits = resolve(make(**HELD), bank).load(CPU)
    whole = resolve(make(), bank).load(CPU)
    for split in (splits.train, splits.validation):
        source = whole.train if split is splits.train else whole.clean_train
        rows = [source.keys.index(key) for key in split.keys]
        assert np.array_equal(split.embedding_NVD, source.embedding_NVD[rows])
        assert np.array_equal(split.images_NHWC, source.images_NHWC[rows])
        assert np.array_equal(split.labels_N, source.labels_N[rows])


# ---- what is measured on them ----


def test_curves_are_of_the_validation_split_and_never_read_the_test_images(bank, make):
    config = make(**HELD, **CURVE)
    splits = resolve(config, bank).load(CPU)
    student = build_student("width:1", 512, 32, 0)
    blind = Observer(replace(splits, test={}), CPU)  # it has no test images to read
    row = blind(0, student)
    assert all(name.startswith("validation/") for name in row)
    # The same as if the validation images were a test split.
    plain = replace(splits, test={"clean": splits.validation}, validation=None)
    expected = Observer(plain, CPU)
    assert row == {f"validation/{name}": v for name, v in expected(0, student).items()}
    assert blind.teacher() == {f"validation/{name}": v for name, v in expected.teacher().items()}


def test_a_trial_is_fitted_on_what_is_left(bank, make, tmp_path):
    config = make(epochs=2, **HELD, **CURVE)
    result = run_trial(config, bank, str(tmp_path))
    assert result.data.train == 160
    assert result.metrics["test/linear/standard/n"] == 160
    assert result.teacher["teacher/linear/standard/n"] == 160
    assert [row.step for row in result.epochs] == [2, 4]  # 160 // 64 steps an epoch
    assert [row.step for row in result.observations.rows] == [0, 2, 4]
    observed = result.observations.rows[0].values
    assert "validation/cosine_to_teacher" in observed
    assert all(metric_of(f"curve/{name}") for name in observed)
    assert "teacher/curve/validation/rank/effective" in result.teacher
    whole = run_trial(make(epochs=2, **CURVE), bank, str(tmp_path))
    assert whole.teacher["teacher/linear/standard/n"] == 200  # not the file of the other trial
    assert "rank/effective" in whole.observations.rows[0].values


# ---- identities and refusals ----


def test_without_them_a_trial_is_what_it_was(make):
    assert make(validation_samples=0).identity == make().identity
    assert "validation_samples" not in make(validation_samples=0).model_dump_json()
    assert make(**HELD).identity != make().identity


def test_too_many_are_refused_with_both_numbers(bank, make):
    with pytest.raises(ValueError, match=r"^validation_samples: 200 of 200 train samples leaves n"):
        resolve(make(validation_samples=200), bank)
    with pytest.raises(ValueError, match=r"batch_size: 64 .* 20 train .* validation_samples: 180"):
        resolve(make(validation_samples=180), bank)
    with pytest.raises(ValueError, match=r"classes: .* 100 train, 50 of them held out and"):
        resolve(make(validation_samples=50, classes=5), bank).load(CPU)
    with pytest.raises(ValueError, match=r"validation_samples: .* 1 image .* at least 2"):
        make(validation_samples=1)


def test_too_few_left_for_a_probe_are_refused_before_training(bank, make, tmp_path):
    # Of 20 images of each class about one is left, and a classifier needs two of one.
    config = make(validation_samples=198, batch_size=2, probes=("linear",))
    with pytest.raises(ValueError, match=r"^probes: `linear` needs "):
        run_trial(config, bank, str(tmp_path))
