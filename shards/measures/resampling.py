"""How far a figure would move with other test images: intervals of accuracies and of ranks.

Accuracies: a bootstrap over images. Its indices are a pure function of (N, seed), so two students
are resampled alike, and the interval of their difference is a paired one. Ranks: never a bootstrap,
whose repeated images lower the rank so far that the interval can exclude its own estimate; a
delete-d jackknife instead. Both describe other images of the same kind, not other training seeds.
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

RESAMPLES, AT_ONCE = 2000, 50
GROUPS = 32  # of the jackknife
SIZES = (100, 200, 360, 1000, 2000, 5000, 10_000)  # common N at which ranks are given
SUBSETS = 8  # of each size, at most
LEVEL = 0.95
NAN = float("nan")
Indices = NDArray[np.int64]


# ---- means, such as accuracy ----


def bootstrap_indices(count: int, seed: int, start: int, stop: int) -> Indices:
    """Resamples `start` to `stop` of range(count), drawn with replacement: (stop - start, count).

    A pure function of its arguments on every device: each 64-bit hash of (seed, count, resample,
    counter) gives two indices, its 32-bit halves scaled to [0, count).
    """
    resample_R1 = np.arange(start, stop, dtype=np.uint64)[:, None]
    word_RW = hash64(seed, count, resample_R1, np.arange((count + 1) // 2, dtype=np.uint64))
    halves_RW2 = np.stack([word_RW >> np.uint64(32), word_RW & np.uint64(0xFFFFFFFF)], axis=-1)
    uniform_RN = halves_RW2.reshape(len(word_RW), -1)[:, :count]
    return ((uniform_RN * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def bootstrap_means(values_N: Vector, seed: int) -> Vector:
    """Means of `values_N` (N,) over RESAMPLES resamples: (R,)."""
    parts = [
        values_N[bootstrap_indices(len(values_N), seed, start, start + AT_ONCE)].mean(axis=1)
        for start in range(0, RESAMPLES, AT_ONCE)
    ]
    return np.concatenate(parts)


def mean_interval(
    values_N: NDArray[np.floating] | NDArray[np.bool_], seed: int, level: float = LEVEL
) -> tuple[float, float]:
    """(low, high) of the mean of `values_N`, such as 0 or 1 for wrong and right images.

    The bias-corrected and accelerated bootstrap (BCa; Efron, JASA 1987), in the unit of the values.
    For two students on the same images pass the differences of their values: the pairs then stay
    together. Where all values are the same, the interval is that value.
    Raises: ValueError for no value or one that is not finite.
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
    # Means of few distinct values repeat: those equal to the estimate count half on each side.
    near = 1e-12 * np.abs(values_N).max()
    below = float((means_R < mean - near).mean() + (np.abs(means_R - mean) <= near).mean() / 2)
    edge = 0.5 / len(means_R)
    bias = float(ndtri(min(max(below, edge), 1 - edge)))
    shifted_2 = bias + ndtri(tails_2)
    return ndtr(bias + shifted_2 / (1 - acceleration * shifted_2))


def proportion_interval(correct_N: NDArray[np.bool_], level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of an accuracy, in [0, 1]: (low, high).

    Near 0 and 1, where most accuracies of digits lie, a bootstrap of the images covers far too
    rarely: at an accuracy of 0.999 and N = 359, two samples in three have no error at all, and
    their bootstrap interval is a point (BCa covered 30 %). Source: Wilson, JASA 1927; by SciPy.
    """
    # Here and not above: importing scipy.stats takes half a second. It has no type stubs.
    from scipy import stats  # pyright: ignore[reportMissingTypeStubs]

    test: Any = stats.binomtest(int(np.count_nonzero(correct_N)), len(correct_N))  # pyright: ignore[reportUnknownMemberType]
    found = test.proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


# ---- ranks ----


def permutation(count: int, seed: int) -> Indices:
    """An order of range(count): a pure function of (count, seed)."""
    return np.argsort(hash64(seed, count, np.arange(count, dtype=np.uint64)), kind="stable")


def rank_intervals(x_ND: Rows, seed: int, level: float = LEVEL) -> dict[str, tuple[float, float]]:
    """{rank: (low, high)} for each of `spectrum.RANKS` at this N, from a delete-d jackknife.

    Images are divided into G = min(32, N) groups of d = N / G; each group is left out in turn. With
    h the logarithm of the rank (the entropy) and h_g that without group g,

        error^2 = (G - 1) / G sum_g (h_g - mean h)^2,     interval = rank * exp(+- t_{G-1} error),

    which always contains the estimate. It is about the expected rank at this N, not at infinite N.
    For the rank of Roy and Vetterli it is about twice too wide where N < D: there leaving out d
    images also takes d directions away.
    Duplicated images are not independent: remove them first. (NaN, NaN) for fewer than 3 images or
    where without some group nothing varies.
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
    """(exp(-t error), exp(t error)): factors of an interval of exp(logarithm(moments of x)).

    The delete-d jackknife of `rank_intervals`, of any positive figure that follows from moments.
    (NaN, NaN) for fewer than 3 images, or where the figure is undefined without some group.
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
    """Moments of `outside` and all parts but one, for each part in turn.

    By recursive halves, G log G merges in all. Subtracting a part from the moments of the whole
    would take fewer, but leaves nothing but rounding where that part holds most of the variance.
    """
    if outside is not None and len(parts) == 1:
        yield outside
        return
    middle = len(parts) // 2
    for inner, outer in ((parts[:middle], parts[middle:]), (parts[middle:], parts[:middle])):
        rest = Moments.of(x_ND[np.sort(np.concatenate(outer))])
        yield from _leaving_one_out(x_ND, inner, rest if outside is None else outside.merge(rest))


def rank_curve(x_ND: Rows, seed: int) -> list[tuple[int, float]]:
    """[(n, effective rank of n images)] for each n of SIZES below N, and for N itself.

    Each is the mean over up to 8 disjoint subsets drawn without replacement, the same for every
    student, so that ranks of test sets of different sizes can be compared at a common n.
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
