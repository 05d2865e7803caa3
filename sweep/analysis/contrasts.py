"""A weighted sum of group means, theta = sum w_g mean_g, its error, and the tests of it.

Two groups with the weights 1 and -1 give a difference; capacities weighted by their centred log
parameters give a slope; four cells weighted 1, -1, -1, 1 an interaction. Each is estimated in one
of two ways:

    welch    groups are independent: error^2 = sum w_g^2 sd_g^2 / n_g, with Satterthwaite's degrees
             of freedom error^4 / sum (w_g^2 sd_g^2 / n_g)^2 / (n_g - 1)
    paired   values of one seed belong together: d_s = sum w_g x_gs is one sample of n values, with
             error = sd_d / sqrt(n) and n - 1 degrees of freedom

Across capacities a seed fixes the order of samples and the noise but never the initialisation of
another shape: Welch is primary there. Across arms at one capacity trials of one seed start from the
same weights and see the same order: there the paired test is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweep.analysis.samples import Sample, sample_of

ENUMERATED = 22  # seeds up to which all sign flips are formed: 2^21 sums


@dataclass(frozen=True)
class Contrast:
    """An estimate with its standard error and degrees of freedom. test: `welch` or `paired`."""

    test: str
    estimate: float
    error: float
    df: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """estimate +- t(df) error, in the unit of the metric."""
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.error
        return self.estimate - half, self.estimate + half

    def p_above(self, bound: float) -> float:
        """One-sided p of H0: theta <= bound. Small: the truth lies above the bound."""
        return float(stats.t.sf((self.estimate - bound) / self.error, self.df))

    def p_below(self, bound: float) -> float:
        """One-sided p of H0: theta >= bound. Small: the truth lies below the bound."""
        return float(stats.t.cdf((self.estimate - bound) / self.error, self.df))

    def p_differs(self, bound: float = 0.0) -> float:
        """Two-sided p of H0: theta = bound."""
        return min(1.0, 2 * min(self.p_above(bound), self.p_below(bound)))

    def p_inside(self, margin: float) -> float:
        """p of H0: |theta| >= margin by two one-sided tests (TOST): the larger of their two p.

        Small: the truth lies inside the margin. Source: Schuirmann 1987.
        """
        return max(self.p_above(-margin), self.p_below(margin))

    def p_outside(self, margin: float) -> float:
        """p of H0: |theta| <= margin: twice the smaller of the two one-sided p, at most 1."""
        return min(1.0, 2 * min(self.p_above(margin), self.p_below(-margin)))


# ---- estimates ----


def welch(samples: Sequence[Sample], weights: Sequence[float]) -> Contrast | None:
    """The contrast of independent groups; None where a deviation is unknown or all are 0."""
    if any(sample.sd is None for sample in samples):
        return None
    pairs = zip(samples, weights, strict=True)
    parts = [(w * (s.sd or 0.0)) ** 2 / s.n for s, w in pairs]
    variance = sum(parts)
    if variance == 0:
        return None
    df = variance**2 / sum(v**2 / (s.n - 1) for v, s in zip(parts, samples, strict=True))
    estimate = sum(w * s.mean for s, w in zip(samples, weights, strict=True))
    return Contrast("welch", estimate, math.sqrt(variance), df)


def seed_values(samples: Sequence[Sample], weights: Sequence[float]) -> dict[int, float]:
    """{seed: sum w_g x_gs} of the seeds that all groups have a value of."""
    first, *others = samples
    shared = [seed for seed in first.values if all(seed in other.values for other in others)]
    return {
        seed: sum(w * s.values[seed] for s, w in zip(samples, weights, strict=True))
        for seed in shared
    }


def paired(samples: Sequence[Sample], weights: Sequence[float]) -> Contrast | None:
    """The contrast over the seeds that all groups share; None for fewer than 2, or without spread.

    Spread means more than what rounding leaves of equal differences, see `samples.sample_of`.
    """
    values = seed_values(samples, weights)
    if len(values) < 2:
        return None
    scale = max(abs(w) * s.scale for s, w in zip(samples, weights, strict=True))
    one = sample_of(values, scale=scale)
    if not one.sd:
        return None
    return Contrast("paired", one.mean, one.sd / math.sqrt(one.n), one.n - 1)


def single_sd(samples: Sequence[Sample], weights: Sequence[float], contrast: Contrast) -> float:
    """Standard deviation of theta from one seed a group: with n seeds, error = single_sd / sqrt(n).

    welch: sqrt(sum w_g^2 sd_g^2), also where groups have unlike numbers of seeds. paired: the
    deviation of the differences.
    """
    if contrast.test == "welch":
        pairs = zip(samples, weights, strict=True)
        return math.sqrt(sum((w * (s.sd or 0.0)) ** 2 for s, w in pairs))
    return contrast.error * math.sqrt(len(seed_values(samples, weights)))


def pair_correlation(first: Sample, second: Sample) -> float | None:
    """Pearson's r of the values of shared seeds, [-1, 1]; None for fewer than 3 or no spread.

    Pairing removes the share r of the variance: var(x - y) = 2 var (1 - r) at equal variances.
    """
    shared = [seed for seed in first.values if seed in second.values]
    if len(shared) < 3:
        return None
    groups = (first, second)
    both = [sample_of({s: one.values[s] for s in shared}, scale=one.scale) for one in groups]
    if not all(one.sd for one in both):
        return None
    pairs_2N = np.array([list(one.values.values()) for one in both])
    return float(np.corrcoef(pairs_2N)[0, 1])


def slope_weights(sizes: Sequence[float]) -> list[float]:
    """Weights of the least-squares slope over ln(size): (x_g - mean x) / sum (x - mean x)^2.

    Raises: ValueError for fewer than two different sizes, or one that is not positive.
    """
    if min(sizes) <= 0 or len(set(sizes)) < 2:
        raise ValueError(f"sizes: {list(sizes)}; expected two different positive numbers")
    x_G = np.log(np.asarray(sizes, dtype=np.float64))
    off_G = x_G - x_G.mean()
    return [float(weight) for weight in off_G / (off_G**2).sum()]


# ---- the exact check ----


def sign_flip_p(values: Mapping[int, float]) -> float:
    """Exact two-sided p of H0: the values are symmetric about 0, by all 2^n flips of their signs.

    p = share of flips with |sum| >= the observed |sum|; never below 2 / 2^n. It assumes no
    distribution. Above 22 values, 100,000 random flips of a fixed generator stand for all of them,
    and p = (1 + hits) / (1 + flips).
    """
    numbers_N = np.array(list(values.values()), dtype=np.float64)
    observed = abs(numbers_N.sum()) * (1 - 1e-12)  # equal sums differ in their last bits
    if len(numbers_N) > ENUMERATED:
        flips_RN = np.random.default_rng(0).choice((-1.0, 1.0), (100_000, len(numbers_N)))
        return float((1 + (abs(flips_RN @ numbers_N) >= observed).sum()) / (1 + len(flips_RN)))
    # The first sign is kept: flipping all signs of a sum changes nothing of its absolute value.
    sums_R = numbers_N[:1]
    for number in numbers_N[1:]:
        sums_R = np.concatenate([sums_R + number, sums_R - number])
    return float((abs(sums_R) >= observed).mean())
