"""Where the samples of a claim come from: the trials of a run, or what a paper has published."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import pandas as pd

from sweep.analysis.claims import Where
from sweep.analysis.convergence import movement
from sweep.analysis.samples import Sample, published_sample, sample_of

FINISHED = "finished"
# Trials that differ in one of these have students of other shapes or other data: a common seed
# gives them neither the same initial weights nor the same images.
SHAPE = ("student", "teacher", "dataset", "image_size", "input", "classes", "student.parameters")
NOT_FIELDS = ("run", "trial", "status", "error", "seed", "source", "weights_sha256")


class UntestableError(ValueError):
    """A claim cannot be tested on these values; the message says why, in one clause."""


class Values(Protocol):
    """The samples that claims are tested on."""

    def sample(self, where: Where, metric: str) -> Sample:
        """One group's values of a metric. Raises: UntestableError where there are none."""
        ...

    def size(self, where: Where) -> float:
        """Parameters of the group's students. Raises: UntestableError where unknown."""
        ...

    def pairs(self, groups: Iterable[Where]) -> bool:
        """Whether trials of one seed in these groups begin alike, so that they are pairs."""
        ...

    def movement(self, where: Where) -> float | None:
        """Of the group's rank at the end of training; None where that was not measured."""
        ...


def label_of(where: Where) -> str:
    """A group in words: the values of its fields."""
    return " ".join(str(value) for value in where.values()) or "all trials"


class TrialValues:
    """The values of a run's trials.

    trials: a row a trial, see `Study.trials`. curves: a row an observation, see `Study.curves`.
    """

    def __init__(self, trials: pd.DataFrame, curves: pd.DataFrame | None = None) -> None:
        self.trials = trials
        self.curves = pd.DataFrame({"trial": [], "step": []}) if curves is None else curves

    def rows(self, where: Where) -> Any:
        """The trials of a group, finished or not, one a seed.

        Raises: UntestableError where there is none, or where two have the same seed: the group
        then mixes trials that differ in something else, which the claim does not fix.
        """
        rows: Any = self.trials  # a DataFrame; pandas' own types are too wide to be checked
        for field, value in where.items():
            known = list(rows[field]) if field in rows.columns else []
            rows = rows[[same(cell, value) for cell in known]] if known else rows.iloc[:0]
            if rows.empty:
                found = ", ".join(sorted({str(cell) for cell in known})) or "no such field"
                raise UntestableError(f"no trial with {field} = {value} (found: {found})")
        if rows["seed"].duplicated().any():
            names = ", ".join(varying(rows)) or "no field that is recorded"
            raise UntestableError(
                f"trials of {label_of(where)} share a seed and differ in {names}; add it to `where`"
            )
        return rows

    def sample(self, where: Where, metric: str) -> Sample:
        rows = self.rows(where)
        lost: dict[str, int] = {}
        values: dict[int, float] = {}
        for row in rows.to_dict("records"):
            value: Any = row.get(metric)
            if row["status"] != FINISHED:
                lost[row["status"]] = lost.get(row["status"], 0) + 1
            elif value is None or not math.isfinite(value):
                lost["without the value"] = lost.get("without the value", 0) + 1
            else:
                values[int(row["seed"])] = float(value)
        if not values:
            gone = ", ".join(f"{count} {status}" for status, count in lost.items())
            raise UntestableError(f"{label_of(where)}: no value of {metric} ({gone})")
        return sample_of(dict(sorted(values.items())), label_of(where), lost)

    def size(self, where: Where) -> float:
        rows = self.rows(where)
        sizes = {float(n) for n in rows["student.parameters"].dropna()}
        if len(sizes) != 1 or not min(sizes) > 0:
            raise UntestableError(f"{label_of(where)}: no number of parameters")
        return sizes.pop()

    def pairs(self, groups: Iterable[Where]) -> bool:
        rows = [self.rows(where) for where in groups]
        for field in (name for name in SHAPE if name in self.trials.columns):
            if len({str(cell) for part in rows for cell in part[field].dropna()}) > 1:
                return False
        return True

    def movement(self, where: Where) -> float | None:
        rows = self.rows(where)
        finished = set(rows.loc[rows["status"] == FINISHED, "trial"])
        curves: Any = self.curves
        return movement(curves[curves["trial"].isin(finished)])


def same(cell: Any, value: Any) -> bool:
    """Whether a cell of the table holds the value of a claim; 30 is 30.0, and "1" is not 1."""
    if isinstance(cell, bool) or isinstance(value, bool):
        return cell is value
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return value is None if missing else bool(cell == value)


def varying(rows: Any) -> list[str]:
    """Fields of the configuration in which trials of one group differ."""
    fields = [n for n in rows.columns if n not in NOT_FIELDS and "/" not in n and "." not in n]
    return [name for name in fields if len({str(cell) for cell in rows[name]}) > 1]


class PublishedValues:
    """Means and deviations as published; see `sweep.analysis.published`.

    ddof: of the deviations. groups: each with `fields`, `parameters`, `n` and `metrics`, which maps
    a metric to [mean, deviation], the deviation None where none was published.
    """

    def __init__(self, groups: list[dict[str, Any]], ddof: int) -> None:
        self.groups, self.ddof = groups, ddof

    def _group(self, where: Where) -> dict[str, Any]:
        for group in self.groups:
            if all(group["fields"].get(name) == value for name, value in where.items()):
                return group
        raise UntestableError(f"nothing is published of {label_of(where)}")

    def sample(self, where: Where, metric: str) -> Sample:
        group = self._group(where)
        if metric not in group["metrics"]:
            raise UntestableError(f"no {metric} is published of {label_of(where)}")
        mean, sd = group["metrics"][metric]
        found = published_sample(label_of(where), group["n"], mean, sd, self.ddof)
        if found.sd is None:
            raise UntestableError(f"no deviation of {metric} is published for {label_of(where)}")
        return found

    def size(self, where: Where) -> float:
        return float(self._group(where)["parameters"])

    def pairs(self, groups: Iterable[Where]) -> bool:
        return False  # values of single seeds are not published

    def movement(self, where: Where) -> float | None:
        return None
