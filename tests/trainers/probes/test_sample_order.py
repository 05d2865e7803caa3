"""No measured value depends on how the samples lie in the shards; those by file order do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.bank.members import pack
from shards.bank.order import keyed_order
from shards.bank.reader import iter_shards, load_manifest
from shards.bank.writer import BankWriter
from shards.building.teacher_robustness import RobustnessProbe
from shards.measures.infonce import paper_infonce
from tests.golden.independent import keyed
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialSplits, resolve
from trainers.probes.feature_banks import projected_features, student_features, teacher_features
from trainers.probes.measure import Measured, measure
from trainers.probes.observer import Observer
from trainers.results.folder import trial_folder
from trainers.students.base import Student
from trainers.students.files import load_student

CPU = torch.device("cpu")


def rearranged(bank: str, folder: Path, samples: int) -> str:
    """A copy of a bank that is stored class by class, in shards of `samples`."""
    manifest = load_manifest(bank)
    writer = BankWriter(str(folder), manifest.plan.model_copy(update={"shard_samples": samples}))
    for split in ("train", "test"):
        shards = list(iter_shards(bank, manifest, split))
        keys = np.array([key for shard in shards for key in shard.keys])
        arrays = {n: np.concatenate([s.arrays[n] for s in shards]) for n in shards[0].arrays}
        by_class_N = np.lexsort((keys, -arrays["label"]))
        for index, start in enumerate(range(0, len(keys), samples)):
            rows_B = by_class_N[start : start + samples]
            columns = {name: array[rows_B] for name, array in arrays.items()}
            packed = pack(index, columns, tuple(keys[rows_B].tolist()))
            writer.publish(split, index, len(rows_B), packed)
    writer.finish(manifest.class_embeddings, manifest.created)
    return str(folder)


@pytest.fixture(scope="module")
def other(bank: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return rearranged(bank, tmp_path_factory.mktemp("rearranged") / "bank", 37)


@pytest.fixture(scope="module")
def trained(done: Any) -> Student:
    config, root, _, _ = done
    return load_student(str(Path(trial_folder(root, config), "student")))


def splits_of(config: TrialConfig, bank: str) -> TrialSplits:
    return resolve(config, bank).load(CPU, training=False)


def values_of(config: TrialConfig, bank: str, student: Student) -> dict[str, dict[str, Measured]]:
    splits = splits_of(config, bank)
    return {
        "student": measure(student_features(student, splits, CPU), config, "test"),
        "teacher": measure(teacher_features(splits), config, "teacher"),
    }


def test_all_probes_give_the_same_values(bank: str, other: str, trained: Student, make) -> None:
    """Of a student and of the teacher, to the last bit, recalibrated BatchNorm included."""
    config = make(adapt_arms=("noise:0.1",))
    found, again = (values_of(config, place, trained) for place in (bank, other))
    assert found == again
    assert "test/noise/pixel/0.1/recalibrated/accuracy" in found["student"]["robustness"].metrics
    assert len(found["student"]) == 10


def test_observations_and_projections_are_the_same(
    bank: str, other: str, trained: Student, make
) -> None:
    config = make(curve_every="1 epochs", curve_samples=30)
    one, two = (Observer(splits_of(config, place), CPU) for place in (bank, other))
    assert one(0, trained) == two(0, trained)
    assert one.teacher() == two.teacher()
    projected = make(student="teacher_pca:5")
    found = [projected_features(splits_of(projected, place)) for place in (bank, other)]
    assert np.array_equal(found[0].test_ND, found[1].test_ND)
    assert np.array_equal(found[0].train_labels_N, found[1].train_labels_N)


def test_the_teachers_classifier_of_a_build_is_the_same(bank: str, other: str) -> None:
    one, two = (RobustnessProbe(place, load_manifest(place)) for place in (bank, other))
    assert torch.equal(one.classifiers[0].model.weight_CD, two.classifiers[0].model.weight_CD)
    assert np.array_equal(one.labels_N, two.labels_N)


def test_file_order_is_that_of_the_shards(bank: str, other: str, trained: Student, make) -> None:
    config = make(probes=("file_order",))
    found: list[list[float]] = []
    for place in (bank, other):
        splits = splits_of(config, place)
        features = student_features(trained, splits, CPU)
        rows_N = features.test_file_order_N
        assert rows_N is not None
        assert np.array_equal(features.test_labels_N[rows_N], splits.test["clean"].labels_N)
        # Twice, so that there are two batches; the second one is short.
        twice = {n: np.concatenate([getattr(features, n)] * 2) for n in ("test_ND", "teacher_ND")}
        both = replace(features, **twice, test_file_order_N=np.concatenate([rows_N, rows_N + 60]))
        metrics = measure(both, config, "test")["file_order"].metrics
        expected = paper_infonce(*(rows_ND[both.test_file_order_N] for rows_ND in twice.values()))
        assert metrics["test/infonce/paper/file_order"] == expected
        found.append(list(metrics.values()))
    assert all(abs(one - two) > 1e-6 for one, two in zip(*found, strict=True))


def test_keyed_order_is_a_function_of_the_keys_alone() -> None:
    """And the one that is written out in tests/golden/independent.py."""
    keys = tuple(f"class{i % 3}/{i}.png" for i in range(100))
    mixed = tuple(np.random.default_rng(0).permutation(keys).tolist())
    ordered = [keys[row] for row in keyed_order(keys)]
    assert ordered == [mixed[row] for row in keyed_order(mixed)]
    some = tuple(sorted(keys))[:40]
    assert [some[row] for row in keyed_order(some)] == [key for key in ordered if key in some]
    assert ordered == [keys[row] for row in keyed(keys)]
