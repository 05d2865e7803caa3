"""Confidence intervals of accuracies and ranks with respect to the sample of test images.

Accuracies use a bootstrap over images. Its indices are a pure function of (N, seed), so two
students are resampled in the same way and the interval of their difference is a paired one. Ranks
use a delete-d jackknife and not a bootstrap, whose repeated images lower the rank so much that the
interval can exclude the estimate. Both describe variation over test images, not over training
seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import (  # pyright: ignore[reportMissingTypeStubs]
    ndtr,
    ndtri,
    stdtrit,
)

from shards.measures.moments import Moments, Rows, Vector
from shards.measures.spectrum import RANKS, centred_eigenvalues, rank_from_eigenvalues
from shards.support.rng import hash64

RESAMPLES, AT_ONCE = 2000, 50  # bootstrap resamples: in all, and held in memory at a time
GROUPS = 32  # number of groups of the jackknife
SIZES = (100, 200, 360, 1000, 2000, 5000, 10_000)  # N at which ranks of all students are reported
SUBSETS = 8  # maximum number of subsets of each size
LEVEL = 0.95  # confidence level
NAN = float("nan")
Indices = NDArray[np.int64]


# ---- means, such as accuracy ----


def bootstrap_indices(count: int, seed: int, start: int, stop: int) -> Indices:
    """Bootstrap resamples [start, stop) of range(count): int64 (stop - start, count).

    A pure function of its arguments on every machine: each 64-bit hash of (seed, count, resample,
    counter) gives two indices, its 32-bit halves scaled to [0, count).
    """
    resample_R1 = np.arange(start, stop, dtype=np.uint64)[:, None]
    word_RW = hash64(seed, count, resample_R1, np.arange((count + 1) // 2, dtype=np.uint64))
    halves_RW2 = np.stack([word_RW >> np.uint64(32), word_RW & np.uint64(0xFFFFFFFF)], axis=-1)
    uniform_RN = halves_RW2.reshape(len(word_RW), -1)[:, :count]
    return ((uniform_RN * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def bootstrap_means(values_N: Vector, seed: int) -> Vector:
    """The means of values (N,) over RESAMPLES bootstrap resamples: (R,)."""
    parts = [
        values_N[bootstrap_indices(len(values_N), seed, start, start + AT_ONCE)].mean(axis=1)
        for start in range(0, RESAMPLES, AT_ONCE)
    ]
    return np.concatenate(parts)


def mean_interval(
    values_N: NDArray[np.floating] | NDArray[np.bool_], seed: int, level: float = LEVEL
) -> tuple[float, float]:
    """The bootstrap interval (low, high) of a mean, in the unit of the values.

    values_N: for example 1 for each correctly classified image and 0 for the others. The bootstrap
    is bias-corrected and accelerated (BCa; Efron, JASA 1987). To compare two students on the same
    images, pass the differences of their values, which makes the interval a paired one. If all
    values are equal, so are both ends.
    Raises: ValueError for no values, or values that are not finite.
    """
    wide_N = np.asarray(values_N, dtype=np.float64)
    if wide_N.ndim != 1 or not len(wide_N) or not np.isfinite(wide_N).all():
        raise ValueError(f"an interval needs finite values (N,), at least one; got {wide_N.shape}")
    if wide_N.min() == wide_N.max():
        return float(wide_N[0]), float(wide_N[0])
    means_R = bootstrap_means(wide_N, seed)
    tails_2 = np.array([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(means_R, _corrected(tails_2, wide_N, means_R))
    return float(low), float(high)


def _corrected(tails_2: Vector, values_N: Vector, means_R: Vector) -> Vector:
    """The two tail probabilities after BCa's corrections.

    The acceleration is that of the jackknife, which for a mean has a closed form.
    """
    off_N = values_N - values_N.mean()
    acceleration = float((off_N**3).sum() / (6 * (off_N**2).sum() ** 1.5))
    mean = values_N.mean()
    # Resampled means of few distinct values repeat, so many of them equal the estimate up to
    # rounding. They count half as below it and half as above it.
    near = 1e-12 * np.abs(values_N).max()
    below = float((means_R < mean - near).mean() + (np.abs(means_R - mean) <= near).mean() / 2)
    edge = 0.5 / len(means_R)
    bias = float(ndtri(min(max(below, edge), 1 - edge)))
    shifted_2 = bias + ndtri(tails_2)
    return ndtr(bias + shifted_2 / (1 - acceleration * shifted_2))


def proportion_interval(correct_N: NDArray[np.bool_], level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval (low, high) of an accuracy, in [0, 1].

    A bootstrap has far too low a coverage near 0 and 1, where most accuracies on digits lie: at an
    accuracy of 0.999 and N = 359, two test sets in three have no error at all, so that their
    bootstrap interval is a single point (BCa covered 30 %). Source: Wilson, JASA 1927; computed by
    SciPy.
    """
    # Here and not above: importing scipy.stats takes half a second. It has no type stubs.
    from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

    test: Any = stats.binomtest(int(np.count_nonzero(correct_N)), len(correct_N))  # pyright: ignore[reportUnknownMemberType]
    found = test.proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


