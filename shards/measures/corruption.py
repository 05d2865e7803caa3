"""Figures of embeddings under corruption: what is measured, and how a manifest holds a teacher's.

Students are measured by the same function (`trainers.probes.robustness`), so a teacher's figures
and a student's have the same names and the same meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from shards.support.schema import StrictModel

Rows = NDArray[np.float32]
Figures = dict[str, float]
NAMES = ("accuracy", "accuracy_sd", "cosine", "rank")


def effective_rank(x_ND: NDArray[np.floating]) -> float:
    """exp H(p), p = lambda / sum lambda, of the centred covariance; arXiv 2603.06698, eq. 2.

    In [1, min(N - 1, D)]; 0 where nothing varies. What float64 cannot tell from 0 is 0.
    """
    wide_ND = x_ND.astype(np.float64)
    wide_ND -= wide_ND.mean(axis=0)
    count, width = wide_ND.shape
    gram = wide_ND @ wide_ND.T if count < width else wide_ND.T @ wide_ND
    values = np.linalg.eigvalsh(gram)
    values = values[values > np.finfo(np.float64).eps * max(count, width) * np.square(x_ND).sum()]
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(values) else 0.0


def mean_cosine(x_ND: Rows, y_ND: Rows) -> float:
    """Mean inner product of unit vectors of the same samples, in [-1, 1]."""
    return float(np.einsum("nd,nd->n", x_ND.astype(np.float64), y_ND.astype(np.float64)).mean())


@dataclass(frozen=True)
class Draw:
    """One view of every test image under a corruption, against the clean ones."""

    accuracy: float
    cosine: float
    rank: float


def measure_draw(
    x_ND: Rows,
    clean_ND: Rows,
    accuracy: Callable[[Rows], float],
    rank: Callable[[Rows], float] = effective_rank,
) -> Draw:
    return Draw(accuracy(x_ND), mean_cosine(x_ND, clean_ND), rank(x_ND))


def figures_of(draws: Sequence[Draw]) -> Figures:
    """What becomes of clean embeddings under one corruption, averaged over its draws.

    accuracy: of the clean-fitted probe, in [0, 1]; accuracy_sd: its standard deviation over draws
    (ddof = 1), left out for one draw; cosine: to the clean embedding of the same image; rank:
    effective rank of the corrupted embeddings.
    """
    mean = {
        name: float(np.mean([getattr(draw, name) for draw in draws]))
        for name in ("accuracy", "cosine", "rank")
    }
    if len(draws) > 1:
        mean["accuracy_sd"] = float(np.std([draw.accuracy for draw in draws], ddof=1))
    return mean


class TeacherRobustness(StrictModel):
    """Figures of the teachers under corruption, in the order of the bank's teachers.

    teachers: {arm: {figure: value}} of each; clean: accuracy of each on clean test images.
    """

    draws: int = Field(ge=1)
    clean: tuple[float, ...]
    teachers: tuple[dict[str, Figures], ...]

    @field_validator("teachers")
    @classmethod
    def _plain(cls, teachers: tuple[dict[str, Figures], ...]) -> tuple[dict[str, Figures], ...]:
        for found in teachers:
            for arm, figures in found.items():
                unknown = set(figures) - set(NAMES)
                if unknown or not all(map(math.isfinite, figures.values())):
                    raise ValueError(f"figures of arm `{arm}` are not {', '.join(NAMES)}, finite")
                if not 0 <= figures.get("accuracy", 0) <= 1 or abs(figures.get("cosine", 0)) > 1.01:
                    raise ValueError(f"figures of arm `{arm}` are out of range: {figures}")
        return teachers

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.teachers[0]) if self.teachers else ()
