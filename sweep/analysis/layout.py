"""Whole designs: capacity x arm with its interaction, students less their teacher, matched fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sweep.analysis.curves import observed
from sweep.analysis.samples import ROUNDING, Sample, sample_of
from sweep.analysis.values import FINISHED, NO_VALUE, varying

COSINE = "cosine_to_teacher"


@dataclass(frozen=True)
class Source:
    """A line of an analysis of variance. share: partial eta^2, SS / (SS + SS residual), [0, 1]."""

    name: str
    df: float
    f: float
    p: float
    share: float


@dataclass(frozen=True)
class TwoWay:
    """An analysis of variance. n: values in it. lost: {status: count} of trials without a value."""

    sources: tuple[Source, ...]
    n: int
    lost: Mapping[str, int]


def two_way(trials: pd.DataFrame, metric: str, rows: str, columns: str) -> TwoWay:
    """Two factors and their interaction: F tests with sums of squares of type II, by statsmodels.

    rows, columns: fields such as `student` and `arm`; their values are categories. A significant
    interaction says that the effect of one depends on the other, and main effects are then means
    over unlike things. Assumes equal variances, which Welch's tests of single claims do not.
    Raises: ValueError where a cell has no value, no cell has two or none has a spread, or where
    trials of one cell differ in another field, whose effect would then count as spread between
    seeds.
    """
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    cells: Any = trials.groupby([rows, columns], sort=False)
    for (row, column), cell in cells:
        _check_one_a_seed(cell, f"{row}, {column}")
    kept, gone = _with_values(trials, [metric])
    table: Any = pd.DataFrame({"y": kept[metric], "a": kept[rows], "b": kept[columns]})
    counts = table.groupby(["a", "b"]).size()
    wanted = len(set(trials[rows])) * len(set(trials[columns]))
    if len(counts) < wanted or len(table) <= wanted:
        raise ValueError(
            f"{metric}: {len(table)} values in {len(counts)} of {wanted} cells of {rows} x "
            f"{columns}; expected every cell, and two values in some"
        )
    inside = table["y"] - table.groupby(["a", "b"])["y"].transform("mean")
    if abs(inside).max() <= ROUNDING * abs(table["y"]).max():
        raise ValueError(
            f"{metric}: the values in every cell of {rows} x {columns} are equal; expected a "
            "spread between seeds, to test with"
        )
    fitted: Any = ols("y ~ C(a) * C(b)", data=table).fit()
    lines: Any = anova_lm(fitted, typ=2)
    rest = float(lines.loc["Residual", "sum_sq"])
    names = {"C(a)": rows, "C(b)": columns, "C(a):C(b)": f"{rows} x {columns}"}
    sources = tuple(
        Source(
            name,
            float(lines.loc[term, "df"]),
            float(lines.loc[term, "F"]),
            float(lines.loc[term, "PR(>F)"]),
            float(lines.loc[term, "sum_sq"]) / (float(lines.loc[term, "sum_sq"]) + rest),
        )
        for term, name in names.items()
    )
    return TwoWay(sources, len(table), Counter(why for _, why in gone))


def less_teacher(trials: pd.DataFrame, metric: str, label: str = "") -> Sample:
    """Student minus teacher of each finished trial: metric `test/NAME` less `teacher/NAME`.

    The teacher is measured once, on the same images, so its value has no spread over seeds and a t
    interval of the sample is one of the difference. Its `lost` counts the trials without a value.
    Raises: ValueError where no trial has both, where two trials have the same seed, or where trials
    differ in a field of their configuration.
    """
    own, reference = f"test/{metric}", f"teacher/{metric}"
    _check_one_a_seed(trials, label or metric)
    both, gone = _with_values(trials, [own, reference])
    pairs = zip(both["seed"], both[own] - both[reference], strict=True)
    return sample_of({int(seed): float(value) for seed, value in pairs}, label, dict(gone))


def _with_values(trials: Any, metrics: list[str]) -> tuple[Any, list[tuple[int, str]]]:
    """The finished trials with finite values of these metrics; (seed, why) of the others."""
    there: Any = trials["status"] == FINISHED
    for name in metrics:
        there &= np.isfinite(trials[name].astype(float)) if name in trials else False
    others: Any = trials[~there]
    why = others["status"].replace(FINISHED, NO_VALUE)
    return trials[there], list(zip(map(int, others["seed"]), map(str, why), strict=True))


def _check_one_a_seed(trials: Any, label: str) -> None:
    """Raises: ValueError where trials differ in something else than their seed, or share one."""
    fields = [name for name in map(str, trials.columns) if "/" not in name]
    if names := varying(trials[fields].to_dict("records")):
        raise ValueError(f"{label}: trials differ in {', '.join(names)}; choose one value")
    if trials["seed"].duplicated().any():
        raise ValueError(f"{label}: trials share a seed; expected one trial a seed")


def matched_level(curves: pd.DataFrame, by: str = COSINE) -> float | None:
    """The lowest of the trials' highest `by`: the best fit that all reached. None without any."""
    rows: Any = curves.assign(by=observed(curves, by))
    best = rows.groupby("trial")["by"].max().dropna()
    return float(best.min()) if len(best) else None


def at_matched(
    curves: pd.DataFrame,
    value: str = "rank/effective",
    by: str = COSINE,
    level: float | None = None,
) -> dict[str, float]:
    """{trial: `value` where its `by` first reached `level`}, interpolated between observations.

    Ranks of students that fit their teacher unequally well differ for that alone; this compares
    them at the same mean cosine. level: default that of `matched_level`. A trial that never reaches
    it, or begins above it, is left out.
    """
    found: dict[str, float] = {}
    both = {"value": observed(curves, value), "by": observed(curves, by)}
    rows: Any = curves.assign(**both).dropna(subset=["value", "by"]).sort_values("step")
    goal = matched_level(rows, "by") if level is None else level
    if goal is None:
        return found
    for trial, part in rows.groupby("trial", sort=False):
        fit_T, value_T = part["by"].to_numpy(dtype=float), part["value"].to_numpy(dtype=float)
        reached = np.flatnonzero(fit_T >= goal)
        if len(reached) == 0 or (reached[0] == 0 and fit_T[0] > goal):
            continue
        i = int(reached[0])
        if i == 0:
            found[str(trial)] = float(value_T[0])
            continue
        share = (goal - fit_T[i - 1]) / (fit_T[i] - fit_T[i - 1])
        found[str(trial)] = float(value_T[i - 1] + share * (value_T[i] - value_T[i - 1]))
    return found
