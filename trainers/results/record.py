"""TrialResult: what a finished trial leaves in result.json, its values kept by probe.

    {"format": "trial-result/2", "id": ..., "config": {...}, "source": ..., "weights_sha256": ...,
     "data": {...}, "input": {...}, "student": {...}, "environment": {...},
     "probes": {"linear": {"version": 3, "metrics": {"test/linear/paper/accuracy": 0.93, ...},
                           "teacher": {"teacher/linear/paper/accuracy": 0.97, ...},
                           "arrays": {...}, "undefined": [...]}, ...},
     "epochs": [{"step": 22, "epoch": 1, "loss": 0.89, "time_ms": ...}, ...],
     "observations": {"rows": [...], "teacher": {...}}}

Values are kept by probe because a probe can be run again, in a newer version or under more test
arms: its entry is then replaced or extended, and no other entry is touched. Tables, figures and
MLflow want one name per value: `flatten` is the only place where the entries become one mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from shards.support.schema import StrictModel, validated
from shards.teachers.preprocess import Preprocess
from trainers.results import format1

FORMAT = "trial-result/2"
IDENTIFYING = ("dataset", "teacher", "student", "arm", "seed")  # fields that reports group by


class Part(StrictModel):
    """Base of everything stored as JSON here.

    Strict and finite: JSON has no NaN, so a value that is not finite is named in `undefined`
    instead, and a number that arrives as text is a damaged file.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Data(Part):
    """What was trained and measured on: numbers of images and classes, width of the embedding.

    chance: accuracy of guessing, 1 / classes. views_per_sample: different augmented views of one
    image that training showed at most.
    """

    train: int
    test: int
    classes: int
    chance: float
    dim: int
    views_per_sample: int


class Input(Part):
    """What a user of the student needs: how images are prepared, class names, text prompts."""

    preprocess: Preprocess
    classes: list[str]
    templates: list[str]


class Cost(Part):
    """Parameters (trunk + head = total) and multiply-accumulates of one image."""

    spec: str
    trunk: int
    head: int
    total: int
    macs: int
    image_size: int


class Environment(Part):
    """Versions and hardware. Values are bitwise comparable where all of this agrees."""

    torch: str
    numpy: str
    scikit_learn: str = Field(alias="scikit-learn")
    python: str
    device: str
    instruction_set: str
    threads: int

    def entries(self) -> dict[str, str | int]:
        """By the names in the file, `scikit-learn` with its hyphen."""
        return self.model_dump(by_alias=True)


class ProbeResult(Part):
    """What one probe gave for the student (`test/...`) and its teacher (`teacher/...`).

    Names carry their prefix, as in MLflow and in tables. metrics: the student's numbers; teacher:
    the teacher's; arrays: lists of either; undefined: names of values that were not finite.
    """

    version: int
    metrics: dict[str, float]
    teacher: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]

    def is_empty(self) -> bool:
        """Whether it holds neither a value nor the name of an undefined one."""
        return not (self.metrics or self.teacher or self.arrays or self.undefined)


class Epoch(Part):
    """One row of the training log; `epoch` has a fraction where the duration cut the last short."""

    step: int
    epoch: float
    loss: float
    time_ms: int


class Observation(Part):
    """Cheap measures of a fixed subset, taken while the student trained."""

    step: int
    epoch: float
    values: dict[str, float]


class Observations(Part):
    """Of the whole training, and the teacher's values on the same images as reference."""

    rows: list[Observation]
    teacher: dict[str, float]


