"""How far a figure would move with other test images.

Accuracy: a bootstrap over images. Its indices are a pure function of (N, seed), so those of two
students are the same, and so is the interval of their difference. Ranks: never a bootstrap, whose
repeated images lower the rank so far that its interval can exclude its own estimate; a delete-d
jackknife instead. Both tell of other images of the same kind, not of other training seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import (  # pyright: ignore[reportMissingTypeStubs]
    ndtr,
    ndtri,
    stdtrit,
)

from shards.measures.moments import Moments, Rows, Vector
from shards.support.rng import hash64
from trainers.probes.features import FeatureBank
from trainers.probes.linear import classifier, standard_classifier
from trainers.probes.neighbours import voted
from trainers.probes.spectrum import RANKS, centred_eigenvalues, rank_of
from trainers.probes.zero_shot import named

RESAMPLES, AT_ONCE = 2000, 50
GROUPS = 32
SIZES = (100, 200, 360, 1000, 2000, 5000, 10_000)  # the N at which ranks can be compared
SUBSETS = 8  # of each size at most
LEVEL = 0.95
ENDS = ("low", "high")
NAN = float("nan")
Indices = NDArray[np.int64]


# ---- accuracy ----


def bootstrap_indices(count: int, seed: int, start: int, stop: int) -> Indices:
    """Resamples `start` to `stop` of range(count) with replacement: a pure function, any device.

    (stop - start, count). Each 64-bit hash of (seed, count, resample, counter) gives two indices.
    """
    resample_R1 = np.arange(start, stop, dtype=np.uint64)[:, None]
    word_RW = hash64(seed, count, resample_R1, np.arange((count + 1) // 2, dtype=np.uint64))
    halves_RW2 = np.stack([word_RW >> np.uint64(32), word_RW & np.uint64(0xFFFFFFFF)], axis=-1)
    uniform_RN = halves_RW2.reshape(len(word_RW), -1)[:, :count]
    return ((uniform_RN * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def bootstrap_means(values_N: Vector, seed: int) -> Vector:
    """Means of `values_N` over RESAMPLES resamples."""
    parts = [
        values_N[bootstrap_indices(len(values_N), seed, start, start + AT_ONCE)].mean(axis=1)
        for start in range(0, RESAMPLES, AT_ONCE)
    ]
    return np.concatenate(parts)


def mean_interval(
    values_N: NDArray[np.floating] | NDArray[np.bool_],
    seed: int,
    method: Literal["bca", "percentile"] = "bca",
    level: float = LEVEL,
) -> tuple[float, float]:
    """Interval of a mean over images, such as accuracy: values 0 or 1, right or wrong.

    For two students on the same images give the differences of theirs: the pairs stay together.
    `bca` is bias-corrected and accelerated (Efron, JASA 1987). Where all values are the same the
    interval is that value. Raises: ValueError for no value or one that is not finite.
    """
    wide_N = np.asarray(values_N, dtype=np.float64)
    if wide_N.ndim != 1 or not len(wide_N) or not np.isfinite(wide_N).all():
        raise ValueError(f"an interval needs finite values (N,), at least one; got {wide_N.shape}")
    if wide_N.min() == wide_N.max():
        return float(wide_N[0]), float(wide_N[0])
    means_R = bootstrap_means(wide_N, seed)
    tails_2 = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        tails_2 = _corrected(tails_2, wide_N, means_R)
    low, high = np.quantile(means_R, tails_2)
    return float(low), float(high)


def _corrected(tails_2: Vector, values_N: Vector, means_R: Vector) -> Vector:
    """BCa's tails; the jackknife of a mean is known in closed form."""
    off_N = values_N - values_N.mean()
    acceleration = float((off_N**3).sum() / (6 * (off_N**2).sum() ** 1.5))
    mean = values_N.mean()
    near = 1e-12 * np.abs(values_N).max()  # resamples with the same mean count half
    below = float((means_R < mean - near).mean() + (np.abs(means_R - mean) <= near).mean() / 2)
    edge = 0.5 / len(means_R)
    bias = float(ndtri(min(max(below, edge), 1 - edge)))
    shifted_2 = bias + ndtri(tails_2)
    return ndtr(bias + shifted_2 / (1 - acceleration * shifted_2))


# ---- ranks ----


def permutation(count: int, seed: int) -> Indices:
    """An order of range(count): a pure function of (count, seed)."""
    return np.argsort(hash64(seed, count, np.arange(count, dtype=np.uint64)), kind="stable")


