"""Several tests at once: Holm's correction over a declared family, and alpha for later seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Corrected:
    """One test of a family. p: adjusted, at most 1. alpha: what its own p was compared with.

    significant: whether it and every test with a smaller p passed.
    """

    p: float
    alpha: float
    significant: bool


def holm(p_values: Sequence[float | None], alpha: float) -> list[Corrected]:
    """Holm's step-down correction over a family of m tests, in the order given.

    The k-th smallest p is compared with alpha / (m - k + 1), until one fails. The chance of any
    false rejection is then at most alpha, whatever the tests have to do with each other. A test
    without a p (None) stays in the family, as if its p were 1: a family is declared, and does not
    shrink with what could not be tested. Source: Holm 1979. (Written out, because statsmodels'
    multipletests runs the garbage collector at every call.)
    """
    filled_M = np.array([1.0 if p is None else p for p in p_values])
    order_M = np.argsort(filled_M, kind="stable")
    corrected: dict[int, Corrected] = {}
    highest, passed = 0.0, True
    for k, index in enumerate(order_M.tolist()):
        left, p = len(filled_M) - k, float(filled_M[index])
        highest = max(highest, min(1.0, left * p))
        passed = passed and p <= alpha / left
        corrected[index] = Corrected(highest, alpha / left, passed)
    return [corrected[index] for index in range(len(filled_M))]


def spent_alpha(alpha: float, looks: Sequence[int]) -> float:
    """What is left of alpha for the last of several looks at a growing number of seeds.

    looks: seeds a group at each look, e.g. (10, 20) where ten more were added after the results of
    ten had been seen. Alpha is spent in proportion to the seeds, alpha(t) = alpha t, so the last
    look has alpha (1 - n_before / n_now), and all looks together at most alpha (Lan and DeMets
    1983, linear spending; each look's own p is compared with its share, which ignores that looks
    are correlated and so errs on the safe side). One look has all of alpha.
    """
    grown = [n for i, n in enumerate(looks) if n > max(looks[:i], default=0)]
    if len(grown) < 2:
        return alpha
    return alpha * (1 - grown[-2] / grown[-1])