class TrialResult(Part):
    """The whole result. `config` is the mapping as it was stored, not validated again.

    Configurations gain fields and rules over time; a result of an older one must stay readable.
    source: sha256 of the images, draws and teacher that were read; weights_sha256: the teacher's.
    """

    format: Literal["trial-result/2"] = FORMAT
    id: str
    config: dict[str, Any]
    source: str
    weights_sha256: str
    data: Data
    input: Input
    student: Cost
    environment: Environment
    probes: dict[str, ProbeResult]
    epochs: list[Epoch]
    observations: Observations

    @field_validator("config")
    @classmethod
    def _names_its_trial(cls, config: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in IDENTIFYING if name not in config]
        if missing:
            raise ValueError(f"config: no {', '.join(missing)}; expected {', '.join(IDENTIFYING)}")
        return config

    @cached_property
    def flat(self) -> Flat:
        """`flatten` of this result, computed once: tables read single values many times."""
        return flatten(self)

    @property
    def metrics(self) -> dict[str, float]:
        """The student's numbers of all probes, by name."""
        return self.flat.metrics

    @property
    def teacher(self) -> dict[str, float]:
        """The teacher's numbers of all probes, and its reference values of the observations."""
        return self.flat.teacher

    @property
    def arrays(self) -> dict[str, list[float]]:
        """The lists of all probes, of student and teacher, by name."""
        return self.flat.arrays

    @property
    def undefined(self) -> list[str]:
        """Names of all values that were not finite."""
        return self.flat.undefined

    @property
    def last_step(self) -> int:
        """Optimiser steps of the training; 0 where nothing was trained."""
        return self.epochs[-1].step if self.epochs else 0

    def versions(self) -> dict[str, int]:
        """{probe: version that measured it}."""
        return {name: entry.version for name, entry in self.probes.items()}

    def replace(self, probes: dict[str, ProbeResult]) -> TrialResult:
        """The same trial with other entries."""
        # Not model_copy, which would carry the cached `flat` of the old entries along.
        fields: dict[str, Any] = {name: getattr(self, name) for name in TrialResult.model_fields}
        fields["probes"] = probes
        return TrialResult(**fields)

    def as_json(self) -> dict[str, Any]:
        """What result.json holds."""
        return self.model_dump(mode="json", by_alias=True)


def parse_result(document: dict[str, Any], where: str = "") -> TrialResult:
    """A result.json of this format or of format 1, as read from JSON.

    Raises: ValueError that begins with `where` for any other format and for damaged fields.
    """
    found = document.get("format", format1.RESULT)
    if found == format1.RESULT:
        document = format1.upgrade_result(document, where)
    elif found != FORMAT:
        prefix = f"{where}: " if where else ""
        raise ValueError(f"{prefix}format {found!r}; this code reads {format1.RESULT} and {FORMAT}")
    return validated(TrialResult, document, where)


# ---- from entries to names ----


@dataclass(frozen=True)
class Flat:
    """The values of all probes in one mapping each, sorted by name."""

    metrics: dict[str, float]
    teacher: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]


def flatten(result: TrialResult) -> Flat:
    """Metric names as tables, figures and MLflow have them.

    The teacher's reference values of the observations are `teacher/curve/NAME`.
    """
    entries = result.probes.values()
    metrics = {name: value for entry in entries for name, value in entry.metrics.items()}
    teacher = {name: value for entry in entries for name, value in entry.teacher.items()}
    arrays = {name: value for entry in entries for name, value in entry.arrays.items()}
    reference = result.observations.teacher
    teacher |= {f"teacher/curve/{name}": value for name, value in reference.items()}
    return Flat(
        metrics=dict(sorted(metrics.items())),
        teacher=dict(sorted(teacher.items())),
        arrays=dict(sorted(arrays.items())),
        undefined=sorted(name for entry in entries for name in entry.undefined),
    )


# ---- a probe that was run again ----


def additions(result: TrialResult, probe: str, again: ProbeResult) -> ProbeResult:
    """What `again` says that the result's entry of this probe does not.

    All of it where the versions differ or the trial has no such entry. In the same version only
    the names that the entry has no value for: test arms that the trial was not measured under,
    or a value that its own arms left undefined. A name with a value keeps it, because some
    values summarise all arms of their measurement (`corruption/seen/accuracy` is a mean) and
    must stay those of the trial's own arms.
    """
    own = result.probes.get(probe)
    if own is None or own.version != again.version:
        return again
    known = {*own.metrics, *own.teacher, *own.arrays}
    return ProbeResult(
        version=again.version,
        metrics={name: v for name, v in again.metrics.items() if name not in known},
        teacher={name: v for name, v in again.teacher.items() if name not in known},
        arrays={name: v for name, v in again.arrays.items() if name not in known},
        undefined=[name for name in again.undefined if name not in {*known, *own.undefined}],
    )


def merge(result: TrialResult, probe: str, again: ProbeResult) -> TrialResult:
    """The result with one entry replaced by a measurement of that probe made later.

    A measurement of another version replaces the entry whole. One of the same version is united
    with it by name, see `additions`: measured under the same settings that changes nothing, and
    under other test arms it adds theirs.
    """
    own, new = result.probes.get(probe), additions(result, probe, again)
    if own is not None and own.version == new.version:
        metrics, teacher = own.metrics | new.metrics, own.teacher | new.teacher
        arrays = own.arrays | new.arrays
        defined = {*metrics, *teacher, *arrays}
        undefined = [name for name in [*own.undefined, *new.undefined] if name not in defined]
        new = ProbeResult(
            version=own.version,
            metrics=metrics,
            teacher=teacher,
            arrays=arrays,
            undefined=undefined,
        )
    return result.replace(result.probes | {probe: new})
