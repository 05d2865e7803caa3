"""How much of the teacher can be told from the student, and how embeddings spread."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trainers.probes.features import FeatureBank, Floats

BATCH, TEMPERATURE = 64, 0.1
CHUNK = 1024
Matrix = NDArray[np.float64]


def _logsumexp(logits_BN: Matrix) -> Matrix:
    """log sum_j exp(logit_ij), float64 (B,), without overflow."""
    top_B1 = logits_BN.max(axis=1, keepdims=True)
    return np.log(np.exp(logits_BN - top_B1).sum(axis=1)) + top_B1[:, 0]


def batch_infonce(x_BD: Floats, y_BD: Floats, temperature: float = TEMPERATURE) -> float:
    """mean_i [logsumexp_j(x_i y_j / t) - x_i y_i / t], nats, in [0, inf); ln B = nothing told."""
    x_wide, y_wide = x_BD.astype(np.float64), y_BD.astype(np.float64)
    logits_BB: Matrix = x_wide @ y_wide.T / temperature
    return float(np.mean(_logsumexp(logits_BB) - np.diag(logits_BB)))


def paper_infonce(x_ND: Floats, y_ND: Floats) -> float:
    """Mean over consecutive batches of 64, the last short one with equal weight (the paper's)."""
    starts = range(0, len(x_ND), BATCH)
    return float(np.mean([batch_infonce(x_ND[i : i + BATCH], y_ND[i : i + BATCH]) for i in starts]))


def full_infonce(x_ND: Floats, y_ND: Floats) -> tuple[float, float]:
    """InfoNCE over all N at once, and retrieval@1 (share whose best y is their own), by chunks."""
    losses: list[NDArray[np.float64]] = []
    hits = 0
    y_wide: Matrix = y_ND.astype(np.float64)
    for start in range(0, len(x_ND), CHUNK):
        x_wide: Matrix = x_ND[start : start + CHUNK].astype(np.float64)
        own = np.arange(start, start + len(x_wide))
        cosine_BN: Matrix = x_wide @ y_wide.T
        positive_B = cosine_BN[np.arange(len(own)), own] / TEMPERATURE
        losses.append(_logsumexp(cosine_BN / TEMPERATURE) - positive_B)
        hits += int((cosine_BN.argmax(axis=1) == own).sum())
    return float(np.mean(np.concatenate(losses))), hits / len(x_ND)


def uniformity(x_ND: Floats) -> float:
    """log mean exp(-2 |x_i - x_j|^2) over distinct pairs; NaN for a single sample.

    In [-8, 0] for unit vectors; lower is more uniform. Wang & Isola, ICML 2020.
    """
    total, count = 0.0, len(x_ND)
    if count < 2:
        return float("nan")
    wide: Matrix = x_ND.astype(np.float64)
    square_N = (wide**2).sum(axis=1)
    for start in range(0, count, CHUNK):
        rows = slice(start, start + CHUNK)
        distance_BN = square_N[rows, None] + square_N[None] - 2 * wide[rows] @ wide.T
        kernel_BN = np.exp(-2 * distance_BN)
        total += float(kernel_BN.sum() - kernel_BN.diagonal(offset=start).sum())
    return float(np.log(total / (count * (count - 1))))


def paper_uniformity(x_ND: Floats) -> float:
    """The paper's: with i = j, within batches of 64, mean of the batches' logarithms."""
    starts = range(0, len(x_ND), BATCH)
    return float(np.mean([uniformity_with_self(x_ND[i : i + BATCH]) for i in starts]))


def uniformity_with_self(x_BD: Floats) -> float:
    """log mean exp(-2 |x_i - x_j|^2) over all pairs, i = j included."""
    wide: Matrix = x_BD.astype(np.float64)
    square_B = (wide**2).sum(axis=1)
    distance_BB = square_B[:, None] + square_B[None] - 2 * wide @ wide.T
    return float(np.log(np.exp(-2 * distance_BB).mean()))


def infonce(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Student against teacher on the clean test images; for the teacher, against itself."""
    x_ND, y_ND = bank.test_ND, bank.teacher_ND
    yield "infonce/paper", paper_infonce(x_ND, y_ND)
    loss, hit = full_infonce(x_ND, y_ND)
    yield "infonce/full", loss
    yield "infonce/bound", float(np.log(len(x_ND))) - loss
    yield "infonce/retrieval1", hit
    difference_ND = x_ND.astype(np.float64) - y_ND
    yield "alignment", float((difference_ND**2).sum(axis=1).mean())
    yield "uniformity", uniformity(x_ND)
    yield "uniformity/paper", paper_uniformity(x_ND)
