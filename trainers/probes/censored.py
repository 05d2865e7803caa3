"""Censored values: those of which only a bound is known.

A noise strength at which half of the accuracy is lost cannot be read where it is not lost at the
largest strength that was measured. Of `test/noise/pixel/half` a result then has no value, and the
metric `test/noise/pixel/half/above` holds the bound. A mean that left such trials out would be too
low, and lower the more robust the students are; so they are counted in with their bound, and the
mean is itself given as a bound.
"""

from __future__ import annotations

CENSORED = "/above"  # after the name of a value: the bound that it lies above


def uncensored(name: str) -> str:
    """The name of the value that a bound is of; any other name as it is."""
    return name.removesuffix(CENSORED)
