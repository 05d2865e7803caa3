"""The spectrum probe: its arrays, figures taken from them, and the relation to the teacher."""

import numpy as np
import pytest

from tests.shards.measures.made import normal, orthonormal_centred
from tests.trainers.probes.made import bank_of
from trainers.probes import run_probes
from trainers.probes.features import unit


class Head:
    """A subject with penultimate features alone."""

    def __init__(self, raw_NF):
        self.raw_NF = raw_NF

    def penultimate(self, split):
        return {"test": self.raw_NF}[split]


@pytest.fixture(scope="module")
def measured():
    """Teacher of 120 dimensions and N = 400; the student is a noisy copy."""
    teacher = normal(400, 120)
    student = teacher + 0.2 * normal(400, 120, seed=1)
    labels = np.arange(400) % 4
    raw = (orthonormal_centred(400, 7) + 2).astype(np.float32)
    rows = (student, labels, student, labels, teacher)
    return run_probes(("spectrum",), bank_of(*rows, subject=Head(raw)), "test")


def test_the_probe_gives_whole_curves_and_their_figures(measured):
    metrics, arrays = measured
    assert set(arrays) == {"test/spectrum", "test/spectrum/cumulative", "test/subspace"}
    assert all(len(array) == 120 for array in arrays.values())
    assert sum(arrays["test/spectrum"]) == pytest.approx(1)
    curve = arrays["test/spectrum/cumulative"]
    for percent in (90, 95, 99):
        k = int(metrics[f"test/dims/{percent}"])
        assert curve[k - 2] < percent / 100 <= curve[k - 1]
    for k in (1, 10, 20, 50, 100):
        assert metrics[f"test/subspace/{k}"] == arrays["test/subspace"][k - 1]
    assert metrics["test/rank/n"] == 400
    assert 0.5 < metrics["test/rank/alpha"] < 4
    assert metrics["test/rank/alpha/r2"] > 0.9
    for name in ("effective", "participation", "roy_vetterli"):
        assert metrics[f"test/rank/penultimate/{name}"] == pytest.approx(7, abs=1e-3)
    assert 0 < metrics["test/variance"] < 1
    assert 0.9 < metrics["test/variance/within_class"] < 1  # labels that mean nothing
    assert 0.9 < metrics["test/cka/debiased"] < 1


def test_the_teacher_beside_itself():
    teacher, labels = normal(100, 8), np.arange(100) % 2
    metrics, arrays = run_probes(
        ("spectrum",), bank_of(teacher, labels, teacher, labels, teacher), "teacher"
    )
    assert metrics["teacher/cka/debiased"] == pytest.approx(1)
    assert metrics["teacher/cosine_to_teacher"] == pytest.approx(1)
    assert arrays["teacher/subspace"] == pytest.approx(arrays["teacher/spectrum/cumulative"])
    assert np.isnan(metrics["teacher/rank/alpha"])  # 8 dimensions have no rank 100
    assert not any("penultimate" in name for name in metrics)


def test_rank_100_made_of_float32_rounding_alone_gives_no_alpha():
    low = normal(400, 60) @ np.random.default_rng(0).normal(size=(60, 200))
    labels = np.arange(400) % 2
    metrics, _ = run_probes(("spectrum",), bank_of(low, labels, low, labels, low), "test")
    assert np.linalg.matrix_rank(unit(low).astype(np.float64) - unit(low).mean(axis=0)) > 100
    assert np.isnan(metrics["test/rank/alpha"])


def test_a_student_of_another_width_has_what_needs_no_common_space():
    teacher, student, labels = normal(60, 8), normal(60, 5, seed=1), np.arange(60) % 2
    metrics, arrays = run_probes(
        ("spectrum",), bank_of(student, labels, student, labels, teacher, teacher), "test"
    )
    assert "test/cosine_to_teacher" not in metrics
    assert "test/subspace" not in arrays
    assert np.isfinite(metrics["test/cka/debiased"])
    assert metrics["test/rank/effective"] > 1
