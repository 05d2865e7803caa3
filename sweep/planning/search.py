"""`search` of a grid: values of some fields are drawn from ranges instead of listed as axes.

    search:
      by: random              # or optuna, see sweep.planning.proposals
      trials: 20              # draws; each is a trial of every combination of the axes and seeds
      seed: 0                 # of the draws (default: 0)
      at_once: 4              # optuna: so many draws are without a value at a time (default: 4)
      metric: ridge/accuracy  # of the curves, on the validation split: by it a draw is the best
      mode: max               # or min
      ranges:
        lr: {log: [1.0e-4, 1.0e-2]}           # log-uniform
        ema: {uniform: [0.0, 0.99]}
        epochs: {integer: [3, 9]}             # ends included
        batch_size: {choice: [32, 64, 128]}

A random draw is a pure function of (seed, number of the draw, field). So a search that was
interrupted goes on with the draws it would have had, and more `trials` are added to those there
are. This module needs neither torch nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, field_validator

from sweep.planning.early_stopping import DecidedByMetric, read_section
from trainers.config.types import Integer

KEY = "search"
KINDS = ("log", "uniform", "integer", "choice")
# Fields that decide which images are read, held out or observed: a metric of other images says
# nothing about which draw is better.
OF_THE_DATA = (
    "dataset", "image_size", "train_samples", "test_samples", "validation_samples", "teacher",
    "teacher_sha256", "teacher_dim", "teacher_size", "teacher_precision", "arm", "views",
    "data_seed", "classes", "seed", "recipe", "curve_every", "curve_samples", "probe_at",
    "test_arms", "test_views",
)  # fmt: skip
DIGITS = 4  # significant digits of a drawn number: it is a field's value, and read by people


class Search(DecidedByMetric):
    """The fields of `search`, see the module."""

    by: Literal["random", "optuna"]
    trials: Integer = Field(ge=1)
    seed: Integer = Field(default=0, ge=0, lt=2**32)  # as Optuna's samplers take it
    at_once: Integer = Field(default=4, ge=1)
    ranges: dict[str, dict[str, list[Any]]] = Field(min_length=1)

    @field_validator("ranges")
    @classmethod
    def _ranges(cls, ranges: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        for field, described in ranges.items():
            _check_range(field, described)
        return ranges

    def without(self, field: str) -> Search | None:
        """The search without a field's range; None where no range is left."""
        left = {name: described for name, described in self.ranges.items() if name != field}
        return self.model_copy(update={"ranges": left}) if left else None

    def outermost(self) -> Iterator[tuple[str, Any]]:
        """(field, value) of every choice, and of both ends of every other range, as drawn."""
        for field, described in self.ranges.items():
            ((kind, values),) = described.items()
            for value in values:
                yield field, float(value) if kind in ("log", "uniform") else value

    def draw(self, number: int) -> dict[str, Any]:
        """{field: value} of a random draw; numbers begin at 0."""
        return {
            field: _value(described, _uniform(self.seed, number, field))
            for field, described in self.ranges.items()
        }


def read_search(raw: Any, source: str) -> Search | None:
    """As `read_section`."""
    return read_section(Search, raw, f"{source}: {KEY}")


def _check_range(field: str, described: dict[str, list[Any]]) -> None:
    if field in OF_THE_DATA:
        raise ValueError(f"`{field}` decides what is measured on; make it an axis")
    if len(described) != 1 or next(iter(described)) not in KINDS:
        raise ValueError(f"`{field}`: expected one of {', '.join(KINDS)}; found `{described}`")
    ((kind, values),) = described.items()
    if kind == "choice":
        if not values:
            raise ValueError(f"`{field}`: choice: expected at least one value")
        return
    whole = kind == "integer"
    numbers = all(
        isinstance(v, int if whole else int | float) and not isinstance(v, bool) for v in values
    )
    if len(values) != 2 or not numbers or not values[0] < values[1]:
        what = "whole numbers" if whole else "numbers"
        raise ValueError(f"`{field}`: {kind}: expected two {what}, [low, high]; found `{values}`")
    if kind == "log" and values[0] <= 0:
        raise ValueError(f"`{field}`: log: expected numbers above 0; found `{values}`")


def _value(described: dict[str, list[Any]], u: float) -> Any:
    """The value at u of [0, 1) of a range."""
    ((kind, values),) = described.items()
    if kind == "choice":
        return values[int(u * len(values))]
    low, high = values
    if kind == "integer":
        return low + int(u * (high - low + 1))
    drawn = low * (high / low) ** u if kind == "log" else low + u * (high - low)
    return rounded(drawn, low, high)


def rounded(value: float, low: float, high: float) -> float:
    """A number of [low, high] to DIGITS digits, and not outside of it for that."""
    return min(max(float(f"{value:.{DIGITS}g}"), float(low)), float(high))


def _uniform(seed: int, number: int, field: str) -> float:
    """A number of [0, 1), the same on every machine."""
    from shards.support.rng import hash64, key_id  # needs torch

    return (int(hash64(seed, number, key_id(field))) >> 11) / 2**53
