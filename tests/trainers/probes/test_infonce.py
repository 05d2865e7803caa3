"""The InfoNCE probe: bounds, the teacher as reference, students of another width."""

import numpy as np
import pytest

from shards.measures.infonce import full_infonce, paper_log_batch
from tests.shards.measures.made import normal
from tests.trainers.probes.made import bank_of
from trainers.probes import run_probes


def test_infonce_bounds_and_the_teachers_reference(features):
    metrics, _ = run_probes(("infonce",), features, "test")
    for way in ("", "/reverse"):
        bound = np.log(150) - metrics[f"test/infonce/full{way}"]
        assert metrics[f"test/infonce/bound{way}"] == pytest.approx(bound)
        bound = paper_log_batch(150) - metrics[f"test/infonce/paper{way}"]
        assert metrics[f"test/infonce/paper/bound{way}"] == pytest.approx(bound)
    teacher, labels = features.teacher_ND, features.test_labels_N
    own, _ = run_probes(("infonce",), bank_of(teacher, labels, teacher, labels, teacher), "teacher")
    reference = full_infonce(teacher, teacher).loss
    assert own["teacher/infonce/full"] == pytest.approx(reference)
    assert reference < metrics["test/infonce/full"]
    assert own["teacher/infonce/retrieval1"] == 1
    assert own["teacher/alignment"] == 0


def test_a_student_of_another_width_can_only_spread():
    teacher, student, labels = normal(70, 8), normal(70, 5, seed=1), np.arange(70) % 2
    bank = bank_of(student, labels, student, labels, teacher, teacher)
    metrics, _ = run_probes(("infonce",), bank, "test")
    defined = {name for name, value in metrics.items() if np.isfinite(value)}
    ways = ("", "/with_self", "/paper", "/paper/distinct")
    assert defined == {f"test/uniformity{way}" for way in ways}
    assert set(metrics) == defined
