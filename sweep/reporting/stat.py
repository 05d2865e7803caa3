"""Mean, deviation and interval over the seeds of a group: those of every table and figure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sweep.analysis.samples import Sample, t_interval
from trainers.probes.censored import CENSORED, uncensored
from trainers.probes.names import metric_of

Frame = Any  # a DataFrame; pandas' own types are too wide to be checked


@dataclass(frozen=True)
class Stat:
    """Mean, standard deviation (ddof = 1, None where n = 1) and count of finite values.

    censored: of how many of the n values only a bound is known (`trainers.probes.censored`). Where
    there are any, the mean takes them at their bounds, so it is itself a lower bound, and there is
    no standard deviation.
    """

    mean: float
    sd: float | None
    n: int
    censored: int = 0

    def interval(self, metric: str) -> tuple[float, float] | None:
        """95 % t interval of the mean, clipped to the metric's range where it is a share.

        A t interval knows no bounds: three accuracies near 1 give one that ends above 100 %. None
        without a deviation.
        """
        ends = t_interval(Sample("", self.n, self.mean, self.sd))
        known = metric_of(metric)
        if ends is None or known is None or known.range != "0 to 1":
            return ends
        return max(ends[0], 0.0), min(ends[1], 1.0)


def stat_of(values: Iterable[Any]) -> Stat | None:
    """Stat of the finite numbers among `values`; None if there is none."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    return Stat(float(np.mean(numbers)), sd, len(numbers)) if numbers else None


def stat_of_metric(trials: Frame, name: str) -> Stat | None:
    """Stat of a metric over trials, a row each; censored values count with their bounds."""
    values, bounds = values_of(trials, name), values_of(trials, f"{name}{CENSORED}")
    pairs = list(zip(values, bounds, strict=True))
    censored = sum(math.isnan(value) and math.isfinite(bound) for value, bound in pairs)
    stat = stat_of(bound if math.isnan(value) else value for value, bound in pairs)
    return replace(stat, sd=None, censored=censored) if stat and censored else stat


def values_of(trials: Frame, name: str) -> list[float]:
    """One value a trial, NaN where a trial has none."""
    if name not in trials:
        return [math.nan] * len(trials)
    return [float(value) for value in trials[name]]


def metrics_in(trials: Frame, prefix: str) -> list[str]:
    """Names of metrics with this prefix, those included of which all values are censored."""
    names = (str(name) for name in trials.columns if str(name).startswith(prefix))
    return sorted({one for name in names for one in (name, uncensored(name))})
