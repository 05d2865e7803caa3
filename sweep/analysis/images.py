"""How far a difference of accuracies would move with other test images, beside other seeds.

Which test images each seed's classifier gets right is in a trial's arrays, of every accuracy
`NAME/accuracy` as `NAME/correct`: of linear probes, k-NN and zero-shot on clean images, and of the
linear probe under each corruption, where it is the share of draws. All students see the same
images, so that differences are paired.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.measures.resampling import mean_interval

RESAMPLES = 2000
PARTS = 10


def image_interval(
    first_SN: NDArray[np.floating[Any]], second_SN: NDArray[np.floating[Any]], seed: int = 0
) -> tuple[float, float]:
    """95 % interval over images of the difference of mean accuracies, its seeds held fixed.

    first_SN, second_SN: 1 where seed s gets image n right, else 0; the numbers of seeds may differ.
    d_n = mean over seeds of first - mean over seeds of second is bootstrapped over images (BCa, see
    `shards.measures.resampling.mean_interval`). In shares, -1 to 1.
    Raises: ValueError where the images are not the same in number.
    """
    _check(first_SN, second_SN)
    return mean_interval(first_SN.mean(axis=0) - second_SN.mean(axis=0), seed)


def joint_interval(
    first_SN: NDArray[np.floating[Any]],
    second_SN: NDArray[np.floating[Any]],
    pairs: bool,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval over images and seeds together: both are resampled with replacement, at once.

    pairs: whether row s of both is one seed, which is then drawn for both. A percentile bootstrap
    of two crossed factors (Owen's pigeonhole bootstrap, 2007), which is conservative for images and
    too narrow for fewer than about ten seeds: the t interval over seeds stays the primary one.
    Raises: ValueError as `image_interval`, or for pairs of unequal numbers of seeds.
    """
    _check(first_SN, second_SN)
    if pairs and len(first_SN) != len(second_SN):
        raise ValueError(f"pairs of {len(first_SN)} and {len(second_SN)} seeds; expected as many")
    rng = np.random.default_rng(seed)
    count = first_SN.shape[1]
    # Weights of images: how often each is drawn, so that a resample is one matrix product. In
    # parts, because all resamples of 10,000 images at once would take 300 MB.
    parts: list[NDArray[np.float64]] = []
    for _ in range(PARTS):
        drawn_RN = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES // PARTS) / count
        parts.append(drawn_RN @ np.concatenate([first_SN, second_SN]).T)
    both_RS = np.concatenate(parts)
    first_RS, second_RS = both_RS[:, : len(first_SN)], both_RS[:, len(first_SN) :]
    seeds_RS = rng.integers(0, len(first_SN), (RESAMPLES, len(first_SN)))
    own_RS = seeds_RS if pairs else rng.integers(0, len(second_SN), (RESAMPLES, len(second_SN)))
    means_R = (
        np.take_along_axis(first_RS, seeds_RS, axis=1).mean(axis=1)
        - np.take_along_axis(second_RS, own_RS, axis=1).mean(axis=1)
    )  # fmt: skip
    low, high = np.quantile(means_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(first_SN: NDArray[Any], second_SN: NDArray[Any]) -> None:
    if first_SN.ndim != 2 or second_SN.ndim != 2 or first_SN.shape[1] != second_SN.shape[1]:
        raise ValueError(
            f"records of {first_SN.shape} and {second_SN.shape}; expected (seeds, images) of the "
            "same images"
        )
