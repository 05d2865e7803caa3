"""Claims as data: what a sweep is meant to show, written down before its first trial.

A claims file is YAML beside its grid: `mine.claims.yaml` for `mine.yaml`.

    alpha: 0.05                   # of the whole family of claims, two-sided (default: 0.05)
    looks: [10, 20]               # seeds a group at which results are looked at, where it is more
                                  # than once; each look then has an equal share of alpha
    claims:
      - name: S beats L at sigma 0.1
        kind: superiority         # first - second > margin
        metric: test/noise/paper/0.1/accuracy
        first: {student: width:1}
        second: {student: width:4}
        where: {arm: clean}       # fields that all groups share
        margin: 0                 # default of superiority
      - name: rank does not depend on capacity
        kind: equivalence         # |slope of ln metric over ln parameters| < margin
        metric: test/rank/effective
        along: {student: [width:1, width:2, width:4]}
        where: {arm: clean}
        margin: 0.05
        converged: true           # only if rank has settled
      - name: the noise arm leaves clean accuracy as it is
        kind: equivalence         # |first - second| < margin
        metric: test/linear/paper/accuracy
        first: {arm: noise:0.1}
        second: {arm: clean}
        where: {student: width:4}
        margin: 0.02
      - name: rank falls with capacity
        kind: trend               # slope of ln metric over ln parameters < -margin
        direction: falls          # or rises: slope > margin
        metric: test/rank/effective
        along: {student: [width:1, width:2, width:4]}
      - name: arms differ
        kind: difference          # first - second is not 0; with a margin it can be refuted
        ...
      - name: cosine+infonce at least doubles rank
        kind: ratio               # first / second > bound, of geometric means
        bound: 2
        ...
      - name: capacity is a low-pass filter
        kind: interaction         # (first - second) of the metric - (first - second) of `minus`
        metric: test/band_noise/0.1/8/accuracy
        minus: {metric: test/band_noise/0.1/1/accuracy}    # or {arm: clean}: within each seed
        first: {student: width:1}
        second: {student: width:4}

All claims of a file are one family, corrected by Holm. docs/statistics.md says how each is tested.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from shards.support.registry import closest
from shards.support.schema import StrictModel, validated
from shards.support.yaml_reader import parse_mapping

Where = dict[str, str | int | float | bool | None]
Along = dict[str, list[str | int | float]]
Test = Literal["auto", "welch", "paired"]


def _check_two(name: str, where: Where, first: Where, second: Where) -> None:
    if where | first == where | second:
        raise ValueError(f"{name}: first and second are the same; expected two groups of trials")


def _check_along(name: str, along: Along) -> None:
    if len(along) != 1:
        raise ValueError(f"{name}: along: {sorted(along)}; expected one field with its values")
    values = next(iter(along.values()))
    if len(values) < 2 or len(set(values)) < len(values):
        raise ValueError(f"{name}: along: {values}; expected at least two values, each once")


def _groups_along(where: Where, along: Along) -> list[Where]:
    return [where | {field: value} for field, values in along.items() for value in values]


class _Claim(StrictModel):
    """What all kinds share.

    name: a statement in words. metric: the name of a column of `Study.trials`. where: fields of the
    trials that are compared. test: `auto` takes Welch's where the groups differ in the shape of the
    student, and the paired test where they do not. converged: whether the claim is about trained
    students whose rank has settled, see `sweep.analysis.convergence`.
    """

    name: str = Field(min_length=1, max_length=200)
    metric: str = Field(min_length=1)
    where: Where = Field(default_factory=dict)
    test: Test = "auto"
    converged: bool = False

    @property
    def sha256(self) -> str:
        """Of the statement: two claims with the same one say the same of the same trials."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class _TwoGroups(_Claim):
    first: Where = Field(min_length=1)
    second: Where = Field(min_length=1)

    @model_validator(mode="after")
    def _two(self) -> _TwoGroups:
        _check_two(self.name, self.where, self.first, self.second)
        return self

    def groups(self) -> list[Where]:
        """Fields and values of each group of trials that the claim compares."""
        return [self.where | self.first, self.where | self.second]


class Superiority(_TwoGroups):
    """first - second > margin, tested on both sides: refuted where it is significantly less.

    A negative margin claims that first is not worse than second by as much (non-inferiority).
    """

    kind: Literal["superiority"]
    margin: float = 0.0


class Difference(_TwoGroups):
    """first - second is not 0. With a margin, refuted where it lies within +-margin (TOST)."""

    kind: Literal["difference"]
    margin: float | None = Field(default=None, gt=0)


