"""Weighted k-nearest-neighbour classification of the test embeddings by the train embeddings.

See `shards.measures.knn`. `centred` first subtracts the mean of the train embeddings from train and
test: in a narrow cone all cosines are close to 1, so that the neighbours' weights hardly differ.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shards.measures.knn import Labels, neighbour_labels
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank


def neighbour_predictions(bank: FeatureBank) -> Labels:
    """Predicted class of each clean test embedding, not centred; computed once per bank."""
    return bank.cached(
        "neighbours",
        lambda: neighbour_labels(bank.train_ND, bank.train_labels_N, bank.test_ND),
    )


def neighbours(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Accuracy on the clean test embeddings, with raw cosines and with centred ones."""
    mean_D: NDArray[np.float64] = bank.train_ND.mean(axis=0, dtype=np.float64)
    yield "knn/accuracy", float((neighbour_predictions(bank) == bank.test_labels_N).mean())
    centred_N = neighbour_labels(bank.train_ND, bank.train_labels_N, bank.test_ND, centre_D=mean_D)
    yield "knn/centred/accuracy", float((centred_N == bank.test_labels_N).mean())


NEIGHBOURS = Probe(
    neighbours,
    revision=2,
    default=True,
    metrics="""
knn/accuracy | share | 0 to 1 | higher
    vote of the 20 nearest train images, weighted by exp(cosine / 0.07)
knn/centred/accuracy | share | 0 to 1 | higher
    the same after subtracting the mean of train
""",
)
