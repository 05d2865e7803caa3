"""How much of the teacher can be told from the student, and how embeddings spread.

Every InfoNCE here has temperature 0.1. Sums are float64; N x N matrices are made CHUNK rows at a
time. For the teacher, asked about itself, the values are the reference that a perfect student
would reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards.measures.moments import Matrix, Rows, Vector, wide
from trainers.probes.features import FeatureBank

BATCH, TEMPERATURE = 64, 0.1
CHUNK = 512
NAN = float("nan")


def _logsumexp(logits_BN: Matrix, axis: int = 1) -> Vector:
    """log sum exp(logit) along an axis, float64, without overflow."""
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
    """mean_i [logsumexp_j(x_i y_j / t) - x_i y_i / t], nats, in [0, inf); ln B = nothing told.

    van den Oord et al., 2018. Swap the arguments for the other direction.
    """
    x_wide, y_wide = _pairs(x_BD, y_BD)
    logits_BB: Matrix = x_wide @ y_wide.T / temperature
    return float(np.mean(_logsumexp(logits_BB) - np.diag(logits_BB)))


def paper_infonce(x_ND: Rows, y_ND: Rows) -> float:
    """Mean over consecutive batches of 64, the last short one with equal weight (the paper's)."""
    starts = range(0, len(x_ND), BATCH)
    return float(np.mean([batch_infonce(x_ND[i : i + BATCH], y_ND[i : i + BATCH]) for i in starts]))


def paper_log_batch(count: int) -> float:
    """Mean of ln(batch) over the same batches: what `paper_infonce` of unrelated sets is near."""
    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    return float(np.mean(np.log(sizes)))


@dataclass(frozen=True)
class Contrast:
    """InfoNCE (nats) and retrieval@1 over all N, from x to y, and from y to x."""

    loss: float
    reverse_loss: float
    hits: float
    reverse_hits: float


def full_infonce(x_ND: Rows, y_ND: Rows, temperature: float = TEMPERATURE) -> Contrast:
    """Over all N at once, in one pass over chunks of rows; retrieval takes the first of equals."""
    x_wide, y_wide = _pairs(x_ND, y_ND)
    count = len(x_wide)
    own_N, loss, hits = np.zeros(count), 0.0, 0
    top_N, summed_N = np.full(count, -np.inf), np.zeros(count)
    best_N = np.zeros(count, dtype=np.int64)
    for start in range(0, count, CHUNK):
        logits_BN: Matrix = x_wide[start : start + CHUNK] @ y_wide.T / temperature
        own = np.arange(start, start + len(logits_BN))
        own_N[own] = logits_BN[own - start, own]
        loss += float((_logsumexp(logits_BN) - own_N[own]).sum())
        hits += int((logits_BN.argmax(axis=1) == own).sum())
        highest_N: Vector = logits_BN.max(axis=0)
        best_N = np.where(highest_N > top_N, start + logits_BN.argmax(axis=0), best_N)
        higher_N = np.maximum(highest_N, top_N)
        summed_N = summed_N * np.exp(top_N - higher_N)
        summed_N += np.exp(logits_BN - higher_N).sum(axis=0)
        top_N = higher_N
    reverse = float((np.log(summed_N) + top_N - own_N).mean())
    reverse_hits = float((best_N == np.arange(count)).mean())
    return Contrast(loss / count, reverse, hits / count, reverse_hits)


# ---- how embeddings spread ----


def _kernels(x_ND: Rows) -> tuple[float, int]:
    """sum over i != j of exp(-2 |x_i - x_j|^2), and N."""
    x_wide = _finite(x_ND)
    total, count = 0.0, len(x_wide)
    square_N: Vector = (x_wide**2).sum(axis=1)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        left_BN: Matrix = x_wide[start:stop] @ x_wide[start:].T
        distance_BN = square_N[start:stop, None] + square_N[start:] - 2 * left_BN
        kernel_BN: Matrix = np.exp(-2 * np.maximum(distance_BN, 0.0))
        size = stop - start
        inner = float(kernel_BN[:, :size].sum()) - float(np.trace(kernel_BN))
        total += inner + 2 * float(kernel_BN[:, size:].sum())
    return total, count


def _spread(total: float, count: int) -> tuple[float, float]:
    """Uniformity without and with i = j of a sum of kernels."""
    distinct = total / (count * (count - 1)) if count > 1 else NAN
    both = np.array([distinct, (total + count) / count**2])
    with np.errstate(divide="ignore"):  # so far apart that nothing is left: -inf
        without, with_self = np.log(both)
    return float(without), float(with_self)


def uniformity(x_ND: Rows) -> float:
    """log mean exp(-2 |x_i - x_j|^2) over distinct pairs; NaN for a single sample.

    In [-8, 0] for unit vectors; lower is more uniform. Wang & Isola, ICML 2020.
    """
    return _spread(*_kernels(x_ND))[0]


def uniformity_with_self(x_ND: Rows) -> float:
    """log mean exp(-2 |x_i - x_j|^2) over all pairs, i = j included: at least -ln N."""
    return _spread(*_kernels(x_ND))[1]


def paper_uniformity(x_ND: Rows) -> float:
    """The paper's: with i = j, within batches of 64, mean of the batches' logarithms."""
    starts = range(0, len(x_ND), BATCH)
    return float(np.mean([uniformity_with_self(x_ND[i : i + BATCH]) for i in starts]))


def paper_uniformity_distinct(x_ND: Rows) -> float:
    """The same without i = j; a last batch of a single sample has no pair and is left out."""
    batches = [x_ND[start : start + BATCH] for start in range(0, len(x_ND), BATCH)]
    values = [uniformity(x_BD) for x_BD in batches if len(x_BD) > 1]
    return float(np.mean(values)) if values else NAN


def alignment(x_ND: Rows, y_ND: Rows) -> float:
    """Mean |x_i - y_i|^2, in [0, 4] for unit vectors, where it is 2 - 2 cos; lower is closer."""
    x_wide, y_wide = _pairs(x_ND, y_ND)
    return float(((x_wide - y_wide) ** 2).sum(axis=1).mean())


# ---- the probe ----


def infonce(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Student against teacher on the clean test images; for the teacher, against itself."""
    x_ND, y_ND = bank.test_ND, bank.teacher_ND
    without, with_self = _spread(*_kernels(x_ND))
    yield "uniformity", without
    yield "uniformity/with_self", with_self
    yield "uniformity/paper", paper_uniformity(x_ND)
    yield "uniformity/paper/distinct", paper_uniformity_distinct(x_ND)
    if x_ND.shape != y_ND.shape:  # no pair can be compared
        for name in ("infonce/paper", "infonce/full", "infonce/retrieval1", "alignment"):
            yield name, NAN
        return
    yield "alignment", alignment(x_ND, y_ND)
    there, back = paper_infonce(x_ND, y_ND), paper_infonce(y_ND, x_ND)
    nothing = paper_log_batch(len(x_ND))
    yield "infonce/paper", there
    yield "infonce/paper/reverse", back
    yield "infonce/paper/bound", nothing - there
    yield "infonce/paper/bound/reverse", nothing - back
    full = full_infonce(x_ND, y_ND)
    yield "infonce/full", full.loss
    yield "infonce/full/reverse", full.reverse_loss
    yield "infonce/bound", float(np.log(len(x_ND))) - full.loss
    yield "infonce/bound/reverse", float(np.log(len(x_ND))) - full.reverse_loss
    yield "infonce/retrieval1", full.hits
    yield "infonce/retrieval1/reverse", full.reverse_hits
