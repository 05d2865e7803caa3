"""Retained variance: what is known, scikit-learn's ridge, the criterion written out, shrinkage."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from shards.measures.moments import Moments
from shards.measures.retained import PENALTIES, rank_ratio, retained_variance
from shards.measures.spectrum import RANKS, effective_rank, rank_from_eigenvalues
from tests.shards.measures.made import normal, rotation, seen_through_noise


def found_of(train, teacher_train, test, teacher):
    return retained_variance(
        Moments.of(train, teacher_train), Moments.of(test, teacher), train.shape[1]
    )


# ---- closed forms ----


def test_a_rotated_shifted_scaled_teacher_is_retained_whole():
    teacher_train, teacher = normal(300, 10), normal(200, 10, seed=1)
    turn = rotation(10)
    found = found_of(3 * teacher_train @ turn + 5, teacher_train, 3 * teacher @ turn + 5, teacher)
    assert found.r2_K == pytest.approx(np.ones(10), abs=1e-9)
    assert rank_from_eigenvalues(found.kept_K) == pytest.approx(effective_rank(teacher), rel=1e-9)


def test_what_a_student_does_not_see_is_not_retained():
    teacher_train, teacher = normal(4000, 6), normal(2000, 6, seed=1)
    found = found_of(teacher_train[:, :3], teacher_train, teacher[:, :3], teacher)
    assert found.r2_K[:3] == pytest.approx(np.ones(3), abs=0.01)
    assert found.r2_K[3:] == pytest.approx(np.zeros(3), abs=0.05)
    assert rank_from_eigenvalues(found.kept_K) == pytest.approx(
        effective_rank(teacher[:, :3]), abs=0.1
    )


@pytest.mark.parametrize("value", [0.0, 1 / 3])
def test_a_student_that_does_not_vary_retains_nothing(value):
    teacher_train, teacher, flat = normal(200, 5), normal(100, 5, seed=1), np.full((200, 5), value)
    found = found_of(flat, teacher_train, flat[:100], teacher)
    assert (found.r2_K <= 0).all()  # the mean of train is no better than the mean of test
    assert not found.kept_K.any()
    assert rank_from_eigenvalues(found.kept_K) == 0


def test_of_a_teacher_that_does_not_vary_no_share_is_defined():
    train, test, flat = normal(200, 5), normal(100, 5, seed=1), np.full((200, 4), 1 / 3)
    found = found_of(train, flat, test, flat[:100])
    assert np.isnan(found.share)
    assert len(found.r2_K) == len(found.predicted_K) == 0
    assert [measure(found.predicted_K) for measure in RANKS.values()] == [0] * len(RANKS)
    assert np.isnan(rank_ratio(found, test, len(train), 0).ratio)
    varies_on_test = found_of(train, flat, test, normal(100, 4, seed=2))
    assert varies_on_test.share == 0


def test_the_rank_of_shrinkage_is_that_of_a_shrinking_student_and_not_of_a_collapsed_one():
    train, teacher_train = seen_through_noise(4000, 0)
    test, teacher = seen_through_noise(3000, 1)
    found = found_of(train, teacher_train, test, teacher)
    r2_K = 1 / (1 + 0.2**2 * np.arange(1, 25) ** 2)
    assert found.r2_K == pytest.approx(r2_K, abs=0.05)
    null = rank_from_eigenvalues(found.predicted_K)
    assert effective_rank(test) == pytest.approx(null, rel=0.03)
    assert null < 0.9 * effective_rank(teacher)
    squeeze = np.arange(1, 25) ** -1.0  # the same information, most of its directions squeezed
    collapsed = found_of(train * squeeze, teacher_train, test * squeeze, teacher)
    assert rank_from_eigenvalues(collapsed.predicted_K) == pytest.approx(null, rel=0.01)
    assert effective_rank(test * squeeze) < 0.8 * null


# ---- against other code ----


@pytest.mark.parametrize("d", [8, 60])
def test_r2_is_scikit_learns(d):
    train, teacher_train = seen_through_noise(200, 0, d)
    test, teacher = seen_through_noise(90, 1, d)
    train, test = train + 1, test + 1
    found = found_of(train, teacher_train, test, teacher)
    axes = np.linalg.svd(teacher - teacher.mean(axis=0))[2].T
    mean = np.trace(np.cov(train.T, bias=True)) * len(train) / d
    assert len(found.r2_K) == d
    for j in range(d):
        model = Ridge(alpha=found.penalty_K[j] * mean)
        model.fit(train, teacher_train @ axes[:, j])
        expected = r2_score(teacher @ axes[:, j], model.predict(test))
        assert found.r2_K[j] == pytest.approx(expected, abs=1e-8)


def test_penalties_are_those_of_generalised_cross_validation_written_out():
    train, teacher_train = seen_through_noise(70, 0, 12, sigma=1.0)
    test, teacher = seen_through_noise(50, 1, 12, sigma=1.0)
    found = found_of(train, teacher_train, test, teacher)
    axes = np.linalg.svd(teacher - teacher.mean(axis=0))[2].T
    x = train - train.mean(axis=0)
    y = (teacher_train - teacher_train.mean(axis=0)) @ axes
    scores = []
    for penalty in PENALTIES:
        ridge = penalty * np.trace(x.T @ x) / 12
        hat = x @ np.linalg.solve(x.T @ x + ridge * np.eye(12), x.T) + 1 / 70
        scores.append(((y - hat @ y) ** 2).mean(axis=0) / (1 - np.trace(hat) / 70) ** 2)
    assert found.penalty_K == pytest.approx(PENALTIES[np.argmin(scores, axis=0)])
    assert len(set(found.penalty_K)) > 3


# ---- what changes nothing, what has no answer ----


def test_invariances_and_merged_states():
    train, teacher_train = seen_through_noise(300, 0)
    test, teacher = seen_through_noise(200, 1)
    expected = found_of(train, teacher_train, test, teacher)
    turn = rotation(24)
    for change in (lambda x: x @ turn, lambda x: 7 * x - 3):
        found = found_of(change(train), teacher_train, change(test), teacher)
        assert found.r2_K == pytest.approx(expected.r2_K, abs=1e-6)
    other = found_of(train, teacher_train @ turn + 1, test, teacher @ turn + 1)
    assert other.kept_K == pytest.approx(expected.kept_K, abs=1e-8)
    merged = Moments.of(train[:100], teacher_train[:100]).merge(
        Moments.of(train[100:], teacher_train[100:])
    )
    found = retained_variance(merged, Moments.of(test, teacher), 24)
    assert found.r2_K == pytest.approx(expected.r2_K, abs=1e-8)


def test_fewer_samples_than_dimensions_and_one_dimension_are_defined():
    train, teacher_train = seen_through_noise(20, 0, 40)
    test, teacher = seen_through_noise(15, 1, 40)
    found = found_of(train, teacher_train, test, teacher)
    assert len(found.r2_K) == 14  # the teacher's rank on test
    assert np.isfinite(found.r2_K).all()
    line = found_of(train[:, :1], teacher_train[:, :1], test[:, :1], teacher[:, :1])
    assert 0.5 < line.r2_K[0] <= 1
    assert rank_from_eigenvalues(line.kept_K) == 1


def test_retained_refuses_bad_input():
    x = normal(9, 3)
    with pytest.raises(ValueError, match="got 9, 1"):
        found_of(x, x, x[:1], x[:1])
    with pytest.raises(ValueError, match="got 2, 9"):
        found_of(x[:2], x[:2], x, x)
    with pytest.raises(ValueError, match="got NaN or infinity"):
        found_of(x, x * np.nan, x, x)
