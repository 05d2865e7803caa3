"""What of the teacher a student's embeddings still hold, and the rank that shrinkage alone gives.

A regressor that cannot see a component of its target predicts that component's mean: its output
loses rank without any collapse. Component j of the teacher, of variance lambda_j, then keeps
lambda_j R^2_j. A student whose rank is that of these kept variances has regressed to the mean; one
whose rank is lower has collapsed beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.measures.moments import EPS, Matrix, Moments, Vector
from shards.measures.similarity import components
from trainers.probes.features import FeatureBank
from trainers.probes.spectrum import RANKS, centred_eigenvalues, rank_of

# Penalties tried, relative to the mean eigenvalue of the student's train covariance.
PENALTIES: Vector = np.logspace(-10, 4, 57)
FREEDOM = 0.9  # at most so many degrees of freedom a sample: beyond, the criterion is noise


@dataclass(frozen=True)
class Retained:
    """Of each teacher component (K,), first the largest: its variance, R^2 and penalty."""

    variance_K: Vector
    r2_K: Vector
    penalty_K: Vector

    @property
    def kept_K(self) -> Vector:
        """lambda_j R^2_j, R^2 cut to [0, 1]: what worse than the mean is predicted is not kept."""
        return self.variance_K * np.clip(self.r2_K, 0.0, 1.0)


def retained_variance(train: Moments, test: Moments, width: int) -> Retained:
    """Ridge from a student (first `width` columns) to its teacher's components (the others).

    The components are those of the teacher on test. Each has a penalty of its own, chosen by
    generalised cross-validation on train (Golub, Heath & Wahba, 1979), and is fitted there; R^2 =
    1 - squared error / squared deviation from the mean, on test: 1 is best, 0 no better than the
    mean, negative worse. All of it comes from joint moments, whatever N.
    Raises: ValueError for fewer than 3 train or 2 test samples.
    """
    if train.count < 3 or test.count < 2:
        raise ValueError(
            f"retained variance needs 3 train and 2 test samples; got {train.count}, {test.count}"
        )
    teacher = test.part(width, len(test.mean_D))
    variance_K, basis_EK = components(teacher)
    slopes_DK, penalty_K = _ridge(train, width, basis_EK)
    cross_DK: Matrix = test.m2_DD[:width, width:] @ basis_EK
    own_DK: Matrix = test.m2_DD[:width, :width] @ slopes_DK
    gap_M = test.mean_D - train.mean_D
    offset_K: Vector = gap_M[width:] @ basis_EK - gap_M[:width] @ slopes_DK
    total_K = variance_K * test.count
    # sum over test of (t - prediction)^2, t and prediction being centred on train
    error_K = total_K + (slopes_DK * (own_DK - 2 * cross_DK)).sum(axis=0)
    error_K = np.maximum(error_K, 0.0) + test.count * offset_K**2
    return Retained(variance_K, 1 - error_K / total_K, penalty_K)


def _ridge(train: Moments, width: int, basis_EK: Matrix) -> tuple[Matrix, Vector]:
    """Slopes (D, K) and the relative penalty of each, from generalised cross-validation."""
    count = train.count
    eigen = np.linalg.eigh(train.m2_DD[:width, :width])
    values_D: Vector = np.maximum(eigen[0], 0.0)
    vectors_DD: Matrix = eigen[1]
    cross_DK: Matrix = vectors_DD.T @ (train.m2_DD[:width, width:] @ basis_EK)
    spread_K: Vector = np.einsum("ek,ek->k", basis_EK, train.m2_DD[width:, width:] @ basis_EK)
    mean = float(values_D.mean())
    if mean <= EPS * train.count * train.square:  # a student that does not vary says nothing
        return np.zeros_like(cross_DK), np.repeat(PENALTIES[-1:], len(spread_K))
    ridge_A1 = PENALTIES[:, None] * mean
    freedom_A = (values_D / (values_D + ridge_A1)).sum(axis=1) + 1
    explained_AD = (values_D + 2 * ridge_A1) / (values_D + ridge_A1) ** 2
    left_AK = np.maximum(spread_K - explained_AD @ cross_DK**2, EPS * spread_K)
    score_AK = left_AK / (1 - np.minimum(freedom_A, count - 0.5) / count)[:, None] ** 2
    allowed_A = freedom_A <= max(FREEDOM * count, float(freedom_A.min()))
    score_AK[~allowed_A] = np.inf
    best_K = np.argmin(score_AK, axis=0)
    penalty_K: Vector = PENALTIES[best_K]
    slopes_DK: Matrix = vectors_DD @ (cross_DK / (values_D[:, None] + penalty_K * mean))
    return slopes_DK, penalty_K


def retained(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """Fitted on the clean train embeddings, judged on the clean test embeddings."""
    width = bank.test_ND.shape[1]
    train = Moments.of(bank.train_ND, bank.teacher_train_ND)
    test = Moments.of(bank.test_ND, bank.teacher_ND)
    found = retained_variance(train, test, width)
    for name, measure in RANKS.items():
        yield f"retained/rank/{name}", measure(found.kept_K)
    null, own = rank_of(found.kept_K), rank_of(centred_eigenvalues(bank.test_ND))
    yield "retained/rank/ratio", own / null if null > 0 else float("nan")
    total = float(found.variance_K.sum())
    yield "retained/share", float(found.kept_K.sum()) / total if total > 0 else float("nan")
    yield "retained/r2", found.r2_K.tolist()
    yield "retained/variance", found.kept_K.tolist()
