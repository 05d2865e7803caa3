"""Student beside teacher: shared directions, CKA, cosine; and the spectrum probe's own names."""

import numpy as np
import pytest
import torch

from shards.measures.moments import Moments
from shards.measures.similarity import components, debiased_cka, mean_cosine, subspace_alignment
from tests.shards.measures.made import normal, orthonormal_centred, rotation, unit_rows


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


def test_mean_cosine_of_known_vectors():
    eye = np.eye(4)
    assert mean_cosine(eye, eye) == 1
    assert mean_cosine(eye, -eye) == -1
    assert mean_cosine(eye, np.roll(eye, 1, axis=0)) == 0
    assert np.isnan(mean_cosine(eye, eye[:, :3]))


def test_the_two_orders_of_summation_differ_by_rounding_only():
    x, y = unit_rows(normal(5000, 33) + 0.1), unit_rows(normal(5000, 33, seed=1))
    assert mean_cosine(x, y, order="rows") == pytest.approx(mean_cosine(x, y), abs=1e-14)
