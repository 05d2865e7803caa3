"""Weighted k-nearest-neighbour classification: no fitted parameters, no effect of scale.

    score of class c = sum over the k nearest train samples i of class c of exp(cos_i / 0.07)

k = 20. Source: Wu et al., "Unsupervised feature learning via non-parametric instance
discrimination", CVPR 2018; the protocol of DINO (Caron et al., ICCV 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = NDArray[np.int64]

K, TEMPERATURE = 20, 0.07
ENTRIES = 1 << 24  # cosines held at a time: 64 MiB of float32
# Train rows that a block of test rows is compared with at a time. With all of a million, so few
# test rows would fit beside them that every product would be as slow as reading the train rows.
TRAIN_BLOCK = 1 << 16


def _directions(x_ND: NDArray[Any], centre_D: NDArray[Any] | float) -> Tensor:
    """Rows minus `centre_D`, divided by their norm, float32; a row that equals it stays 0."""
    rows_ND = torch.from_numpy(np.asarray(x_ND - centre_D, dtype=np.float32))  # pyright: ignore[reportUnknownMemberType]
    return torch.nn.functional.normalize(rows_ND, dim=1)


def _nearest(cosine_BN: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(The k largest values of each row, their columns); ties go to the lowest column.

    `topk` breaks ties differently on different devices. Rows whose k-th and next value are equal
    are therefore sorted again by a stable sort, which is slower.
    """
    count = cosine_BN.shape[1]
    more_BK, at_BK = cosine_BN.topk(min(k + 1, count), dim=1)
    near_BK, at_BK = more_BK[:, :k], at_BK[:, :k]
    if count > k:
        tied = torch.nonzero(more_BK[:, k - 1] == more_BK[:, k])[:, 0]
        step = max(1, ENTRIES // (8 * count))
        for start in range(0, len(tied), step):
            rows = tied[start : start + step]
            order_BN = cosine_BN[rows].sort(dim=1, descending=True, stable=True).indices
            at_BK[rows] = order_BN[:, :k]
    return near_BK, at_BK


def _nearest_rows(test_BD: Tensor, train_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(Cosines of the k nearest train rows of each test row, their numbers); ties as `_nearest`."""
    near_BK, at_BK = _nearest(test_BD @ train_ND[:TRAIN_BLOCK].T, k)
    for start in range(TRAIN_BLOCK, len(train_ND), TRAIN_BLOCK):
        more_BK, more_at_BK = _nearest(test_BD @ train_ND[start : start + TRAIN_BLOCK].T, k)
        # In the order of the train rows, so that ties go to the first of them.
        at_BM, order_BM = torch.cat([at_BK, more_at_BK + start], dim=1).sort(dim=1)
        near_BK, of_BK = _nearest(torch.cat([near_BK, more_BK], dim=1).gather(1, order_BM), k)
        at_BK = at_BM.gather(1, of_BK)
    return near_BK, at_BK


def neighbour_labels(
    train_ND: NDArray[Any],
    train_labels_N: Labels,
    test_ND: NDArray[Any],
    k: int = K,
    temperature: float = TEMPERATURE,
    centre_D: NDArray[Any] | None = None,
) -> Labels:
    """The predicted class of each test row, int64 (N,); ties go to the smallest class.

    Cosines are float32, between rows minus `centre_D` (default: 0). Equally near train samples are
    taken in their order; a k above their number means all of them. At most ENTRIES cosines are in
    memory at a time.
    Raises: ValueError for k < 1, temperature <= 0, no train sample, NaN, widths that differ.
    """
    _check(train_ND, train_labels_N, test_ND, k, temperature)
    centre: Any = 0.0 if centre_D is None else centre_D
    train, test = _directions(train_ND, centre), _directions(test_ND, centre)
    labels_N = torch.from_numpy(train_labels_N)  # pyright: ignore[reportUnknownMemberType]
    k, classes = min(k, len(train)), int(train_labels_N.max()) + 1
    found = [np.zeros(0, dtype=np.int64)]
    step = max(1, ENTRIES // min(len(train), TRAIN_BLOCK))
    for start in range(0, len(test), step):
        part_BD = test[start : start + step]
        near_BK, at_BK = _nearest_rows(part_BD, train, k)
        near_BK = near_BK.double()
        # Relative to the nearest, so that no temperature makes the exponential overflow.
        vote_BK = ((near_BK - near_BK.amax(dim=1, keepdim=True)) / temperature).exp()
        score_BC = vote_BK.new_zeros((len(part_BD), classes))
        score_BC.scatter_add_(1, labels_N[at_BK], vote_BK)
        found.append(score_BC.argmax(dim=1).numpy())
    return np.concatenate(found)


def _check(
    train_ND: NDArray[Any], labels_N: Labels, test_ND: NDArray[Any], k: int, temperature: float
) -> None:
    if k < 1 or not temperature > 0:
        raise ValueError(f"k must be >= 1 and temperature > 0; got {k} and {temperature}")
    if train_ND.ndim != 2 or test_ND.ndim != 2 or train_ND.shape[1] != test_ND.shape[1]:
        shapes = f"{train_ND.shape} and {test_ND.shape}"
        raise ValueError(f"train and test must be (N, D) with one D; got {shapes}")
    if not len(train_ND) or labels_N.shape != (len(train_ND),):
        raise ValueError(f"train has {len(train_ND)} rows and labels of shape {labels_N.shape}")
    for name, x_ND in (("train", train_ND), ("test", test_ND)):
        if not np.isfinite(x_ND).all():
            bad = int(np.argmin(np.isfinite(x_ND).all(axis=1)))
            raise ValueError(f"{name} embedding {bad} has NaN or infinity")
