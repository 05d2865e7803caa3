"""Student beside teacher: shared directions, CKA, cosine; and the spectrum probe's own names."""

import numpy as np
import pytest
import torch

from shards.measures.moments import Moments
from shards.measures.similarity import components, debiased_cka, mean_cosine, subspace_alignment
from tests.trainers.probes.made import bank_of, normal, orthonormal_centred, rotation
from trainers.probes import run_probes
from trainers.probes.features import unit


def shares(student, teacher):
    return subspace_alignment(Moments.of(student), Moments.of(teacher))


# ---- subspace alignment ----


def test_shares_in_known_directions():
    teacher = orthonormal_centred(60, 3) * [3, 2, 1]
    student = orthonormal_centred(60, 3) * np.sqrt([1, 2, 5])
    assert shares(student, teacher) == pytest.approx([1 / 8, 3 / 8, 1])
    assert shares(teacher, teacher) == pytest.approx([9 / 14, 13 / 14, 1])


def test_a_student_outside_of_the_teachers_span_has_no_share():
    axes = orthonormal_centred(60, 4)
    teacher, student = axes * [2, 1, 0, 0], axes * [0, 0, 1, 1]
    assert shares(student, teacher) == pytest.approx([0, 0])  # the teacher has two components
    assert shares(student + teacher, teacher) == pytest.approx([4 / 7, 5 / 7])


def test_a_common_rotation_shifts_scales_and_repetition_change_no_share():
    student, teacher, turn = normal(80, 12), normal(80, 12, seed=2), rotation(12)
    expected = shares(student, teacher)
    assert shares(student @ turn, teacher @ turn) == pytest.approx(expected)
    assert shares(7 * student - 2, 1e-3 * teacher + 1) == pytest.approx(expected)
    assert shares(np.tile(student, (2, 1)), np.tile(teacher, (2, 1))) == pytest.approx(expected)
    assert (np.diff(expected) >= 0).all()
    assert expected[-1] == pytest.approx(1)


def test_fewer_samples_than_dimensions_end_with_the_teachers_rank():
    student, teacher = normal(9, 30), normal(9, 30, seed=1)
    assert len(shares(student, teacher)) == components(Moments.of(teacher))[1].shape[1] == 8


def test_no_share_where_nothing_varies_or_widths_differ():
    x_ND, flat = normal(20, 4), np.ones((20, 4))
    for student, teacher in ((flat, x_ND), (x_ND, flat), (x_ND[:, :3], x_ND)):
        assert np.isnan(shares(student, teacher)).tolist() == [True]


# ---- CKA ----


def written_out(x, y):
    """Unbiased HSIC of Song et al., with its N x N matrices."""

    def hsic(k, m):
        n, one = len(k), np.ones(len(k))
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + middle - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_cka_is_the_unbiased_hsic_written_out():
    for n, d, e in ((40, 6, 9), (12, 30, 5), (4, 3, 3)):
        x, y = normal(n, d), normal(n, e, seed=4)
        y[:, 0] += x[:, 0]
        assert debiased_cka(x, y) == pytest.approx(written_out(x, y), rel=1e-8)


def test_independent_gaussians_are_near_0_where_biased_cka_is_not():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 360, 512))
    assert abs(debiased_cka(x, y)) < 0.02
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, m = x @ x.T, y @ y.T
    assert np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)) == pytest.approx(0.59, abs=0.01)


def test_rotations_shifts_and_scales_change_no_cka():
    x, y = normal(80, 10), normal(80, 10, seed=2) + normal(80, 10)
    expected = debiased_cka(x, y)
    assert debiased_cka(x, x) == pytest.approx(1)
    assert debiased_cka(x, 3 * x @ rotation(10) + 5) == pytest.approx(1)
    assert debiased_cka(x @ rotation(10), y - 9) == pytest.approx(expected)
    assert debiased_cka(y, x) == pytest.approx(expected)
    assert debiased_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected)
    assert 0.1 < expected < 0.99


def test_no_cka_of_three_samples_or_of_constants():
    x = normal(20, 4)
    assert np.isnan(debiased_cka(x[:3], x[:3]))
    assert np.isnan(debiased_cka(x, np.ones((20, 4))))
    assert np.isnan(debiased_cka(np.full((20, 2), 1 / 3), x))


def test_mean_cosine():
    eye = np.eye(4)
    assert mean_cosine(eye, eye) == 1
    assert mean_cosine(eye, -eye) == -1
    assert mean_cosine(eye, np.roll(eye, 1, axis=0)) == 0
    assert np.isnan(mean_cosine(eye, eye[:, :3]))


# ---- the probe ----


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
    assert np.isnan(metrics["test/cosine_to_teacher"])
    assert np.isnan(arrays["test/subspace"]).all()
    assert np.isfinite(metrics["test/cka/debiased"])
    assert metrics["test/rank/effective"] > 1
