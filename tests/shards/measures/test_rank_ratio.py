"""The rank ratio on students whose truth is known: compression, collapse, noise, independence.

Teacher: t ~ N(0, Q diag(1/k) Q') in 64 dimensions. 5,000 train and 2,000 test samples.
"""

from __future__ import annotations

import numpy as np
import pytest

from shards.measures.moments import Moments
from shards.measures.retained import RankRatio, rank_ratio, retained_variance
from tests.shards.measures.made import rotation

D, TRAIN, TEST = 64, 5000, 2000
VARIANCE = 1 / np.arange(1, D + 1)
AXES = rotation(D)
COVARIANCE = AXES @ np.diag(VARIANCE) @ AXES.T


def drawn(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D)) * np.sqrt(VARIANCE) @ AXES.T


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, D))


def measured(student, train: int = TRAIN, test: int = TEST, seed: int = 0) -> RankRatio:
    """`student(teacher, noise)` -> its embeddings."""
    t_train, t_test = drawn(train, 1), drawn(test, seed + 2)
    x_train = student(t_train, noise(train, 1001))
    x_test = student(t_test, noise(test, seed + 1002))
    joint = Moments.of(x_train, t_train), Moments.of(x_test, t_test)
    return rank_ratio(retained_variance(*joint, x_test.shape[1]), x_test, train, seed)


def optimal(k: int):
    """E[t | k random projections of t]: what a perfect student of k dimensions outputs."""
    looks_DK = np.random.default_rng(5).normal(size=(D, k))
    slopes_DK = COVARIANCE @ looks_DK @ np.linalg.inv(looks_DK.T @ COVARIANCE @ looks_DK)
    return lambda t, e: t @ looks_DK @ slopes_DK.T


def squeezed(scales: np.ndarray):
    """All information kept, the teacher's axes scaled."""
    map_DD = AXES @ np.diag(scales) @ AXES.T
    return lambda t, e: t @ map_DD


def shrunk(sigma: float):
    """E[t | t + sigma e]: regression to the mean, exactly."""
    slopes_DD = COVARIANCE @ np.linalg.inv(COVARIANCE + sigma**2 * np.eye(D))
    return lambda t, e: (t + sigma * e) @ slopes_DD.T


@pytest.mark.parametrize("k", [2, 8, 24])
def test_optimal_compression_is_no_collapse(k: int) -> None:
    assert measured(optimal(k)).ratio == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(("sigma", "tolerance"), [(0.1, 0.03), (0.3, 0.05), (1.0, 0.15)])
def test_regression_to_the_mean_is_no_collapse(sigma: float, tolerance: float) -> None:
    """At sigma = 1 a quarter of the variance is retained, and ridge itself shrinks what is left."""
    assert measured(shrunk(sigma)).ratio == pytest.approx(1, abs=tolerance)


def test_dropping_components_whole_is_no_squeeze() -> None:
    assert measured(squeezed(np.arange(D) < 8)).ratio == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    "scales", [np.where(np.arange(D) < 1, 1, 0.03), 1 / np.arange(1.0, D + 1)], ids=["hard", "soft"]
)
def test_squeezed_directions_are_a_collapse(scales: np.ndarray) -> None:
    assert measured(squeezed(scales)).ratio < 0.2


def test_variation_that_says_nothing_of_the_teacher_lifts_it_above_one() -> None:
    assert measured(lambda t, e: t + 0.5 * e).ratio > 2


def test_an_independent_student_has_no_ratio() -> None:
    assert np.isnan(measured(lambda t, e: e).ratio)


def test_too_few_train_samples_give_none() -> None:
    assert np.isnan(measured(optimal(8), train=2 * D - 1).ratio)
    assert np.isfinite(measured(optimal(8), train=2 * D).ratio)


def test_the_interval_holds_its_own_estimate_and_covers_the_truth() -> None:
    """The truth is the expected ratio at this N of test images, given the fitted slopes."""
    found = [measured(shrunk(0.3), test=400, seed=seed) for seed in range(1, 41)]
    truth = np.mean([r.ratio for r in found])
    assert all(r.low < r.ratio < r.high for r in found)
    assert sum(r.low <= truth <= r.high for r in found) >= 35
