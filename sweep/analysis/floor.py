"""The smallest p that an exact sign-flip test can give, whatever the values are."""

from __future__ import annotations


def floor_of(n: int) -> float:
    """Two-sided, of n seeds: 2 / 2^n, and 1 where n = 0. 0.25 at 3, 0.0625 at 5, 0.002 at 10."""
    return min(1.0, 2 / 2**n)


def floor_seeds(alpha: float) -> int:
    """The fewest seeds whose floor is at most alpha: 6 for 0.05, 8 for 0.05 / 6."""
    n = 1
    while floor_of(n) > alpha:
        n += 1
    return n
