"""One vocabulary for durations: `5 epochs`, `1000 steps` or `50000 samples`.

An epoch is floor(N / B) optimiser steps of B samples each; N samples are floor(N / B) steps.
"""

from __future__ import annotations

import re
from decimal import Decimal

from shards.support.command import one_line

DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) (epoch|step|sample)s?")


def canonical_duration(text: str) -> str:
    """One spelling for each duration: `1.50 epoch` -> `1.5 epochs`.

    Raises: ValueError for text that is not a number and one of the three units.
    """
    match = DURATION.fullmatch(text)
    if match is None or (match[2] != "epoch" and "." in match[1]):
        raise ValueError(
            f"`{one_line(text)}`: write a number and its unit, such as `5 epochs`, `1000 steps` or "
            "`50000 samples`; only epochs may have a fraction"
        )
    return f"{Decimal(match[1]).normalize():f} {match[2]}s"


def in_steps(duration: str, batch_size: int, train_samples: int) -> int:
    """Optimiser steps of a duration; a fraction of a step is dropped.

    batch_size: samples in one step. train_samples: samples in one epoch.
    Raises: ValueError as `canonical_duration`.
    """
    number, unit = canonical_duration(duration).split()
    if unit == "steps":
        return int(number)
    if unit == "samples":
        return int(number) // batch_size
    return int(Decimal(number) * (train_samples // batch_size))
