"""TrialResult: the content of a finished trial's result.json, with its values by probe.

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
from typing import Any, Literal, cast

from pydantic import ConfigDict, Field, field_serializer, field_validator

from shards.support.schema import StrictModel, validated
from shards.teachers.preprocess import Preprocess
from trainers.results import format1
from trainers.results.shares import SUFFIX, packed, unpacked

FORMAT = "trial-result/2"
IDENTIFYING = ("dataset", "teacher", "student", "arm", "seed")  # fields that reports group by


class Part(StrictModel):
    """Base of the stored objects.

    Numbers must be finite, because JSON has no NaN: a value that is not finite is left out and
    named in `undefined`. Nothing is converted: a number stored as text means a damaged file.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Data(Part):
    """Sizes of the data of a trial.

    train, test: numbers of images. classes: number of classes. chance: accuracy of guessing,
    1 / classes. dim: D of the embeddings. views_per_sample: how many different augmented views of
    one image training showed.
    """

    train: int
    test: int
    classes: int
    chance: float
    dim: int
    views_per_sample: int


class Embeddings(Part):
    """How the teacher's embeddings were computed and stored, which some measures are sensitive to.

    precision: of the teacher's forward pass. device: where it ran, `cpu` or `cuda`. stored: dtype
    of the stored unit vectors.
    """

    precision: str
    device: str
    stored: str


class Input(Part):
    """What is needed to use the student: preprocessing of images, class names, text prompts."""

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
        """{name in the file: value}, with `scikit-learn` spelled with its hyphen."""
        return self.model_dump(by_alias=True)


class ProbeResult(Part):
    """The values of one probe for the student (`test/...`) and its teacher (`teacher/...`).

    Names have their prefix, as in MLflow and in tables. version: of the probe that measured them.
    metrics: the student's numbers. teacher: the teacher's numbers. arrays: lists of numbers of
    both; those of which images are right are packed in the file, see `trainers.results.shares`.
    undefined: names of values that were not finite.
    """

    version: int
    metrics: dict[str, float]
    teacher: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]

    @field_validator("arrays", mode="before")
    @classmethod
    def _unpack(cls, arrays: Any) -> Any:
        if not isinstance(arrays, dict):
            return arrays
        items = cast("dict[Any, Any]", arrays)
        return {
            name: unpacked(v) if isinstance(v, str) and str(name).endswith(SUFFIX) else v
            for name, v in items.items()
        }

    @field_serializer("arrays", when_used="json")
    def _pack(self, arrays: dict[str, list[float]]) -> dict[str, list[float] | str]:
        return {
            name: (packed(v) or v) if name.endswith(SUFFIX) else v for name, v in arrays.items()
        }

    def without_arrays(self) -> ProbeResult:
        """A copy that holds numbers only."""
        return self.model_copy(update={"arrays": {}})

    def is_empty(self) -> bool:
        """Whether it holds no value and no name of an undefined one."""
        return not (self.metrics or self.teacher or self.arrays or self.undefined)


class Epoch(Part):
    """One row of the training log, written at the end of an epoch.

    step: optimiser steps so far. epoch: epochs so far; a fraction where the duration ends inside
    the last epoch. loss: mean over the epoch's steps. time_ms: milliseconds since 1970.
    """

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
    """All observations of a training, and the teacher's values of the same images as reference."""

    rows: list[Observation]
    teacher: dict[str, float]


class TrialResult(Part):
    """The whole result of a trial.

    id: the trial's identity. config: its fields as they were stored; they are not validated again,
    because fields and rules are added over time and older results must stay readable. source:
    sha256 of what the trial read, see `trainers.inputs.source_of`. weights_sha256: of the teacher's
    weights. epochs: rows of the training log. embeddings: None in results written before it was
    recorded.
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
    embeddings: Embeddings | None = None

    @field_validator("config")
    @classmethod
    def _names_its_trial(cls, config: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in IDENTIFYING if name not in config]
        if missing:
            raise ValueError(f"config: no {', '.join(missing)}; expected {', '.join(IDENTIFYING)}")
        return config

    @cached_property
    def flat(self) -> Flat:
        """`flatten` of this result, computed once because tables read many single values."""
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
        """A copy with other probe entries."""
        # Not model_copy, which would carry the cached `flat` of the old entries along.
        fields: dict[str, Any] = {name: getattr(self, name) for name in TrialResult.model_fields}
        fields["probes"] = probes
        return TrialResult(**fields)

    def without_arrays(self) -> TrialResult:
        """A copy that holds numbers only, which is a tenth of the size."""
        return self.replace({name: e.without_arrays() for name, e in self.probes.items()})

    def as_json(self) -> dict[str, Any]:
        """What result.json holds."""
        return self.model_dump(mode="json", by_alias=True)


def parse_result(document: dict[str, Any], where: str = "") -> TrialResult:
    """The result in the content of a result.json, of this format or of format 1.

    where: the file, for messages. Raises: ValueError for any other format and for damaged fields.
    """
    found = document.get("format", format1.RESULT)
    if found == format1.RESULT:
        document = format1.upgrade_result(document, where)
    elif found != FORMAT:
        prefix = f"{where}: " if where else ""
        raise ValueError(f"{prefix}format {found!r}; this code reads {format1.RESULT} and {FORMAT}")
    return validated(TrialResult, document, where)


# ---- one mapping of all values ----


@dataclass(frozen=True)
class Flat:
    """The values of all probes in one mapping each, sorted by name."""

    metrics: dict[str, float]
    teacher: dict[str, float]
    arrays: dict[str, list[float]]
    undefined: list[str]


def flatten(result: TrialResult) -> Flat:
    """The values of all probes by the metric names that tables, figures and MLflow use.

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
    """The values of `again` that the result's entry of this probe does not have.

    All of them where the versions differ or the result has no such entry. In the same version only
    the names without a value in the entry: those of test arms that the trial was not measured
    under, or a value that was undefined for its arms. A name with a value keeps it, because some
    values summarise all arms of their measurement (`corruption/seen/accuracy` is a mean) and must
    stay those of the trial's arms.
    """
    entry = result.probes.get(probe)
    if entry is None or entry.version != again.version:
        return again
    known = {*entry.metrics, *entry.teacher, *entry.arrays}
    return ProbeResult(
        version=again.version,
        metrics={name: v for name, v in again.metrics.items() if name not in known},
        teacher={name: v for name, v in again.teacher.items() if name not in known},
        arrays={name: v for name, v in again.arrays.items() if name not in known},
        undefined=[name for name in again.undefined if name not in {*known, *entry.undefined}],
    )


def merge(result: TrialResult, probe: str, again: ProbeResult) -> TrialResult:
    """A copy of the result with a later measurement of one probe in its entry.

    A measurement of another version replaces the whole entry. The values of one of the same version
    are added to the entry, see `additions`: under the same settings that changes nothing, and under
    other test arms it adds the values of those.
    """
    entry, new = result.probes.get(probe), additions(result, probe, again)
    if entry is not None and entry.version == new.version:
        metrics, teacher = entry.metrics | new.metrics, entry.teacher | new.teacher
        arrays = entry.arrays | new.arrays
        defined = {*metrics, *teacher, *arrays}
        undefined = [name for name in [*entry.undefined, *new.undefined] if name not in defined]
        new = ProbeResult(
            version=entry.version,
            metrics=metrics,
            teacher=teacher,
            arrays=arrays,
            undefined=undefined,
        )
    return result.replace(result.probes | {probe: new})
