"""Robustness of embeddings to corruptions of the images, in four figures.

Teachers are measured when a bank is built and students by the robustness probe, both with these
functions, so their figures have the same names and can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.measures.similarity import mean_cosine
from shards.measures.spectrum import effective_rank

Embeddings = NDArray[np.float32]
Figures = dict[str, float]
NAMES = ("accuracy", "accuracy_sd", "cosine", "rank")


@dataclass(frozen=True)
class Draw:
    """Figures of one random draw of a corruption of all test images; see `figures_of`."""

    accuracy: float
    cosine: float
    rank: float


def measure_draw(
    x_ND: Embeddings, clean_ND: Embeddings, accuracy: Callable[[Embeddings], float]
) -> Draw:
    """Measure corrupted unit embeddings (N, D), given the clean ones of the same images.

    accuracy: computes the accuracy of a classifier that was fitted on clean train embeddings.
    Raises: ValueError for fewer than 2 images or values that are not finite.
    """
    cosine = mean_cosine(x_ND, clean_ND, order="rows")
    return Draw(accuracy(x_ND), cosine, effective_rank(x_ND))


def figures_of(draws: Sequence[Draw]) -> Figures:
    """The figures of one corruption, as means over its draws.

    accuracy: of the classifier, in [0, 1], higher is better.
    accuracy_sd: its standard deviation over draws (ddof = 1), lower is better; absent for one draw.
    cosine: mean cosine to the clean embedding of the same image, in [-1, 1], higher is better.
    rank: effective rank of the corrupted embeddings, in [1, min(N - 1, D)]; neither is better.
    """
    mean = {
        name: float(np.mean([getattr(draw, name) for draw in draws]))
        for name in ("accuracy", "cosine", "rank")
    }
    if len(draws) > 1:
        mean["accuracy_sd"] = float(np.std([draw.accuracy for draw in draws], ddof=1))
    return mean
