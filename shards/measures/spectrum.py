"""How many dimensions an embedding space uses, from the eigenvalues of its covariance.

All measures but RankMe use the eigenvalues of the *centred* covariance, so shifting, rotating or
repeating the embeddings changes nothing. They depend on the sample size: N samples span at most
N - 1 centred dimensions, and ranks are biased downwards for small N. Compare ranks of equal N only.

Shapes: N samples, D embedding dimensions, K <= D. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shards.measures.moments import Matrix, Moments, Rows, Vector, blocks, wide

# An eigenvalue of a Gram matrix carries an error of about eps = 2e-16 of the largest eigenvalue, so
# one below this share of the largest has lost half of its digits and is computed again.
IMPRECISE = 1e-8
# The share of small directions at which projecting on them costs as much as subtracting the
# projection on the large ones.
MOSTLY_SMALL = 0.74
ALPHA_FIRST, ALPHA_LAST = 4, 100  # the power law is fitted to these eigenvalues, counted from 1


# ---- eigenvalues ----


def centred_eigenvalues(x_ND: Rows, moments: Moments | None = None) -> Vector:
    """Eigenvalues of the centred covariance C = (1/N) sum_n (x_n - mean)(x_n - mean)^T.

    Returns float64 (D,), descending, none negative. They are as accurate as the squared singular
    values of the centred rows, although no N x D copy is decomposed when N > D: eigenvalues that
    the D x D matrix cannot resolve (below 1e-8 of the largest) are computed in a second pass over
    the rows. Values that float64 rounding alone may have produced are set to 0, by NumPy's
    convention for matrix ranks. `moments`: those of `x_ND`, which saves a pass if available.

    Raises: ValueError for fewer than 2 samples or values that are not finite.
    """
    if len(x_ND.shape) != 2 or len(x_ND) < 2:
        raise ValueError(
            f"a spectrum needs at least 2 samples in rows; got shape {tuple(x_ND.shape)}"
        )
    state = moments or Moments.of(x_ND)
    return _squared_singular_values(x_ND, state.mean_D, state.m2_DD, state.noise) / len(x_ND)


def uncentred_eigenvalues(x_ND: Rows, moments: Moments | None = None) -> Vector:
    """Eigenvalues of the second moment about 0, (1/N) sum_n x_n x_n^T: float64 (D,), descending."""
    state = moments or Moments.of(x_ND)
    zero_D = np.zeros_like(state.mean_D)
    return _squared_singular_values(x_ND, zero_D, state.uncentred_DD, state.noise) / len(x_ND)


def _squared_singular_values(x_ND: Rows, centre_D: Vector, gram_DD: Matrix, noise: float) -> Vector:
    """Squared singular values of x - centre: (D,), descending; those up to noise^2 become 0.

    `gram_DD` is (x - centre)^T (x - centre). It resolves eigenvalues down to eps of the largest,
    and thus singular values only down to sqrt(eps). The rows are therefore projected on the span of
    the small eigenvectors, where a second Gram matrix resolves them down to eps of the largest
    eigenvalue *in that span*.
    """
    count, width = x_ND.shape
    if count <= width:
        values_D = np.zeros(width)
        values_D[:count] = np.linalg.svd(wide(x_ND) - centre_D, compute_uv=False) ** 2
    else:
        values_D = np.linalg.eigvalsh(gram_DD)
        imprecise = int((values_D < IMPRECISE * values_D[-1]).sum())
        if imprecise:
            values_D[:imprecise] = _small_squares(x_ND, centre_D, gram_DD, imprecise, noise)
        values_D = np.sort(values_D)[::-1]
    return np.where(values_D > noise**2, values_D, 0.0)


def _small_squares(
    x_ND: Rows, centre_D: Vector, gram_DD: Matrix, small: int, noise: float
) -> Vector:
    """The `small` smallest squared singular values, ascending, from a second pass over the rows.

    The rows are projected on the span of the smallest eigenvectors; if that span is most of the
    space, it is cheaper to subtract the projection on the others. A block of rows whose component
    in the span is only rounding (noise^2 over all blocks) cannot change a value and is skipped.
    """
    basis_DD: Matrix = np.linalg.eigh(gram_DD)[1]
    small_DK, large_DK = basis_DD[:, :small], basis_DD[:, small:]
    subtract = small > MOSTLY_SMALL * len(basis_DD)
    size = len(basis_DD) if subtract else small
    second_gram = np.zeros((size, size))
    for rows_BD in blocks(x_ND):
        part: Matrix = rows_BD - centre_D
        if subtract:
            part -= (part @ large_DK) @ large_DK.T
        else:
            part = part @ small_DK
        if float(np.vdot(part, part)) > noise**2 * len(part) / len(x_ND):
            second_gram += part.T @ part
    return np.linalg.eigvalsh(second_gram)[-small:].astype(np.float64)


# ---- measures of eigenvalues ----


def variance_shares(values_D: Vector) -> Vector:
    """p = lambda / sum lambda: (D,) in [0, 1] with sum 1; all 0 if nothing varies."""
    total = values_D.sum()
    return values_D / total if total > 0 else np.zeros_like(values_D)


def _exp_entropy(p_D: Vector) -> float:
    """exp(-sum p ln p) with 0 ln 0 = 0; 0 where all of p is 0."""
    positive = p_D[p_D > 0]
    return float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0


def rank_from_eigenvalues(values_D: Vector) -> float:
    """Effective rank exp H(p), H(p) = -sum_d p_d ln p_d, p = lambda / sum lambda.

    `values_D`: eigenvalues of the centred covariance. Unit: dimensions. Range: [1, min(N - 1, D)],
    and 0 where nothing varies. Higher: variance is spread over more dimensions, which is neither
    good nor bad by itself. Source: arXiv 2603.06698, eq. 2.
    """
    return _exp_entropy(variance_shares(values_D))


def effective_rank(x_ND: Rows) -> float:
    """Effective rank of embeddings (N, D): `rank_from_eigenvalues` of their centred covariance."""
    return rank_from_eigenvalues(centred_eigenvalues(x_ND))


def paper_rank(values_D: Vector) -> float:
    """exp(-sum_d p_d ln(p_d + 1e-10)) over all D: effective rank as the paper's code computes it.

    The constant changes about the sixth digit at D = 512, so the value has a separate name. Unit
    and range: as `rank_from_eigenvalues`.
    """
    p_D = variance_shares(values_D)
    return float(np.exp(-(p_D * np.log(p_D + 1e-10)).sum())) if p_D.any() else 0.0


def roy_vetterli_rank(values_D: Vector) -> float:
    """exp H(p), p = s / sum s, with singular values s = sqrt(lambda) in place of eigenvalues.

    Unit: dimensions. Range: [1, min(N - 1, D)], 0 where nothing varies; never below
    `rank_from_eigenvalues`. Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    return _exp_entropy(variance_shares(np.sqrt(values_D)))


