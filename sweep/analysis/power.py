"""What a number of seeds can decide: power of Welch's test, detectable differences, seeds needed.

All effects are in standard deviations of a single trial, equal in both groups.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from sweep.analysis.floor import floor_seeds

POWER = 0.8
MOST = 1000  # seeds; where more are needed, none is named
NODES = 40  # of the quadrature: power then changes by less than 1e-6 with more


def welch_power(effect: float, n: int, alpha: float) -> float:
    """The chance that Welch's two-sided test of two groups of n seeds gives p <= alpha, [0, 1].

    Exact for normal values of equal variance. Given b = s1^2 / (s1^2 + s2^2), which is distributed
    as Beta((n-1)/2, (n-1)/2), Welch's degrees of freedom are (n-1) / (b^2 + (1-b)^2), while t is
    noncentral t with 2 (n-1) degrees of freedom and noncentrality effect sqrt(n/2), whatever b is.
    The mean over b is a Gauss-Jacobi quadrature. (Student's t-test, whose power textbooks give,
    has 2 (n-1) degrees of freedom always; at n = 3 the effect needed then looks smaller by an
    eighth for one test, and by a third for a family of 25.)
    """
    if n < 2:
        return 0.0
    exponent = (n - 1) / 2 - 1
    nodes_Q, weights_Q = special.roots_jacobi(NODES, exponent, exponent)
    share_Q = (1 + nodes_Q) / 2
    df_Q = (n - 1) / (share_Q**2 + (1 - share_Q) ** 2)
    bound_Q = stats.t.isf(alpha / 2, df_Q)
    shift = effect * math.sqrt(n / 2)
    beyond_Q: Any = _nct_sf(bound_Q, 2 * (n - 1), shift) + _nct_sf(bound_Q, 2 * (n - 1), -shift)
    return float(np.clip((weights_Q * beyond_Q).sum() / weights_Q.sum(), 0, 1))


def _nct_sf(bound_Q: Any, df: float, shift: float) -> Any:
    """Upper tail of noncentral t; 0 or 1 where SciPy has no value, far out in either tail."""
    tail_Q: Any = 1 - special.nctdtr(df, shift, bound_Q)
    return np.where(np.isfinite(tail_Q), tail_Q, np.where(bound_Q < shift, 1.0, 0.0))


def paired_power(effect: float, n: int, alpha: float) -> float:
    """The same of the paired test of n seeds; effect: in deviations of the paired differences."""
    if n < 2:
        return 0.0
    bound, shift = stats.t.isf(alpha / 2, n - 1), effect * math.sqrt(n)
    return float(_nct_sf(bound, n - 1, shift) + _nct_sf(bound, n - 1, -shift))


@lru_cache(maxsize=1024)
def detectable(n: int, alpha: float, test: str = "welch", power: float = POWER) -> float | None:
    """The smallest effect that n seeds a group detect with this power; None where n < 2.

    alpha: corrected, e.g. 0.05 / 6 for a family of six. With 80 % and `welch`, families of 1, 6 and
    25 tests need 3.5, 6.8 and 11.5 standard deviations at n = 3, and 1.3, 1.7 and 2.1 at n = 10.
    """
    if n < 2:
        return None
    chance = welch_power if test == "welch" else paired_power

    def gap(effect: float) -> float:
        return chance(effect, n, alpha) - power

    high = 1.0
    while gap(high) < 0:
        high *= 2
    root: Any = optimize.brentq(gap, 0, high, xtol=1e-4)
    return float(root)


def seeds_needed(
    effect: float, alpha: float, test: str = "welch", power: float = POWER
) -> int | None:
    """The fewest seeds a group that decide: with this power, and with a sign-flip floor <= alpha.

    effect: the true one, which nobody knows; pass an estimate and say so. None above MOST seeds.
    """
    chance = welch_power if test == "welch" else paired_power
    return _fewest(lambda n: chance(abs(effect), n, alpha) >= power, floor_seeds(alpha))


def equivalence_seeds(
    estimate: float, sd: float, margin: float, alpha: float, power: float = POWER
) -> int | None:
    """The fewest seeds with which TOST shows |theta| < margin, if theta is the estimate.

    sd: of the contrast from one seed, so that its error with n seeds is sd / sqrt(n). The power is
    P(t1 > t) + P(t2 < -t) - 1 with noncentral t (at least; exact to a negligible term). None where
    the estimate lies outside the margin, and above MOST seeds.
    """
    if abs(estimate) >= margin:
        return None

    def enough(n: int) -> bool:
        bound = float(stats.t.isf(alpha, n - 1))
        reach = math.sqrt(n) / sd
        above = float(_nct_sf(bound, n - 1, (estimate + margin) * reach))
        below = float(_nct_sf(bound, n - 1, (margin - estimate) * reach))
        return above + below - 1 >= power

    return _fewest(enough, floor_seeds(2 * alpha))


@lru_cache(maxsize=1024)
def detectable_margin(df: float, alpha: float, power: float = POWER) -> float:
    """The smallest margin inside which TOST shows theta = 0 with this power, in units of its error.

    alpha: corrected, of each of the two one-sided tests. The power at theta = 0 is
    2 P(t > t(1 - alpha, df)) - 1 with noncentral t of noncentrality margin / error (at least).
    """
    bound = float(stats.t.isf(alpha, df))

    def gap(margin: float) -> float:
        return 2 * float(_nct_sf(bound, df, margin)) - 1 - power

    high = 1.0
    while gap(high) < 0:
        high *= 2
    root: Any = optimize.brentq(gap, 0, high, xtol=1e-4)
    return float(root)


def _fewest(enough: Any, least: int) -> int | None:
    """The smallest n from max(2, least) to MOST that is enough, by bisection."""
    low, high = max(2, least), MOST
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
