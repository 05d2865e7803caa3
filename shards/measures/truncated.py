"""Whether low rank limits accuracy: classification from the first k principal components.

If accuracy does not fall until k is far below the rank of the embeddings, their low rank is not the
cause of a low accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shards.measures.linear_probe import Labels, accuracy, fit
from shards.measures.moments import Matrix, Moments, Rows, blocks
from shards.measures.similarity import components


def dims(width: int) -> list[int]:
    """The numbers of components to evaluate: 1, 2, 4, ... below `width`, and `width`."""
    return [*(2**i for i in range(width.bit_length()) if 2**i < width), width]


def truncated_accuracies(
    train_ND: Rows, train_labels_N: Labels, test_ND: Rows, test_labels_N: Labels
) -> Iterator[tuple[int, float, float]]:
    """Yield (k, accuracy of a refitted, accuracy of the full classifier) for k = 1, 2, 4, ..., D.

    Features are coordinates along the first k principal components of train, centred by the mean of
    train and divided by one number, its root mean square, so that rotations, shifts and scales
    change nothing. The refitted classifier is trained on k coordinates. The full classifier is
    trained on all of them, and the other coordinates of the test embeddings are set to 0. Beyond
    the rank of the covariance of train there is nothing to truncate and the values stay the same.

    Accuracies are in [0, 1], higher is better; the share of the most frequent class if train does
    not vary. Classifiers have C = 1.
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
    full = fit(train_NK, train_labels_N)
    for k in dims(len(state.mean_D)):
        cut_NK = test_NK.copy()
        cut_NK[:, k:] = 0
        refitted = full if k >= train_NK.shape[1] else fit(train_NK[:, :k], train_labels_N)
        refit = accuracy(refitted, test_NK[:, :k], test_labels_N)
        yield k, refit, accuracy(full, cut_NK, test_labels_N)