# ---- ranks ----


def permutation(count: int, seed: int) -> Indices:
    """A random permutation of range(count), int64 (count,): a pure function of (count, seed)."""
    return np.argsort(hash64(seed, count, np.arange(count, dtype=np.uint64)), kind="stable")


def rank_intervals(x_ND: Rows, seed: int, level: float = LEVEL) -> dict[str, tuple[float, float]]:
    """Intervals {rank: (low, high)} of each of `spectrum.RANKS`, from a delete-d jackknife.

    Images are divided into G = min(32, N) groups of d = N / G; each group is left out in turn. With
    the logarithm h of the rank (an entropy) and its value h_g without group g,

        error^2 = (G - 1) / G sum_g (h_g - mean h)^2,     interval = rank * exp(+- t_{G-1} error),

    which always contains the estimate. It is an interval of the expected rank at this N, not at
    infinite N. For the rank of Roy and Vetterli it is about twice too wide where N < D, because
    leaving out d images then also removes d directions. Duplicated images are not independent:
    remove them first. (NaN, NaN) for fewer than 3 images, or if without some group nothing varies.
    Sources: Wu, Annals of Statistics 1986; Shao & Wu, Annals of Statistics 1989.
    """
    count = len(x_ND)
    groups = min(GROUPS, count)
    if count < 3:
        return dict.fromkeys(RANKS, (NAN, NAN))
    whole = Moments.of(x_ND)
    values_D = centred_eigenvalues(x_ND, whole)
    parts = np.array_split(permutation(count, seed), groups)
    spectra = (moments.eigenvalues() for moments in _leaving_one_out(x_ND, parts))
    without = [[measure(rest_D) for measure in RANKS.values()] for rest_D in spectra]
    t = float(stdtrit(groups - 1, (1 + level) / 2))
    found: dict[str, tuple[float, float]] = {}
    for (name, measure), ranks_G in zip(RANKS.items(), np.array(without).T, strict=True):
        rank = measure(values_D)
        if rank == 0:
            found[name] = 0.0, 0.0
        elif not (ranks_G > 0).all():
            found[name] = NAN, NAN
        else:
            error = float(np.sqrt((groups - 1) * np.log(ranks_G).var()))
            found[name] = rank * float(np.exp(-t * error)), rank * float(np.exp(t * error))
    return found


def jackknife_factors(
    x_ND: Rows, seed: int, logarithm: Callable[[Moments], float], level: float = LEVEL
) -> tuple[float, float]:
    """The interval of any positive measure of moments, as factors (exp(-t error), exp(t error)).

    `logarithm` computes the measure's logarithm. By the delete-d jackknife of `rank_intervals`.
    (NaN, NaN) for fewer than 3 images, or if the measure is undefined without some group.
    """
    groups = min(GROUPS, len(x_ND))
    if groups < 3:
        return NAN, NAN
    parts = np.array_split(permutation(len(x_ND), seed), groups)
    without_G = np.array([logarithm(moments) for moments in _leaving_one_out(x_ND, parts)])
    error = float(np.sqrt((groups - 1) * without_G.var()))
    t = float(stdtrit(groups - 1, (1 + level) / 2))
    return float(np.exp(-t * error)), float(np.exp(t * error))


def _leaving_one_out(
    x_ND: Rows, parts: list[Indices], outside: Moments | None = None
) -> Iterator[Moments]:
    """Yield the moments of all parts but one (and of `outside`), for each part in turn.

    Recursive halving takes G log G merges. Subtracting each part from the moments of the whole
    would take fewer, but leaves only rounding error if the part has most of the variance.
    """
    if outside is not None and len(parts) == 1:
        yield outside
        return
    middle = len(parts) // 2
    for inner, outer in ((parts[:middle], parts[middle:]), (parts[middle:], parts[:middle])):
        rest = Moments.of(x_ND[np.sort(np.concatenate(outer))])
        yield from _leaving_one_out(x_ND, inner, rest if outside is None else outside.merge(rest))


def rank_curve(x_ND: Rows, seed: int) -> list[tuple[int, float]]:
    """Effective rank as a function of the number of images: [(n, rank)].

    For each n of SIZES below N, and for N. Each rank is the mean over up to SUBSETS disjoint random
    subsets, which are the same for every student. Ranks depend on the number of images, so test
    sets of different sizes have to be compared at a common n.
    """
    count = len(x_ND)
    order_N = permutation(count, seed)
    sizes = [size for size in SIZES if size < count] + ([count] if count > 1 else [])
    curve: list[tuple[int, float]] = []
    for size in sizes:
        starts = [size * part for part in range(min(SUBSETS, count // size))]
        subsets = (order_N[start : start + size] for start in starts)
        ranks = [
            rank_from_eigenvalues(centred_eigenvalues(x_ND[np.sort(subset)])) for subset in subsets
        ]
        curve.append((size, float(np.mean(ranks))))
    return curve