class Equivalence(_Claim):
    """|theta| < margin: theta is first - second, or the slope of ln metric over ln parameters.

    along: {field: values}, a group a value, at least two: the slope over the parameters of their
    students; then neither `first` nor `second`.
    """

    kind: Literal["equivalence"]
    margin: float = Field(gt=0)
    first: Where | None = None
    second: Where | None = None
    along: Along | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Equivalence:
        pair = self.first, self.second
        if self.along is None and (not self.first or not self.second):
            raise ValueError(f"{self.name}: expected `first` and `second`, or `along`")
        if self.along is not None and pair != (None, None):
            raise ValueError(f"{self.name}: along: one field with its values, without `first`")
        if self.along is not None:
            _check_along(self.name, self.along)
        else:
            _check_two(self.name, self.where, self.first or {}, self.second or {})
        return self

    def groups(self) -> list[Where]:
        """Fields and values of each group of trials that the claim compares."""
        if self.along is None:
            return [self.where | (self.first or {}), self.where | (self.second or {})]
        return _groups_along(self.where, self.along)


class Trend(_Claim):
    """The slope of ln metric over ln parameters is beyond margin in one direction; both are tested.

    direction: `rises` claims slope > margin, `falls` claims slope < -margin; refuted where it is
    significantly on the other side of that. along: as in an equivalence.
    """

    kind: Literal["trend"]
    direction: Literal["rises", "falls"]
    along: Along
    margin: float = 0.0

    @model_validator(mode="after")
    def _values(self) -> Trend:
        _check_along(self.name, self.along)
        return self

    def groups(self) -> list[Where]:
        """Fields and values of each group of trials that the claim compares."""
        return _groups_along(self.where, self.along)


class Ratio(_TwoGroups):
    """first / second > bound, of geometric means over seeds: a difference of logarithms."""

    kind: Literal["ratio"]
    bound: float = Field(gt=0)


class Interaction(_TwoGroups):
    """The effect inside first less the effect inside second is greater than the margin.

    minus: what is subtracted from each trial's value within its seed: another metric of the same
    trial, {metric: NAME}, or the trial that differs in these fields, e.g. {arm: clean}.
    """

    kind: Literal["interaction"]
    minus: Where = Field(min_length=1)
    margin: float = 0.0

    @field_validator("minus")
    @classmethod
    def _not_both(cls, minus: Where) -> Where:
        if "metric" in minus and len(minus) > 1:
            raise ValueError(f"minus: {minus}; expected {{metric: NAME}} or fields of a trial")
        return minus

    def groups(self) -> list[Where]:
        own = super().groups()
        return own if "metric" in self.minus else [*own, *(group | self.minus for group in own)]


Claim = Superiority | Difference | Equivalence | Trend | Ratio | Interaction
MODELS: dict[str, type[Claim]] = {
    "superiority": Superiority,
    "difference": Difference,
    "equivalence": Equivalence,
    "trend": Trend,
    "ratio": Ratio,
    "interaction": Interaction,
}
KINDS = tuple(MODELS)


def is_slope(claim: Claim) -> bool:
    """Whether theta is a slope of ln metric over ln parameters."""
    return isinstance(claim, Trend) or (isinstance(claim, Equivalence) and claim.along is not None)


class Claims(StrictModel):
    """A family of claims.

    alpha: the chance of any wrong decision in the family: a false claim that is supported, or a
    true one that is refuted. A claim is false exactly at its bound or margin. looks: planned
    numbers of seeds a group at each look at results, ascending; without them one look at the seeds
    that were declared before the first result. See `families.share_of`.
    """

    alpha: float = Field(default=0.05, gt=0, lt=1)
    looks: tuple[int, ...] = ()
    claims: tuple[Claim, ...] = ()

    @field_validator("looks")
    @classmethod
    def _ascending(cls, looks: tuple[int, ...]) -> tuple[int, ...]:
        if list(looks) != sorted(set(looks)) or any(n < 2 for n in looks):
            raise ValueError(f"looks: {list(looks)}; expected ascending numbers of seeds, from 2")
        return looks


def read_claims(text: str, source: str) -> Claims:
    """The claims in YAML `text`.

    Raises: ValueError, of one line, with `source`, the claim, the key and what would be right.
    """
    raw = parse_mapping(text, source)
    listed = raw.get("claims")
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{source}: claims: expected a list of at least one, found `{listed}`")
    found: list[Claim] = []
    for number, one in enumerate(listed, 1):
        where = f"{source}: claim {number}"
        if not isinstance(one, dict):
            raise ValueError(f"{where}: expected {{name: ..., kind: ..., ...}}, found `{one}`")
        found.append(_claim(one, f"{where} ({one.get('name', 'without a name')})"))
    names = [claim.name for claim in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{source}: two claims have the name `{name}`")
    return validated(Claims, raw | {"claims": tuple(found)}, source)


def _claim(fields: dict[str, Any], where: str) -> Claim:
    kind = fields.get("kind")
    if kind not in MODELS:
        raise ValueError(f"{where}: kind: `{kind}`; {closest(str(kind), list(KINDS))}")
    return validated(MODELS[kind], fields, where)


def unknown_fields(claims: Claims, fields: set[str]) -> str | None:
    """The first field of a claim that no trial has, as one clause; None where all are known."""
    for claim in claims.claims:
        for name in (name for group in claim.groups() for name in group):
            if name not in fields:
                return f"{claim.name}: unknown field `{name}`; {closest(name, sorted(fields))}"
    return None
