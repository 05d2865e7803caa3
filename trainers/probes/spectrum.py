"""How many dimensions an embedding space uses.

Each measure takes the eigenvalues of the centred covariance, so adding a constant to all
embeddings, rotating or repeating them changes nothing. All depend on N: compare equal N only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from shards.measures.moments import EPS, Matrix, Moments, Rows, Vector, blocks, wide
from shards.measures.similarity import debiased_cka, mean_cosine, subspace_alignment
from trainers.probes.features import FeatureBank

# Eigenvalues of a Gram matrix below this share of the largest have lost half of their digits.
LOST = 1e-8
FIRST, LAST = 4, 100  # the ranks that alpha is fitted to
SUBSPACES = (1, 10, 20, 50, 100)


# ---- eigenvalues ----


def centred_eigenvalues(x_ND: Rows, moments: Moments | None = None) -> Vector:
    """Eigenvalues of the centred covariance (1/N), float64 (D,), descending, none negative.

    As exact as the squared singular values of the centred rows: what a covariance has lost, below
    1e-8 of the largest, is had from a second pass over the rows. What is below the precision of
    float64 is 0. `moments`: those of x_ND, where they are known already.
    Raises: ValueError for fewer than 2 samples or values that are not finite.
    """
    if len(x_ND.shape) != 2 or len(x_ND) < 2:
        raise ValueError(
            f"a spectrum needs at least 2 samples in rows; got shape {tuple(x_ND.shape)}"
        )
    state = moments or Moments.of(x_ND)
    return _squares(x_ND, state.mean_D, state.m2_DD, state.noise) / len(x_ND)


def uncentred_eigenvalues(x_ND: Rows, moments: Moments | None = None) -> Vector:
    """The same of the second moment about 0: squared singular values of the rows, over N."""
    state = moments or Moments.of(x_ND)
    zero_D = np.zeros_like(state.mean_D)
    return _squares(x_ND, zero_D, state.uncentred_DD, state.noise) / len(x_ND)


def _squares(x_ND: Rows, centre_D: Vector, gram_DD: Matrix, noise: float) -> Vector:
    """Squared singular values of x - centre, (D,), descending; those up to noise^2 are 0.

    A Gram matrix holds its eigenvalues up to eps of the largest, so the singular values only up to
    sqrt(eps). What the rows have in the space of the small ones is therefore taken apart, and its
    own Gram matrix holds them up to eps of the largest among them.
    """
    count, width = x_ND.shape
    if count <= width:
        values_D = np.zeros(width)
        values_D[:count] = np.linalg.svd(wide(x_ND) - centre_D, compute_uv=False) ** 2
    else:
        values_D = np.linalg.eigvalsh(gram_DD)
        lost = int((values_D < LOST * values_D[-1]).sum())
        if lost:
            values_D[:lost] = _small_squares(x_ND, centre_D, gram_DD, lost, noise)
        values_D = np.sort(values_D)[::-1]
    return np.where(values_D > noise**2, values_D, 0.0)


def _small_squares(
    x_ND: Rows, centre_D: Vector, gram_DD: Matrix, lost: int, noise: float
) -> Vector:
    """The `lost` smallest squared singular values, ascending: of the rows in that space.

    By projecting on it, or, where it is most of the whole, by subtracting what lies outside it.
    Blocks that together hold no more than noise^2 could change nothing and are passed over.
    """
    basis_DD: Matrix = np.linalg.eigh(gram_DD)[1]
    small_DK, large_DK = basis_DD[:, :lost], basis_DD[:, lost:]
    subtract = lost > 0.74 * len(basis_DD)  # where both take equally many operations
    size = len(basis_DD) if subtract else lost
    apart = np.zeros((size, size))
    for rows_BD in blocks(x_ND):
        part: Matrix = rows_BD - centre_D
        if subtract:
            part -= (part @ large_DK) @ large_DK.T
        else:
            part = part @ small_DK
        if float(np.vdot(part, part)) > noise**2 * len(part) / len(x_ND):
            apart += part.T @ part
    return np.linalg.eigvalsh(apart)[-lost:].astype(np.float64)


# ---- measures of eigenvalues ----


def _shares(values_D: Vector) -> Vector:
    total = values_D.sum()
    return values_D / total if total > 0 else np.zeros_like(values_D)


def _exp_entropy(p_D: Vector) -> float:
    """exp(-sum p ln p) with 0 ln 0 = 0; 0 when nothing varies."""
    positive = p_D[p_D > 0]
    return float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0


def rank_of(values_D: Vector) -> float:
    """Effective rank exp H(p), p = lambda / sum lambda; arXiv 2603.06698, eq. 2.

    In [1, min(N - 1, D)], 0 where nothing varies.
    """
    return _exp_entropy(_shares(values_D))


def effective_rank(x_ND: Rows) -> float:
    """`rank_of` the centred eigenvalues of rows."""
    return rank_of(centred_eigenvalues(x_ND))


def paper_rank(values_D: Vector) -> float:
    """exp(-sum p ln(p + 1e-10)) over all D: the same as the paper's code has it."""
    p_D = _shares(values_D)
    return float(np.exp(-(p_D * np.log(p_D + 1e-10)).sum())) if p_D.any() else 0.0


def roy_vetterli_rank(values_D: Vector) -> float:
    """exp H(p), p = s / sum s with s = sqrt(lambda). Roy & Vetterli, EUSIPCO 2007."""
    return _exp_entropy(_shares(np.sqrt(values_D)))


