"""One group's values over its seeds, or what was published of them: n, mean, standard deviation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import special

# Twelve equal values of 0.1 have a deviation of 1e-17: their mean is rounded, and so is each sum.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Sample:
    """A group's values.

    n: how many values. mean: in the unit of the metric. sd: with ddof = 1; None where it is unknown
    or n = 1. values: {seed: value}; empty where only a summary was published. gone: {seed: why} of
    the seeds that have no value, such as {3: "diverged"}. scale: size of the largest number that
    the values were computed from.
    """

    label: str
    n: int
    mean: float
    sd: float | None
    values: Mapping[int, float] = field(default_factory=lambda: {})
    gone: Mapping[int, str] = field(default_factory=lambda: {})
    scale: float = 0.0

    @property
    def lost(self) -> dict[str, int]:
        """{why: how many} of the seeds that have no value, such as {"diverged": 1}."""
        return dict(Counter(self.gone.values()))


def sample_of(
    values: Mapping[int, float],
    label: str = "",
    gone: Mapping[int, str] | None = None,
    scale: float = 0.0,
) -> Sample:
    """The sample of {seed: value}: mean = sum x / n, sd = sqrt(sum (x - mean)^2 / (n - 1)).

    An sd of at most 1e-12 of the largest |x| is what rounding leaves of equal values, and is 0.
    scale: of differences and logarithms the size of what they were computed from, where it is
    larger: rounding is in proportion to that.
    Raises: ValueError for no value, or one that is not finite.
    """
    numbers_N = np.array(list(values.values()), dtype=np.float64)
    if not len(numbers_N) or not np.isfinite(numbers_N).all():
        raise ValueError(f"{label or 'sample'}: expected finite values, at least one; {values}")
    scale = max(scale, float(abs(numbers_N).max()))
    sd = float(numbers_N.std(ddof=1)) if len(numbers_N) > 1 else None
    if sd is not None and sd <= ROUNDING * scale:
        sd = 0.0
    mean = float(numbers_N.mean())
    return Sample(label, len(numbers_N), mean, sd, dict(values), gone or {}, scale)


def published_sample(label: str, n: int, mean: float, sd: float | None, ddof: int) -> Sample:
    """The sample of a published mean and deviation, converted: sd_1 = sd_ddof sqrt((n-ddof)/(n-1)).

    ddof: of the published deviation, 0 or 1. A deviation of one value is none.
    """
    converted = None if sd is None or n < 2 else sd * math.sqrt((n - ddof) / (n - 1))
    return Sample(label, n, mean, converted)


def t_interval(sample: Sample, level: float = 0.95) -> tuple[float, float] | None:
    """mean +- t(df = n - 1) sd / sqrt(n), in the unit of the metric; None without a deviation.

    It covers the expected value over seeds with probability `level` where values are normal. (A
    percentile bootstrap of three values covers it three times in four instead.)
    """
    if sample.sd is None:
        return None
    # The quantile that stats.t.ppf gives, which takes a hundred times as long for one number.
    quantile = float(special.stdtrit(sample.n - 1, (1 + level) / 2))
    half = quantile * sample.sd / math.sqrt(sample.n)
    return sample.mean - half, sample.mean + half