def rank_intervals(x_ND: Rows, seed: int, level: float = LEVEL) -> dict[str, tuple[float, float]]:
    """For each of RANKS at this N, an interval from a delete-d jackknife.

    Images fall into G = min(32, N) groups of d = N / G; each is left out in turn. With h the
    logarithm of the rank (the entropy) and h_g that without group g, the squared error is
    (G - 1) / G sum (h_g - mean h_g)^2, and the interval rank * exp(+- t_{G-1} error): it always
    holds the estimate. It is about the expected rank at this N, not at infinite N. Duplicated
    images are not independent: take them out first. (NaN, NaN) for fewer than 3 images.
    Wu, Annals of Statistics 1986; Shao & Wu, Annals of Statistics 1989.
    """
    count = len(x_ND)
    groups = min(GROUPS, count)
    if count < 3:
        return dict.fromkeys(RANKS, (NAN, NAN))
    every = Moments.of(x_ND)
    values_D = centred_eigenvalues(x_ND, every)
    parts = np.array_split(permutation(count, seed), groups)
    rests = (rest.eigenvalues() for rest in _left_out(x_ND, parts))
    left = [[measure(rest_D) for measure in RANKS.values()] for rest_D in rests]
    t = float(stdtrit(groups - 1, (1 + level) / 2))
    found: dict[str, tuple[float, float]] = {}
    for (name, measure), ranks_G in zip(RANKS.items(), np.array(left).T, strict=True):
        rank = measure(values_D)
        if rank == 0:
            found[name] = 0.0, 0.0
        elif not (ranks_G > 0).all():  # without one group nothing varies
            found[name] = NAN, NAN
        else:
            error = float(np.sqrt((groups - 1) * np.log(ranks_G).var()))
            found[name] = rank * float(np.exp(-t * error)), rank * float(np.exp(t * error))
    return found


def _left_out(
    x_ND: Rows, parts: list[Indices], outside: Moments | None = None
) -> Iterator[Moments]:
    """Moments of `outside` and all parts but one, for each part.

    By halves: nothing is subtracted, which would leave rounding where one part varies most.
    """
    if outside is not None and len(parts) == 1:
        yield outside
        return
    middle = len(parts) // 2
    for inner, outer in ((parts[:middle], parts[middle:]), (parts[middle:], parts[:middle])):
        rest = Moments.of(x_ND[np.sort(np.concatenate(outer))])
        yield from _left_out(x_ND, inner, rest if outside is None else outside.merge(rest))


def rank_curve(x_ND: Rows, seed: int) -> list[tuple[int, float]]:
    """(n, effective rank of n images), for n of SIZES up to N, and for N itself.

    The mean over up to 8 disjoint subsets without replacement, the same for every student.
    """
    count = len(x_ND)
    order_N = permutation(count, seed)
    sizes = [size for size in SIZES if size < count] + ([count] if count > 1 else [])
    curve: list[tuple[int, float]] = []
    for size in sizes:
        starts = [size * part for part in range(min(SUBSETS, count // size))]
        subsets = (order_N[start : start + size] for start in starts)
        ranks = [rank_of(centred_eigenvalues(x_ND[np.sort(subset)])) for subset in subsets]
        curve.append((size, float(np.mean(ranks))))
    return curve


# ---- the probe ----


def correct(bank: FeatureBank) -> dict[str, NDArray[np.bool_]]:
    """{classifier: (N,) which clean test images it gets right}."""
    guesses = {
        "linear/paper": classifier(bank).predict(bank.test_ND),
        "linear/standard": standard_classifier(bank).predict(bank.test_ND),
        "knn": voted(bank),
        "zero_shot": named(bank),
    }
    return {name: g == bank.test_labels_N for name, g in guesses.items() if g is not None}


def intervals(bank: FeatureBank) -> Iterator[tuple[str, float | list[float]]]:
    """95 % intervals over clean test images, which images are right, and ranks at common N."""
    for guess, correct_N in correct(bank).items():
        if guess.startswith("linear/"):
            yield f"{guess}/correct", correct_N.astype(np.float64).tolist()
        for name, value in zip(ENDS, mean_interval(correct_N, bank.seed), strict=True):
            yield f"{guess}/accuracy/{name}", value
    for measure, ends in rank_intervals(bank.test_ND, bank.seed).items():
        for name, value in zip(ENDS, ends, strict=True):
            yield f"rank/{measure}/{name}", value
    curve = rank_curve(bank.test_ND, bank.seed)
    for size, rank in curve:
        if size in SIZES:
            yield f"rank/at/{size}", rank
    yield "rank/curve/n", [float(size) for size, _ in curve]
    yield "rank/curve/effective", [rank for _, rank in curve]