def rankme(x_ND: Rows, moments: Moments | None = None) -> float:
    """exp H(p), p = s / sum s + 1e-7, s the singular values of the UNCENTRED matrix.

    0 when all are zero. Garrido et al., ICML 2023. Not the same for shifted embeddings.
    """
    s_K: Vector = np.sqrt(uncentred_eigenvalues(x_ND, moments))[: min(x_ND.shape)]
    if not s_K.any():
        return 0.0
    p_K = s_K / s_K.sum() + 1e-7
    return float(np.exp(-(p_K * np.log(p_K)).sum()))


def participation_ratio(values_D: Vector) -> float:
    """tr(C)^2 / tr(C^2), in [1, D]; 0 when nothing varies."""
    square = float((_shares(values_D) ** 2).sum())
    return 1 / square if square > 0 else 0.0


def alpha(values_D: Vector, floor: float = 0.0) -> tuple[float, float]:
    """Minus the slope of ln lambda on ln rank, ranks 4 to 100, and its R^2; alpha-ReQ, 2022.

    Least squares with weights 1 / rank. (NaN, NaN) where eigenvalue 100 does not exist or is not
    above `floor`, the variance that the embeddings' own precision may have made. 1 is the decay
    of natural scenes in visual cortex; higher: faster decay, fewer dimensions.
    """
    if len(values_D) < LAST or not values_D[LAST - 1] > floor:
        return float("nan"), float("nan")
    rank_K: Vector = np.arange(FIRST, LAST + 1, dtype=np.float64)
    weight_K = 1 / rank_K
    x_K: Vector = np.log(rank_K)
    y_K: Vector = np.log(values_D[FIRST - 1 : LAST])
    x_K = x_K - np.average(x_K, weights=weight_K)
    y_K = y_K - np.average(y_K, weights=weight_K)
    slope = float((weight_K * x_K * y_K).sum() / (weight_K * x_K**2).sum())
    left = float((weight_K * (y_K - slope * x_K) ** 2).sum())
    total = float((weight_K * y_K**2).sum())
    return -slope, 1 - left / total if total > 0 else float("nan")


def cumulative(values_D: Vector) -> Vector:
    """Share of the variance in the first k components, k = 1 to D."""
    return np.cumsum(_shares(values_D))


def dims_for(values_D: Vector, share: float) -> int:
    """The smallest k whose leading eigenvalues hold `share` of the variance; 0 without any."""
    cumulative_D = cumulative(values_D)
    if cumulative_D[-1] == 0:
        return 0
    return int(np.searchsorted(cumulative_D, share - 1e-12) + 1)


RANKS: dict[str, Callable[[Vector], float]] = {
    "effective": rank_of,
    "roy_vetterli": roy_vetterli_rank,
    "participation": participation_ratio,
}


def within_classes(x_ND: Rows, labels_N: NDArray[np.int64]) -> tuple[dict[str, float], float]:
    """Mean over classes of each of RANKS, and the share of variance that lies inside classes.

    Classes of one sample have no spectrum and are left out of the ranks; NaN where no class has
    two. Classes have fewer samples than the whole: compare with the same N a class only.
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


# ---- the probe ----


def spectrum(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """Ranks of the clean test embeddings, their spectrum, and how they lie to the teacher's."""
    state = Moments.of(bank.test_ND)
    values_D = centred_eigenvalues(bank.test_ND, state)
    for name, measure in RANKS.items():
        yield f"rank/{name}", measure(values_D)
    yield "rank/paper/effective", paper_rank(values_D)
    yield "rank/rankme", rankme(bank.test_ND, state)
    # Unit rows in float32: rounding spreads a variance of about eps^2 over D directions.
    floor = float(np.finfo(np.float32).eps) ** 2 * state.square / len(values_D)
    slope, fit = alpha(values_D, max(floor, EPS * float(values_D[0])))
    yield "rank/alpha", slope
    yield "rank/alpha/r2", fit
    yield "rank/n", float(state.count)
    for percent in (90, 95, 99):
        yield f"dims/{percent}", float(dims_for(values_D, percent / 100))
    yield "variance", state.variance
    yield "spectrum", _shares(values_D).tolist()
    yield "spectrum/cumulative", cumulative(values_D).tolist()
    ranks, share = within_classes(bank.test_ND, bank.test_labels_N)
    for name, rank in ranks.items():
        yield f"rank/within_class/{name}", rank
    yield "variance/within_class", share
    yield from _beside_teacher(bank)
    yield from _penultimate(bank)


def _beside_teacher(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """What needs both; undefined (NaN) where the two spaces differ in width, but for CKA."""
    both = Moments.of(bank.test_ND, bank.teacher_ND)
    width = bank.test_ND.shape[1]
    yield "cka/debiased", debiased_cka(bank.test_ND, bank.teacher_ND, both)
    yield "cosine_to_teacher", mean_cosine(bank.test_ND, bank.teacher_ND)
    inside_K = subspace_alignment(both.part(0, width), both.part(width, len(both.mean_D)))
    yield "subspace", inside_K.tolist()
    for k in SUBSPACES:
        if k <= len(inside_K):
            yield f"subspace/{k}", float(inside_K[k - 1])


def _penultimate(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """The same ranks of what the last linear layer takes, where the subject has one."""
    raw_NF = bank.subject.penultimate("test")
    if raw_NF is None:
        return
    values_F = centred_eigenvalues(raw_NF)
    for name, measure in RANKS.items():
        yield f"rank/penultimate/{name}", measure(values_F)
