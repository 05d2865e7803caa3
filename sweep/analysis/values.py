"""Where the samples of a claim come from: the trials of a run, or what a paper has published."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweep.analysis.claims import Where
from sweep.analysis.convergence import movement
from sweep.analysis.samples import Sample, published_sample, sample_of
from trainers.config.recipe import RECIPE_FIELD
from trainers.config.schema import PINS, UNNAMED
from trainers.probes.censored import CENSORED
from trainers.results.record import Environment

Row = dict[str, Any]
Records = dict[int, NDArray[np.float64]]  # {seed: (images,)}
FINISHED = "finished"
DIGITS = 16  # of a sha256 in an error
NO_VALUE = "without the value"  # a finished trial
# Trials that differ in one of these have students of other shapes or other data: a common seed
# gives them neither the same initial weights nor the same images.
SHAPE = ("student", "teacher", "dataset", "image_size", "input", "classes", "student.parameters")
IMAGES = ("dataset", "classes", "data.test")  # which test images there are
TEACHER = ("teacher", "dataset", "image_size")  # `embedded` is trained on the data set
WEIGHTS = "weights_sha256"
AGAIN = "delete those of one and run them again"
# What is the same in all trials of a group, although no field of theirs; why, where it is not.
ALIKE = {
    "source": "they read other images, draws, prompts or teacher weights",
    WEIGHTS: "their teachers have other weights",
    "device": "on another kind of device the same seed gives other bits",
}
# Columns without `.` and `/` that are no field of a trial's configuration, which has `threads`.
RESULTS = {
    *("run", "trial", "status", "error", "started_ms", "ended_ms", "trial_seconds"),
    *("steps", "probe_versions"),
    *ALIKE,
    *(field.alias or name for name, field in Environment.model_fields.items()),
} - {"threads"}


class UntestableError(ValueError):
    """A claim cannot be tested on these values; the message says why, in one clause."""


class Values(Protocol):
    """The samples that claims are tested on."""

    def sample(self, where: Where, metric: str) -> Sample:
        """One group's values of a metric. Raises: UntestableError where there are none."""
        ...

    def check_comparable(self, groups: Sequence[Where]) -> None:
        """Check that the groups differ in nothing that no claim is meant to be about.

        Raises: UntestableError for other arithmetic of training, or other weights of one teacher.
        """
        ...

    def size(self, where: Where) -> float:
        """Parameters of the group's students. Raises: UntestableError where unknown."""
        ...

    def pairs(self, groups: Iterable[Where]) -> bool:
        """Whether trials of one seed in these groups begin alike, so that they are pairs."""
        ...

    def records(
        self, groups: Sequence[Where], metric: str, seeds: Sequence[Collection[int]]
    ) -> list[Records] | None:
        """{seed: (images,)} of each group: 1 where an accuracy's classifier is right, else 0.

        Under a corruption, the share of its draws in which it is right. seeds: of each group, those
        that the estimate is of, no more and no fewer. None where one of them is not recorded or
        cannot be read, or where the images are not the same.
        """
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
    arrays: {name: values} of a trial, see `Study.arrays`; raises KeyError where it has none.
    """

    def __init__(
        self,
        trials: pd.DataFrame,
        curves: pd.DataFrame | None = None,
        arrays: Callable[[str], Mapping[str, list[float]]] | None = None,
    ) -> None:
        self._arrays = arrays
        self.trials: Any = trials  # pandas' own types are too wide to be checked
        self.curves: Any = pd.DataFrame({"trial": [], "step": []}) if curves is None else curves
        # Columns of metrics have a `/` in their names and may be hundreds; groups need the others.
        fields = [name for name in trials.columns if "/" not in name]
        self._rows: list[Row] = self.trials[fields].to_dict("records")

    def rows(self, where: Where) -> list[tuple[int, Row]]:
        """(position, fields) of the trials of a group, finished or not, one a seed.

        Raises: UntestableError where there is none, or where they differ in something else than
        their seed, which the claim does not fix: its effect would count as spread between seeds.
        """
        rows = list(enumerate(self._rows))
        for field, value in where.items():
            known = [row.get(field) for _, row in rows]
            rows = [pair for pair, cell in zip(rows, known, strict=True) if same(cell, value)]
            if not rows:
                found = ", ".join(sorted({str(cell) for cell in known})) or "no trial"
                raise UntestableError(f"no trial with {field} = {value} (found: {found})")
        if wrong := mixed([row for _, row in rows]):
            raise UntestableError(f"trials of {label_of(where)} {wrong}")
        return rows

    def sample(self, where: Where, metric: str) -> Sample:
        rows = self.rows(where)
        column = self.trials[metric].tolist() if metric in self.trials.columns else None
        gone: dict[int, str] = {}
        values: dict[int, float] = {}
        censored = f"{metric}{CENSORED}"
        bounds = self.trials[censored].tolist() if censored in self.trials.columns else None
        for position, row in rows:
            value = math.nan if column is None else column[position]
            bound = None if bounds is None else bounds[position]
            if bound is not None and math.isfinite(bound):
                raise UntestableError(
                    f"{label_of(where)}: {metric} is above {bound:g} in a trial, the largest that "
                    "was measured: a mean without it would be too low"
                )
            seed = int(row["seed"])
            if row["status"] != FINISHED:
                gone[seed] = row["status"]
            elif value is None or not math.isfinite(value):
                gone[seed] = NO_VALUE
            else:
                values[seed] = float(value)
        if not values:
            why = ", ".join(f"{count} {status}" for status, count in Counter(gone.values()).items())
            raise UntestableError(f"{label_of(where)}: no value of {metric} ({why})")
        return sample_of(dict(sorted(values.items())), label_of(where), gone)

    def check_comparable(self, groups: Sequence[Where]) -> None:
        every = [row for where in groups for _, row in self.rows(where)]
        named = any(RECIPE_FIELD in where for where in groups)
        if (unlike := _unlike(RECIPE_FIELD, every)) and not named:
            raise UntestableError(f"groups differ in {unlike}: {AGAIN}")
        by_teacher: dict[str, list[Row]] = {}
        for row in every:
            if row["status"] == FINISHED:  # others have no weights
                teacher = str([row.get(name) for name in TEACHER])
                by_teacher.setdefault(teacher, []).append(row)
        for rows in by_teacher.values():
            if unlike := _unlike(WEIGHTS, rows, DIGITS):
                raise UntestableError(f"groups differ in {unlike} of one teacher: {AGAIN}")

    def size(self, where: Where) -> float:
        sizes = {row.get("student.parameters") for _, row in self.rows(where)}
        known = {float(n) for n in sizes if n is not None and n > 0}
        if len(known) != 1:
            raise UntestableError(f"{label_of(where)}: no number of parameters")
        return known.pop()

    def pairs(self, groups: Iterable[Where]) -> bool:
        every = [row for where in groups for _, row in self.rows(where)]
        rows = [row for row in every if row["status"] == FINISHED]  # others have no parameters
        return not any(len({str(row.get(field)) for row in rows}) > 1 for field in SHAPE)

    def records(
        self, groups: Sequence[Where], metric: str, seeds: Sequence[Collection[int]]
    ) -> list[Records] | None:
        stem, _, last = metric.rpartition("/")
        if self._arrays is None or last != "accuracy":
            return None
        used: list[dict[int, Row]] = []
        for where, own in zip(groups, seeds, strict=True):
            by_seed = {int(row["seed"]): row for _, row in self.rows(where)}
            used.append({seed: by_seed[seed] for seed in sorted(own)})
        every = [row for rows in used for row in rows.values()]
        if len({str([row.get(name) for name in IMAGES]) for row in every}) > 1:
            return None
        found: list[Records] = []
        try:
            for rows in used:
                right = {s: self._arrays(r["trial"])[f"{stem}/correct"] for s, r in rows.items()}
                found.append({seed: np.array(right_N) for seed, right_N in right.items()})
        except (KeyError, OSError):
            return None
        lengths = {len(values_N) for group in found for values_N in group.values()}
        return found if len(lengths) == 1 and all(found) else None

    def movement(self, where: Where) -> float | None:
        finished = {row["trial"] for _, row in self.rows(where) if row["status"] == FINISHED}
        return movement(self.curves[self.curves["trial"].isin(finished)])


def same(cell: Any, value: Any) -> bool:
    """Whether a cell of the table holds the value of a claim; 30 is 30.0, and "1" is not 1."""
    if isinstance(cell, bool) or isinstance(value, bool):
        return cell is value
    missing = cell is None or (isinstance(cell, float) and math.isnan(cell))
    return value is None if missing else bool(cell == value)


def mixed(rows: Sequence[Row]) -> str | None:
    """Why trials are not the seeds of one group, as what follows their name; None where they are.

    They may differ in their seed, in what a trial's identity leaves out (`varying`), and in their
    results. With `data_seed: per_seed` each seed has draws of its own, and all have one `source`.
    """
    if names := varying(rows):
        return f"differ in {', '.join(names)}; add it to `where`"
    finished = [row for row in rows if row["status"] == FINISHED]  # others have none of these
    for name, why in ALIKE.items():
        if unlike := _unlike(name, finished, DIGITS):
            return f"differ in {unlike}: {why}; {AGAIN}"
    if len({row["seed"] for row in rows}) < len(rows):
        return "share a seed and differ in no field that is recorded; expected one trial a seed"
    return None


def varying(rows: Sequence[Row]) -> list[str]:
    """Fields of the configuration in which trials of one group differ: `epochs (2, 30)`."""
    return [found for name in configured(rows) if (found := _unlike(name, rows))]


def configured(rows: Sequence[Row]) -> list[str]:
    """Fields of the configuration that are equal in the trials of one group.

    Not the seed, nor what a trial's identity leaves out, as it changes no result: facts about the
    teacher, whose weights and `source` are results, and what `elastic` lets change.
    """
    without = {"seed", *PINS, *RESULTS}
    without |= {name for row in rows for name in UNNAMED.get(str(row.get("elastic")), ())}
    names = dict.fromkeys(name for row in rows for name in row if not {".", "/"} & {*name})
    return [name for name in names if name not in without]


def _unlike(name: str, rows: Sequence[Row], most: int | None = None) -> str:
    """`epochs (2, 30)`: a field and its values, where trials differ in it; else "".

    most: characters of each value that are shown; None shows all.
    """
    one = rows[0].get(name) if rows else None
    if all(row.get(name) == one for row in rows):  # most fields of most groups
        return ""
    values: list[Any] = []
    for row in rows:
        value = row.get(name)
        value = None if same(value, None) else value
        if not any(same(value, other) for other in values):
            values.append(value)
    if len(values) < 2:
        return ""
    shown = sorted(str(value)[:most] for value in values)
    return f"{name} ({', '.join(shown[:4])}{', ...' if len(shown) > 4 else ''})"


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

    def check_comparable(self, groups: Sequence[Where]) -> None:
        return None  # all are of one paper

    def size(self, where: Where) -> float:
        return float(self._group(where)["parameters"])

    def pairs(self, groups: Iterable[Where]) -> bool:
        return False  # values of single seeds are not published

    def records(
        self, groups: Sequence[Where], metric: str, seeds: Sequence[Collection[int]]
    ) -> list[Records] | None:
        return None

    def movement(self, where: Where) -> float | None:
        return None
