"""The share of the teacher's variance that a student retains, and the rank due to shrinkage alone.

A regressor without information about a component of its target predicts the component's mean, so
its output loses rank without any collapse. How much of a lost rank is such shrinkage? The best
linear prediction of the teacher from the student, t^ = B'x, is the output of a student that
regresses to the mean and does nothing else; the effective rank of the covariance of t^ is the null
value that the student's rank is compared with. (The rank of the diagonal lambda_j R^2_j in the
teacher's axes would not do: it is larger wherever the axes of the prediction differ from the
teacher's, 20.6 against 6.9 for a Bayes-optimal student of 8 random projections.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shards.measures.moments import EPS, Matrix, Moments, Rows, Vector
from shards.measures.resampling import LEVEL, jackknife_factors
from shards.measures.similarity import components
from shards.measures.spectrum import centred_eigenvalues, rank_from_eigenvalues

# Penalties tried, as multiples of the mean eigenvalue of the student's train covariance.
PENALTIES: Vector = np.logspace(-10, 4, 57)
# Maximum effective degrees of freedom per train sample: as they approach N, the criterion divides
# a residual near 0 by a number near 0, and the chosen penalty is arbitrary.
FREEDOM = 0.9
# Below this retained share of the teacher's variance, the rank of the prediction is that of noise.
# For comparison, a student that is independent of its teacher retains 0.0002.
LEAST_SHARE = 0.01
# Train samples per student dimension below which the ratio is undefined.
LEAST_SAMPLES = 2


@dataclass(frozen=True)
class Retained:
    """The regression from a student to each of the teacher's K principal components.

    variance_K, r2_K, penalty_K: of each component, largest variance first. slopes_DK: of the ridge
    regression on train. predicted_K: eigenvalues of the covariance of its prediction on test,
    B' Sigma_xx B, largest first.
    """

    variance_K: Vector
    r2_K: Vector
    penalty_K: Vector
    slopes_DK: Matrix
    predicted_K: Vector

    @property
    def kept_K(self) -> Vector:
        """lambda_j R^2_j with R^2 clipped to [0, 1]: predictions worse than the mean retain 0."""
        return self.variance_K * np.clip(self.r2_K, 0.0, 1.0)

    @property
    def share(self) -> float:
        """Share of the teacher's variance that is retained, in [0, 1]; NaN where nothing varies."""
        total = float(self.variance_K.sum())
        return float(self.kept_K.sum()) / total if total > 0 else float("nan")


def retained_variance(train: Moments, test: Moments, width: int) -> Retained:
    """Ridge regression from a student (the first `width` columns) to its teacher's components.

    `train`, `test`: joint moments of student and teacher columns. The components are those of the
    teacher on test. The penalty of each is chosen by generalised cross-validation on train (Golub,
    Heath & Wahba, Technometrics 1979), and the regression is fitted on train;

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
    # One decomposition serves both regressions.
    spectrum = np.linalg.eigh(train.m2_DD[:width, :width])
    slopes_DK, penalty_K = _ridge(train, spectrum, basis_EK)
    cross_DK: Matrix = test.m2_DD[:width, width:] @ basis_EK
    second_DK: Matrix = test.m2_DD[:width, :width] @ slopes_DK
    gap_M = test.mean_D - train.mean_D
    offset_K: Vector = gap_M[width:] @ basis_EK - gap_M[:width] @ slopes_DK
    total_K = variance_K * test.count
    # The sum over test of (target - prediction)^2, both centred by the means of train, is the sum
    # of squares about the means of test plus N times the squared difference of the two means.
    error_K = total_K + (slopes_DK * (second_DK - 2 * cross_DK)).sum(axis=0)
    error_K = np.maximum(error_K, 0.0) + test.count * offset_K**2
    # The prediction whose rank is measured uses the teacher's axes on train: its slopes then do not
    # depend on the test images, and a jackknife over these images varies nothing but the rank.
    train_axes_EK = components(train.part(width, len(train.mean_D)))[1]
    fitted_DK, _ = _ridge(train, spectrum, train_axes_EK)
    predicted_K = predicted_eigenvalues(test.part(0, width), fitted_DK)
    return Retained(variance_K, 1 - error_K / total_K, penalty_K, fitted_DK, predicted_K)


def predicted_eigenvalues(student: Moments, slopes_DK: Matrix) -> Vector:
    """Eigenvalues (K,) of the covariance of the prediction B'x, largest first, none negative.

    K is 0, and there are none, where the teacher does not vary on train.
    """
    covariance_KK = slopes_DK.T @ (student.m2_DD / student.count) @ slopes_DK
    eigenvalues_K = np.linalg.eigvalsh((covariance_KK + covariance_KK.T) / 2)[::-1]
    eigenvalues_K = eigenvalues_K.astype(np.float64)
    return np.where(eigenvalues_K > EPS * eigenvalues_K.max(initial=0.0), eigenvalues_K, 0.0)


@dataclass(frozen=True)
class RankRatio:
    """A student's effective rank over that of its best prediction of the teacher, with an interval.

    ratio: near 1 if the student only shrinks directions that it cannot predict, or drops them
    entirely; well below 1 if it compresses directions that it can still predict (collapse); above 1
    if its embeddings vary in ways that carry no information about the teacher. low, high: 95 %
    interval.
    """

    ratio: float
    low: float
    high: float


UNDEFINED = RankRatio(float("nan"), float("nan"), float("nan"))


def rank_ratio(
    found: Retained, x_ND: Rows, train_count: int, seed: int, level: float = LEVEL
) -> RankRatio:
    """The student's effective rank on test (x_ND), divided by that of its prediction.

    The interval is a delete-d jackknife of the ratio's logarithm over test images, as in
    `resampling.rank_intervals`, for fixed slopes. Undefined (NaN) below LEAST_SHARE of retained
    variance, where the prediction is noise, and below LEAST_SAMPLES train samples per dimension,
    where its estimated covariance is biased upwards.
    """
    if not found.share >= LEAST_SHARE or train_count < LEAST_SAMPLES * x_ND.shape[1]:
        return UNDEFINED

    def log_ratio(moments: Moments) -> float:
        null = rank_from_eigenvalues(predicted_eigenvalues(moments, found.slopes_DK))
        rank = rank_from_eigenvalues(np.maximum(moments.eigenvalues(), 0.0))
        return float(np.log(rank / null)) if rank > 0 and null > 0 else float("nan")

    null = rank_from_eigenvalues(found.predicted_K)
    rank = rank_from_eigenvalues(centred_eigenvalues(x_ND))
    if not (rank > 0 and null > 0):
        return UNDEFINED
    low, high = jackknife_factors(x_ND, seed, log_ratio, level)
    return RankRatio(rank / null, rank / null * low, rank / null * high)


def _ridge(
    train: Moments, spectrum: tuple[Matrix, Matrix], basis_EK: Matrix
) -> tuple[Matrix, Vector]:
    """Slopes (D, K) and the relative penalty of each component, by generalised cross-validation.

    `spectrum`: eigenvalues (D,) and eigenvectors (D, D) of the student's second moment; they give
    the residuals and degrees of freedom of all penalties. Suffix A: penalties.
    """
    count = train.count
    values_D: Vector = np.maximum(spectrum[0], 0.0)
    vectors_DD: Matrix = spectrum[1]
    width = len(values_D)
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
