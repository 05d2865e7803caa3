"""Contrastive measures: InfoNCE and retrieval of student against teacher, uniformity, alignment.

The temperature of InfoNCE is 0.1 by default. Sums are float64. N x N matrices of all pairs are
computed CHUNK rows at a time and never held as a whole. Embeddings are unit vectors (N, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shards.measures.moments import Matrix, Rows, Vector, wide
from shards.measures.resampling import permutation

BATCH, TEMPERATURE = 64, 0.1
CHUNK = 512
TEMPERATURES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # tried by tuned_temperature
TUNING = 2000  # samples that a temperature is chosen on; more samples hardly change the choice
NAN = float("nan")


def _logsumexp(logits_BN: Matrix, axis: int = 1) -> Vector:
    """ln sum exp(logit) along an axis, without overflow."""
    top: Matrix = logits_BN.max(axis=axis, keepdims=True)
    summed: Vector = np.exp(logits_BN - top).sum(axis=axis)
    return np.log(summed) + top.squeeze(axis)


def _finite(x_ND: Rows) -> Matrix:
    wide_ND = wide(x_ND)
    if wide_ND.ndim != 2 or not len(wide_ND):
        raise ValueError(f"embeddings must be rows (N, D), at least one; got {wide_ND.shape}")
    if not np.isfinite(wide_ND).all():
        raise ValueError("pairs need finite embeddings; got NaN or infinity")
    return wide_ND


def _pairs(x_ND: Rows, y_ND: Rows) -> tuple[Matrix, Matrix]:
    x_wide, y_wide = _finite(x_ND), _finite(y_ND)
    if x_wide.shape != y_wide.shape:
        raise ValueError(
            f"pairs need embeddings of equal shape; got {x_wide.shape} and {y_wide.shape}"
        )
    return x_wide, y_wide


# ---- InfoNCE and retrieval ----


def batch_infonce(x_BD: Rows, y_BD: Rows, temperature: float = TEMPERATURE) -> float:
    """InfoNCE of one batch: mean_i [ln sum_j exp(x_i . y_j / t) - x_i . y_i / t].

    Unit: nats. Range: [0, inf); lower is better; about ln B where x carries no information about y.
    Swap the arguments for the other direction.
    Raises: ValueError for different shapes, no sample, or values that are not finite.
    Source: van den Oord et al., arXiv 1807.03748.
    """
    x_wide, y_wide = _pairs(x_BD, y_BD)
    logits_BB: Matrix = x_wide @ y_wide.T / temperature
    return float(np.mean(_logsumexp(logits_BB) - np.diag(logits_BB)))


def paper_infonce(x_ND: Rows, y_ND: Rows) -> float:
    """InfoNCE as in arXiv 2603.06698: mean of `batch_infonce` over consecutive batches of 64.

    The last short batch has the same weight as the others, as in the paper's code.
    """
    starts = range(0, len(x_ND), BATCH)
    return float(np.mean([batch_infonce(x_ND[i : i + BATCH], y_ND[i : i + BATCH]) for i in starts]))


def paper_log_batch(count: int) -> float:
    """Mean of ln B over the batches of `paper_infonce`: its value for unrelated embeddings."""
    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    return float(np.mean(np.log(sizes)))


@dataclass(frozen=True)
class Contrast:
    """InfoNCE in nats (lower is better) and retrieval@1 in [0, 1] (higher is better) over all N.

    loss, hits: from x to y, where each x_i is compared with all y_j. reverse_loss, reverse_hits:
    from y to x.
    """

    loss: float
    reverse_loss: float
    hits: float
    reverse_hits: float


def full_infonce(x_ND: Rows, y_ND: Rows, temperature: float = TEMPERATURE) -> Contrast:
    """InfoNCE with all N samples in one batch, and how often the nearest y_j of x_i is y_i.

    Both directions are computed in one pass over chunks of rows: the sums over columns are updated
    as a running maximum and a running sum of exponentials. Ties go to the first sample.
    Raises: as `batch_infonce`.
    """
    x_wide, y_wide = _pairs(x_ND, y_ND)
    count = len(x_wide)
    positive_N, loss, hits = np.zeros(count), 0.0, 0
    top_N, summed_N = np.full(count, -np.inf), np.zeros(count)
    best_N = np.zeros(count, dtype=np.int64)
    for start in range(0, count, CHUNK):
        logits_BN: Matrix = x_wide[start : start + CHUNK] @ y_wide.T / temperature
        rows_B = np.arange(start, start + len(logits_BN))
        positive_N[rows_B] = logits_BN[rows_B - start, rows_B]
        loss += float((_logsumexp(logits_BN) - positive_N[rows_B]).sum())
        hits += int((logits_BN.argmax(axis=1) == rows_B).sum())
        highest_N: Vector = logits_BN.max(axis=0)
        best_N = np.where(highest_N > top_N, start + logits_BN.argmax(axis=0), best_N)
        higher_N = np.maximum(highest_N, top_N)
        summed_N = summed_N * np.exp(top_N - higher_N)
        summed_N += np.exp(logits_BN - higher_N).sum(axis=0)
        top_N = higher_N
    reverse = float((np.log(summed_N) + top_N - positive_N).mean())
    reverse_hits = float((best_N == np.arange(count)).mean())
    return Contrast(loss / count, reverse, hits / count, reverse_hits)


def losses_by_temperature(x_ND: Rows, y_ND: Rows, temperatures: Sequence[float]) -> Vector:
    """InfoNCE from x to y with all N samples in one batch, at each of T temperatures: nats (T,)."""
    x_wide, y_wide = _pairs(x_ND, y_ND)
    summed_T = np.zeros(len(temperatures))
    for start in range(0, len(x_wide), CHUNK):
        cosine_BN: Matrix = x_wide[start : start + CHUNK] @ y_wide.T
        positive_B = cosine_BN[np.arange(len(cosine_BN)), start + np.arange(len(cosine_BN))]
        for i, temperature in enumerate(temperatures):
            logits_BN = cosine_BN / temperature
            summed_T[i] += float((_logsumexp(logits_BN) - positive_B / temperature).sum())
    return summed_T / len(x_wide)


def tuned_temperature(x_ND: Rows, y_ND: Rows, seed: int) -> float:
    """The temperature of TEMPERATURES at which InfoNCE is lowest, on at most TUNING samples.

    At a fixed temperature, the bound on mutual information mostly measures how narrow the cone is
    in which the embeddings lie: at 0.1, a perfect student whose embeddings have a mean cosine of 0,
    0.5, 0.8 and 0.9 reaches 7.4, 4.6, 1.9 and 0.9 of 7.6 nats. Pass train embeddings: a temperature
    chosen on test images would make the bound too high.
    """
    chosen = permutation(len(x_ND), seed)[:TUNING]
    losses_T = losses_by_temperature(x_ND[chosen], y_ND[chosen], TEMPERATURES)
    return TEMPERATURES[int(np.argmin(losses_T))]


def centred_retrieval(x_ND: Rows, y_ND: Rows, x_mean_D: Vector, y_mean_D: Vector) -> float:
    """Retrieval@1 by the cosine of centred embeddings: how often the nearest y_j of x_i is y_i.

    In [0, 1], higher is better. Subtracting the means, which should be those of train, makes the
    result independent of the width of the cone.
    """
    return full_infonce(_about(x_ND, x_mean_D), _about(y_ND, y_mean_D)).hits


def _about(x_ND: Rows, mean_D: Vector) -> Matrix:
    """Rows minus a mean, divided by their norm; a row that equals the mean stays 0."""
    off_ND = wide(x_ND) - mean_D
    norm_N1 = np.linalg.norm(off_ND, axis=1, keepdims=True)
    return off_ND / np.where(norm_N1 > 0, norm_N1, 1)


# ---- uniformity and alignment ----


def uniformities(x_ND: Rows) -> tuple[float, float]:
    """(`uniformity`, `uniformity_with_self`), computed in one pass over the pairs."""
    x_wide = _finite(x_ND)
    total, count = 0.0, len(x_wide)
    square_N: Vector = (x_wide**2).sum(axis=1)
    # The kernel is symmetric, so each chunk is compared with itself and with the rows that follow
    # it, and the latter part counts twice.
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        inner_BN: Matrix = x_wide[start:stop] @ x_wide[start:].T
        distance_BN = square_N[start:stop, None] + square_N[start:] - 2 * inner_BN
        kernel_BN: Matrix = np.exp(-2 * np.maximum(distance_BN, 0.0))
        size = stop - start
        among = float(kernel_BN[:, :size].sum()) - float(np.trace(kernel_BN))
        total += among + 2 * float(kernel_BN[:, size:].sum())
    distinct = total / (count * (count - 1)) if count > 1 else NAN
    both = np.array([distinct, (total + count) / count**2])
    with np.errstate(divide="ignore"):  # the kernel underflows for distant rows: ln 0 is -inf
        without, with_self = np.log(both)
    return float(without), float(with_self)


def uniformity(x_ND: Rows) -> float:
    """ln mean_{i != j} exp(-2 |x_i - x_j|^2) over distinct pairs; NaN for a single sample.

    Range: [-8, 0] for unit vectors; lower is more uniform on the sphere. Source: Wang & Isola,
    "Understanding contrastive representation learning", ICML 2020.
    """
    return uniformities(x_ND)[0]


def uniformity_with_self(x_ND: Rows) -> float:
    """`uniformity` over all pairs including i = j, whose terms bound it from below by -ln N."""
    return uniformities(x_ND)[1]


def paper_uniformity(x_ND: Rows) -> float:
    """Uniformity as in arXiv 2603.06698: mean of `uniformity_with_self` over batches of 64.

    The pairs i = j dominate it: with 64 samples it cannot fall below -ln 64 = -4.2.
    """
    starts = range(0, len(x_ND), BATCH)
    return float(np.mean([uniformity_with_self(x_ND[i : i + BATCH]) for i in starts]))


def paper_uniformity_distinct(x_ND: Rows) -> float:
    """`paper_uniformity` without the pairs i = j; NaN for a single sample.

    A last batch of one sample has no other pairs and is skipped.
    """
    batches = [x_ND[start : start + BATCH] for start in range(0, len(x_ND), BATCH)]
    values = [uniformity(x_BD) for x_BD in batches if len(x_BD) > 1]
    return float(np.mean(values)) if values else NAN


def alignment(x_ND: Rows, y_ND: Rows) -> float:
    """mean_i |x_i - y_i|^2: for unit vectors 2 - 2 cos, in [0, 4]; lower is closer.

    Source: Wang & Isola, ICML 2020.
    """
    x_wide, y_wide = _pairs(x_ND, y_ND)
    return float(((x_wide - y_wide) ** 2).sum(axis=1).mean())
