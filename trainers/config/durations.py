"""One vocabulary for durations: `5 epochs`, `1000 steps` or `50000 samples`.

An epoch is floor(N / B) optimiser steps of B samples each; N samples are floor(N / B) steps.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

from shards.arms import make_arm

if TYPE_CHECKING:
    from trainers.config.schema import TrialConfig

DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) (epoch|step|sample)s?")


def canonical_duration(text: str) -> str:
    """`1.50 epoch` -> `1.5 epochs`. Raises: ValueError saying what is right."""
    match = DURATION.fullmatch(text)
    if match is None or (match[2] != "epoch" and "." in match[1]):
        raise ValueError(
            f"`{text}`: write a number and its unit, such as `5 epochs`, `1000 steps` or "
            "`50000 samples`; only epochs may have a fraction"
        )
    return f"{Decimal(match[1]).normalize():f} {match[2]}s"


def in_steps(duration: str, batch_size: int, train_samples: int) -> int:
    """Optimiser steps of a duration; a fraction of a step is dropped."""
    number, unit = canonical_duration(duration).split()
    if unit == "steps":
        return int(number)
    if unit == "samples":
        return int(number) // batch_size
    return int(Decimal(number) * (train_samples // batch_size))


def epochs_shown(config: TrialConfig, train_samples: int) -> int:
    """Epochs that a trial begins: the last may be cut short."""
    steps = config.total_steps(train_samples)
    return -(-steps // max(1, train_samples // config.batch_size))


def distinct_views(config: TrialConfig, train_samples: int) -> int:
    """Different views of a sample that training shows at most: 1 of an arm without draws.

    Epoch e shows view (e + offset) mod K; with `infonce_positive: student` the next one too.
    """
    if not make_arm(config.arm).stochastic:
        return 1
    pair = "infonce" in config.objective.split("+") and config.infonce_positive == "student"
    return min(config.views, epochs_shown(config, train_samples) + pair)
