"""How much of the teacher a student's embeddings retain, component by component.

A regressor that cannot see a component of its target predicts that component's mean, so its output
loses rank without any collapse. Component j of the teacher, of variance lambda_j, is retained to
the extent that it can be predicted: lambda_j R^2_j. A student whose rank is that of these retained
variances has regressed to the mean; one whose rank is lower has collapsed beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.measures.moments import EPS, Matrix, Moments, Vector
from shards.measures.similarity import components

# Penalties tried, as multiples of the mean eigenvalue of the student's train covariance.
PENALTIES: Vector = np.logspace(-10, 4, 57)
# Effective degrees of freedom per train sample, at most: as they approach N the criterion divides
# a residual near 0 by a number near 0, and picks penalties at random.
FREEDOM = 0.9


@dataclass(frozen=True)
class Retained:
    """Of each teacher component (K,), largest variance first: variance, R^2, chosen penalty."""

    variance_K: Vector
    r2_K: Vector
    penalty_K: Vector

    @property
    def kept_K(self) -> Vector:
        """lambda_j R^2_j with R^2 clipped to [0, 1]: predictions worse than the mean retain 0."""
        return self.variance_K * np.clip(self.r2_K, 0.0, 1.0)


def retained_variance(train: Moments, test: Moments, width: int) -> Retained:
    """Ridge regression from a student (the first `width` columns) to its teacher's components.

    `train`, `test`: joint moments of student and teacher columns. The components are those of the
    teacher on test. Each has a penalty of its own, chosen by generalised cross-validation on train
    (Golub, Heath & Wahba, Technometrics 1979), and is fitted on train;

        R^2 = 1 - squared error / squared deviation from the test mean,     on test.

    1 is best, 0 no better than the mean, negative worse. Everything is computed from the moments,
    so the cost does not depend on N.
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
    second_DK: Matrix = test.m2_DD[:width, :width] @ slopes_DK
    gap_M = test.mean_D - train.mean_D
    offset_K: Vector = gap_M[width:] @ basis_EK - gap_M[:width] @ slopes_DK
    total_K = variance_K * test.count
    # The sum over test of (target - prediction)^2, both centred by the means of train: a part about
    # the means of test, and the squared difference of the two means.
    error_K = total_K + (slopes_DK * (second_DK - 2 * cross_DK)).sum(axis=0)
    error_K = np.maximum(error_K, 0.0) + test.count * offset_K**2
    return Retained(variance_K, 1 - error_K / total_K, penalty_K)


def _ridge(train: Moments, width: int, basis_EK: Matrix) -> tuple[Matrix, Vector]:
    """Slopes (D, K) and the relative penalty of each component, by generalised cross-validation.

    With the eigenvalues of the student's second moment, residuals and degrees of freedom of all
    penalties follow from one decomposition. Suffix A: penalties.
    """
    count = train.count
    eigen = np.linalg.eigh(train.m2_DD[:width, :width])
    values_D: Vector = np.maximum(eigen[0], 0.0)
    vectors_DD: Matrix = eigen[1]
    cross_DK: Matrix = vectors_DD.T @ (train.m2_DD[:width, width:] @ basis_EK)
    spread_K: Vector = np.einsum("ek,ek->k", basis_EK, train.m2_DD[width:, width:] @ basis_EK)
    mean = float(values_D.mean())
    if mean <= EPS * train.count * train.square:  # a student that does not vary predicts nothing
        return np.zeros_like(cross_DK), np.repeat(PENALTIES[-1:], len(spread_K))
    ridge_A1 = PENALTIES[:, None] * mean
    freedom_A = (values_D / (values_D + ridge_A1)).sum(axis=1) + 1  # 1 for the intercept
    explained_AD = (values_D + 2 * ridge_A1) / (values_D + ridge_A1) ** 2
    residual_AK = np.maximum(spread_K - explained_AD @ cross_DK**2, EPS * spread_K)
    score_AK = residual_AK / (1 - np.minimum(freedom_A, count - 0.5) / count)[:, None] ** 2
    allowed_A = freedom_A <= max(FREEDOM * count, float(freedom_A.min()))
    score_AK[~allowed_A] = np.inf
    best_K = np.argmin(score_AK, axis=0)
    penalty_K: Vector = PENALTIES[best_K]
    slopes_DK: Matrix = vectors_DD @ (cross_DK / (values_D[:, None] + penalty_K * mean))
    return slopes_DK, penalty_K
