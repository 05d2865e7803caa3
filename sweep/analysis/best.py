"""Which draw of a search is the best, by its last value on the validation split."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from typing import Any

import pandas as pd

from sweep.analysis.frame import FINISHED, Study
from sweep.planning.search import Search


def last_values(curves: pd.DataFrame, measure: str) -> dict[str, float]:
    """{trial: the last value that was observed of `measure`}, a column of `Study.curves`."""
    if measure not in curves.columns:
        return {}
    rows: Any = curves.dropna(subset=[measure]).sort_values("step")
    last = rows.groupby("trial", sort=False)[measure].last()
    return {str(trial): float(value) for trial, value in last.items()}


def best_lines(study: Study, search: Search, trials: Container[str]) -> list[str]:
    """One line for each combination of the axes: its best draw, and by what.

    trials: identities of those that the search drew; others in the study are no candidates.

    Of a draw the mean over its seeds counts. One whose trials have not all finished (some failed or
    were stopped early) is no candidate: the mean would be of other seeds.
    """
    drawn = [name for name in search.ranges if name in study.trials.columns]
    axes = [name for name in study.axes if name not in search.ranges]
    last = last_values(study.curves, search.measure)
    groups: dict[tuple[Any, ...], dict[tuple[Any, ...], list[float]]] = {}
    seeds: dict[tuple[Any, ...], int] = {}
    for row in study.trials.to_dict("records"):
        if row["trial"] not in trials:
            continue
        place = tuple(row.get(name) for name in axes)
        draw = tuple(row.get(name) for name in drawn)
        value = last.get(row["trial"], math.nan) if row["status"] == FINISHED else math.nan
        values = groups.setdefault(place, {}).setdefault(draw, [])
        values.append(value)
        seeds[place] = max(seeds.get(place, 0), len(values))
    return [
        _line(place, draws, axes, drawn, search, seeds[place]) for place, draws in groups.items()
    ]


def _line(
    place: tuple[Any, ...],
    draws: dict[tuple[Any, ...], list[float]],
    axes: list[str],
    drawn: list[str],
    search: Search,
    seeds: int,
) -> str:
    means = {
        draw: sum(values) / len(values) for draw, values in draws.items() if len(values) == seeds
    }
    found = {draw: mean for draw, mean in means.items() if math.isfinite(mean)}
    where = _named(axes, place)
    if not found:
        return f"{where + ': ' if where else ''}no draw of {len(draws)} has finished"
    best = (max if search.mode == "max" else min)(found, key=lambda draw: found[draw])
    over = f" (mean of {seeds} seeds)" if seeds > 1 else ""
    return (
        f"{where + ': ' if where else ''}best of {len(found)} draws: {_named(drawn, best)}; "
        f"{search.measure} {found[best]:.4g}{over}"
    )


def _named(names: Iterable[str], values: Iterable[Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