def rankme(x_ND: Rows, moments: Moments | None = None) -> float:
    """exp H(p), p = s / sum s + 1e-7, s the singular values of the *uncentred* matrix (N, D).

    Unit: dimensions. Range: about [1, min(N, D)], 0 where all embeddings are 0. Unlike the other
    ranks it changes when a constant is added to all embeddings, and a common mean lowers it.
    Source: Garrido et al., "RankMe", ICML 2023.
    """
    s_K: Vector = np.sqrt(uncentred_eigenvalues(x_ND, moments))[: min(x_ND.shape)]
    if not s_K.any():
        return 0.0
    p_K = s_K / s_K.sum() + 1e-7
    return float(np.exp(-(p_K * np.log(p_K)).sum()))


def participation_ratio(values_D: Vector) -> float:
    """tr(C)^2 / tr(C^2) = (sum lambda)^2 / sum lambda^2.

    Unit: dimensions. Range: [1, min(N - 1, D)], 0 where nothing varies. It gives more weight to the
    largest eigenvalues than the effective rank does and never exceeds it.
    """
    square = float((variance_shares(values_D) ** 2).sum())
    return 1 / square if square > 0 else 0.0


def alpha(values_D: Vector, floor: float = 0.0) -> tuple[float, float]:
    """Decay of the spectrum: minus the slope of ln lambda_k on ln k for k = 4 to 100, and its R^2.

    Least squares with weights 1 / k. (NaN, NaN) if eigenvalue 100 does not exist or does not exceed
    `floor`, the variance that rounding of the stored embeddings may have produced. 1 is the decay
    of responses to natural images in visual cortex; higher: faster decay, fewer dimensions.
    Source: alpha-ReQ, Agrawal et al., NeurIPS 2022.
    """
    if len(values_D) < ALPHA_LAST or not values_D[ALPHA_LAST - 1] > floor:
        return float("nan"), float("nan")
    rank_K: Vector = np.arange(ALPHA_FIRST, ALPHA_LAST + 1, dtype=np.float64)
    weight_K = 1 / rank_K
    x_K: Vector = np.log(rank_K)
    y_K: Vector = np.log(values_D[ALPHA_FIRST - 1 : ALPHA_LAST])
    x_K = x_K - np.average(x_K, weights=weight_K)
    y_K = y_K - np.average(y_K, weights=weight_K)
    slope = float((weight_K * x_K * y_K).sum() / (weight_K * x_K**2).sum())
    residual = float((weight_K * (y_K - slope * x_K) ** 2).sum())
    total = float((weight_K * y_K**2).sum())
    return -slope, 1 - residual / total if total > 0 else float("nan")


def cumulative(values_D: Vector) -> Vector:
    """The share of the variance in the first k components, k = 1 to D: (D,), increasing to 1."""
    return np.cumsum(variance_shares(values_D))


def dims_for(values_D: Vector, share: float) -> int:
    """The smallest k whose first k components have `share` of the variance; 0 without variance."""
    cumulative_D = cumulative(values_D)
    if cumulative_D[-1] == 0:
        return 0
    # Without the tolerance, rounding of the cumulative sum could add a component.
    return int(np.searchsorted(cumulative_D, share - 1e-12) + 1)


# The ranks that are reported for whole test sets, within classes, and with intervals.
RANKS: dict[str, Callable[[Vector], float]] = {
    "effective": rank_from_eigenvalues,
    "roy_vetterli": roy_vetterli_rank,
    "participation": participation_ratio,
}


def within_classes(x_ND: Rows, labels_N: NDArray[np.int64]) -> tuple[dict[str, float], float]:
    """({rank: mean over classes of each of RANKS}, share of the variance within classes).

    The share is sum_n |x_n - mean of its class|^2 / sum_n |x_n - mean|^2, in [0, 1]. Classes with a
    single sample have no spectrum and are left out of the mean ranks, which are NaN if no class has
    two samples. Compare these ranks only between sets with as many samples per class.
    """
    found: list[list[float]] = []
    inside = 0.0
    for label in np.unique(labels_N):
        rows_BD = x_ND[labels_N == label]
        state = Moments.of(rows_BD)
        inside += state.variance * state.count
        if state.count > 1:
            values_D = centred_eigenvalues(rows_BD, state)
            found.append([measure(values_D) for measure in RANKS.values()])
    means = np.mean(found, axis=0) if found else np.full(len(RANKS), np.nan)
    total = Moments.of(x_ND)
    share = inside / (total.variance * total.count) if total.variance > 0 else float("nan")
    return dict(zip(RANKS, (float(mean) for mean in means), strict=True)), share
