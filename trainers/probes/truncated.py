"""Rank as a cause: a student's embeddings cut to its own first k principal components.

The components are those of the clean train embeddings. If accuracy holds until k is far below the
student's rank, its low rank is not what costs it accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shards.measures.moments import Matrix, Moments, Rows, blocks
from shards.measures.similarity import components
from trainers.probes.features import FeatureBank
from trainers.probes.linear import fit

Labels = NDArray[np.int64]


def dims(width: int) -> list[int]:
    """1, 2, 4, ... below `width`, and `width`."""
    return [*(2**i for i in range(width.bit_length()) if 2**i < width), width]


def truncated_accuracies(
    train_ND: Rows, train_labels_N: Labels, test_ND: Rows, test_labels_N: Labels
) -> Iterator[tuple[int, float, float]]:
    """(k, accuracy of a refit, accuracy of the full classifier) for k = 1, 2, 4, ..., D.

    Coordinates in the first k components, centred by train's mean and divided by one number, the
    root mean square of train, so that rotations, shifts and scales change nothing. The refit sees
    train cut to k; the full classifier is fitted on all components, and only what it is asked
    about is cut. Beyond the rank of train's covariance nothing is left to cut. In [0, 1], higher
    is better; the commonest class's share where train does not vary.
    Raises: ValueError where train has one class.
    """
    state = Moments.of(train_ND)
    _, basis_DK = components(state)
    if len(np.unique(train_labels_N)) < 2:
        raise ValueError("train labels are all the same: a classifier needs two classes")
    scale = float(np.sqrt(state.variance / len(state.mean_D)))
    if basis_DK.shape[1] == 0:  # nothing varies: one coordinate that is always 0
        basis_DK, scale = np.zeros((len(state.mean_D), 1)), 1.0

    def coordinates(x_ND: Rows) -> NDArray[np.float32]:
        scaled_DK: Matrix = basis_DK / scale
        turned = ((rows_BD - state.mean_D) @ scaled_DK for rows_BD in blocks(x_ND))
        return np.concatenate([part_BK.astype(np.float32) for part_BK in turned])

    train_NK, test_NK = coordinates(train_ND), coordinates(test_ND)
    every = fit(train_NK, train_labels_N)
    for k in dims(len(state.mean_D)):
        cut_NK = test_NK.copy()
        cut_NK[:, k:] = 0
        own = every if k >= train_NK.shape[1] else fit(train_NK[:, :k], train_labels_N)
        guesses = own.predict(test_NK[:, :k]), every.predict(cut_NK)
        refit, fixed = (float((guess_N == test_labels_N).mean()) for guess_N in guesses)
        yield k, refit, fixed


def truncated(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """Accuracy on the clean test embeddings for each k."""
    sets = bank.train_ND, bank.train_labels_N, bank.test_ND, bank.test_labels_N
    for k, refit, fixed in truncated_accuracies(*sets):
        yield f"truncated/refit/{k}/accuracy", refit
        yield f"truncated/fixed/{k}/accuracy", fixed
