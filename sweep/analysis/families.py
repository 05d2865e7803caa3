"""Several tests at once: Holm's correction over a declared family, and alpha over planned looks."""

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


@dataclass(frozen=True)
class Share:
    """What the last look at results may use.

    alpha: of the whole family. planned: seeds a group at the looks that were declared beforehand.
    exploratory: whether this look is none of them, so that its verdicts count as hints.
    """

    alpha: float
    planned: tuple[int, ...]
    exploratory: bool


def share_of(alpha: float, planned: Sequence[int], looks: Sequence[int]) -> Share:
    """The share of alpha that the last of several looks at a growing number of seeds has.

    planned: seeds a group at each look that was declared before the first result; without any, the
    first of `looks` is the only planned one. looks: those that were made, e.g. (10, 20) where ten
    seeds were added after the results of ten had been seen.

    Each planned look has alpha / (number of planned looks), so that all together decide wrongly
    with a chance of at most alpha, whatever they have to do with each other and whatever makes
    one go on to the next (Bonferroni). The number of seeds of each must be fixed beforehand: one
    that is chosen after a look depends on the values that it adds to, and its p is none. A look at
    another number of seeds is exploratory, as it has no alpha: the planned looks have spent it all.
    """
    whole = tuple(planned) or tuple(looks[:1])
    exploratory = bool(looks) and max(looks) not in whole
    return Share(alpha / max(1, len(planned)), whole, exploratory)
