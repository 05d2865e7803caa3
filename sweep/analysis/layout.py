"""Whole designs: capacity x arm with its interaction, students less their teacher, matched fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweep.analysis.curves import observed
from sweep.analysis.samples import Sample, sample_of
from sweep.analysis.values import FINISHED

COSINE = "cosine_to_teacher"


@dataclass(frozen=True)
class Source:
    """A line of an analysis of variance. share: partial eta^2, SS / (SS + SS residual), [0, 1]."""

    name: str
    df: float
    f: float
    p: float
    share: float


def two_way(trials: pd.DataFrame, metric: str, rows: str, columns: str) -> list[Source]:
    """Two factors and their interaction: F tests with sums of squares of type II, by statsmodels.

    rows, columns: fields such as `student` and `arm`; their values are categories. A significant
    interaction says that the effect of one depends on the other, and main effects are then means
    over unlike things. Assumes equal variances, which Welch's tests of single claims do not.
    Raises: ValueError where a cell has no value, or no cell has two.
    """
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    done: Any = trials[trials["status"] == FINISHED]
    table: Any = pd.DataFrame({"y": done[metric], "a": done[rows], "b": done[columns]}).dropna()
    counts = table.groupby(["a", "b"]).size()
    wanted = table["a"].nunique() * table["b"].nunique()
    if len(counts) < wanted or len(table) <= wanted:
        raise ValueError(
            f"{metric}: {len(table)} values in {len(counts)} of {wanted} cells of {rows} x "
            f"{columns}; expected every cell, and two values in some"
        )
    fitted: Any = ols("y ~ C(a) * C(b)", data=table).fit()
    lines: Any = anova_lm(fitted, typ=2)
    rest = float(lines.loc["Residual", "sum_sq"])
    names = {"C(a)": rows, "C(b)": columns, "C(a):C(b)": f"{rows} x {columns}"}
    return [
        Source(
            name,
            float(lines.loc[term, "df"]),
            float(lines.loc[term, "F"]),
            float(lines.loc[term, "PR(>F)"]),
            float(lines.loc[term, "sum_sq"]) / (float(lines.loc[term, "sum_sq"]) + rest),
        )
        for term, name in names.items()
    ]


def less_teacher(trials: pd.DataFrame, metric: str, label: str = "") -> Sample:
    """Student minus teacher of each finished trial: metric `test/NAME` less `teacher/NAME`.

    The teacher is measured once, on the same images, so its value has no spread over seeds and a t
    interval of the sample is one of the difference. Raises: ValueError where no trial has both.
    """
    done: Any = trials[trials["status"] == FINISHED]
    own, reference = f"test/{metric}", f"teacher/{metric}"
    both = done.dropna(subset=[own, reference])
    pairs = zip(both["seed"], both[own] - both[reference], strict=True)
    return sample_of({int(seed): float(value) for seed, value in pairs}, label)


def at_matched(
    curves: pd.DataFrame,
    value: str = "rank/effective",
    by: str = COSINE,
    level: float | None = None,
) -> dict[str, float]:
    """{trial: `value` where its `by` first reached `level`}, interpolated between observations.

    Ranks of students that fit their teacher unequally well differ for that alone; this compares
    them at the same mean cosine. level: default the lowest of the trials' highest cosines, the best
    fit that all reached. A trial that never reaches it, or begins above it, is left out.
    """
    found: dict[str, float] = {}
    both = {"value": observed(curves, value), "by": observed(curves, by)}
    rows: Any = curves.assign(**both).dropna(subset=["value", "by"]).sort_values("step")
    by_trial = {str(trial): part for trial, part in rows.groupby("trial", sort=False)}
    if not by_trial:
        return found
    goal = min(float(part["by"].max()) for part in by_trial.values()) if level is None else level
    for trial, part in by_trial.items():
        fit_T, value_T = part["by"].to_numpy(dtype=float), part["value"].to_numpy(dtype=float)
        reached = np.flatnonzero(fit_T >= goal)
        if len(reached) == 0 or (reached[0] == 0 and fit_T[0] > goal):
            continue
        i = int(reached[0])
        if i == 0:
            found[trial] = float(value_T[0])
            continue
        share = (goal - fit_T[i - 1]) / (fit_T[i] - fit_T[i - 1])
        found[trial] = float(value_T[i - 1] + share * (value_T[i] - value_T[i - 1]))
    return found
