"""TrialConfig: everything that determines a trial's result. Its hash is the trial's name.

The fields, their types and their ranges. A trial is made by `trainers.canonical.make_config`,
which also looks the names up (students, objectives, probes, ...) and applies the rules; this
module knows no table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from shards.support.schema import StrictModel
from trainers.config.durations import canonical_duration, in_steps
from trainers.config.recipe import FIRST, RECIPE, RECIPE_FIELD
from trainers.config.types import DataSeed, Flag, Integer, Number, Text, without_minus_zero

# Expected facts about the teacher: they are compared with the bank and change no result.
PINS = ("teacher_sha256", "teacher_dim", "teacher_size", "teacher_precision")
# Written only where there are such samples, so that other trials have the identities they had.
VALIDATION, NO_VALIDATION = "validation_samples", 0
PROBE_AT = "probe_at"
PLUGINS = "plugins"
# Fields that are no part of the identity because `elastic` lets them change when a trial resumes.
UNNAMED: dict[str, set[str]] = {"off": set(), "order": {"ranks"}, "exact": {"ranks", "engine"}}


def _canonical(duration: str, field: ValidationInfo) -> str:
    """`canonical_duration`, whose error also names the field."""
    try:
        return canonical_duration(duration)
    except ValueError as error:
        raise ValueError(f"{field.field_name}: {error}") from None


class TrialConfig(StrictModel):
    """One trial: frozen and validated, with every field in its one canonical spelling."""

    # The images, and the teacher whose embeddings are stored for them.
    dataset: Text
    image_size: Integer | None = Field(default=None, ge=1, le=4096)
    train_samples: Integer | None = Field(default=None, ge=1)
    test_samples: Integer | None = Field(default=None, ge=1)
    # So many of the train samples are held out: curves are measured on them. 0: none are.
    validation_samples: Integer = Field(default=0, ge=0)
    teacher: Text
    arm: Text = "clean"
    views: Integer = Field(default=1, ge=1, le=4096)
    data_seed: DataSeed = 0  # of all draws of views and test noise
    # Facts that the bank's manifest must state about the teacher; no part of the identity.
    teacher_sha256: Text | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    teacher_dim: Integer | None = Field(default=None, ge=1)
    teacher_size: Integer | None = Field(default=None, ge=1)
    teacher_precision: Literal["fp32", "bf16", "fp16"] | None = None  # also what a bank is built in
    # Only images of the first `classes` classes are used; None uses all.
    classes: Integer | None = Field(default=None, ge=2)
    # The student, its input, and the loss.
    student: Text
    input: Literal["native", "teacher"] = "native"
    target: Text = "teacher"
    objective: Text = "cosine"
    # Fields of the objectives, see trainers.objectives: those of the objective's terms, and those
    # that every trial has. Written and read as if they were fields of the trial itself.
    objective_fields: Mapping[str, Any] = Field(default_factory=dict)
    # Random seed, version of the arithmetic (set by the code), length and batches.
    seed: Integer = Field(default=0, ge=0, lt=2**63)
    recipe: Integer = Field(default=RECIPE, ge=1)
    epochs: Integer | None = Field(default=5, ge=0, le=100_000)
    duration: Text | None = None  # instead of epochs: `1000 steps`, `50000 samples`
    batch_size: Integer = Field(default=64, ge=2)
    accumulate: Integer = Field(default=1, ge=1)  # micro-batches a step; each has its own negatives
    # The optimiser.
    optimizer: Text = "adam"
    lr: Number = Field(default=1e-3, gt=0, le=1e6)
    weight_decay: Number = Field(default=0.0, ge=0)
    momentum: Number = Field(default=0.9, ge=0, lt=1)  # of sgd and muon
    clip_norm: Number = Field(default=0.0, ge=0)  # 0: gradients are not clipped
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Text = "0 steps"
    ema: Number = Field(default=0.0, ge=0, lt=1)  # decay of the averaged weights; 0: none
    # Arithmetic and speed.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: Flag = True
    compile: Flag = False
    cuda_graphs: Flag = False
    # Processes and devices.
    engine: Text = "single"
    ranks: Integer = Field(default=1, ge=1, le=1024)
    threads: Integer = Field(default=1, ge=1, le=1024)
    elastic: Literal["off", "order", "exact"] = "off"  # what resuming on other ranks keeps
    sync_batchnorm: Flag = True  # statistics over the global batch (of a micro-batch)
    zero_stage: Integer = Field(default=0, ge=0, le=3)  # of deepspeed
    offload: Flag = False  # of deepspeed: optimiser state in the host's memory
    # Measurements during training.
    curve_every: Text | None = None  # time between two observations; None: none are made
    curve_samples: Integer = Field(default=1000, ge=2)  # images of each split, at most
    # Measurements at the end. Without `probes`, make_config fills in the default probes.
    probes: tuple[Text, ...] = ()
    test_arms: tuple[Text, ...] = ("noise:0.05", "noise:0.1", "noise:0.2")
    test_views: Integer = Field(default=3, ge=1, le=64)
    adapt_arms: tuple[Text, ...] = ("noise:0.1",)  # for refitted and recalibrated accuracies
    # Times during training at which all probes are run as well, such as `5 epochs`.
    probe_at: tuple[Text, ...] = ()
    # MODULE@HASH of the plugins that the trial uses something of; not written where it uses none.
    plugins: tuple[Text, ...] = ()

    @field_validator("*")
    @classmethod
    def _one_zero(cls, value: Any) -> Any:
        return without_minus_zero(value)

    @field_validator("data_seed", mode="before")
    @classmethod
    def _number_or_own(cls, value: Any) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        if not number and value != "per_seed":
            raise ValueError(
                "data_seed: expected a whole number of at least 0 and below 2^63, or `per_seed`; "
                f"got {value!r}"
            )
        return value

    @field_validator("warmup", "duration", "curve_every")
    @classmethod
    def _duration(cls, text: str | None, field: ValidationInfo) -> str | None:
        return text if text is None else _canonical(text, field)

    @field_validator(PROBE_AT)
    @classmethod
    def _moments(cls, texts: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        moments = tuple(dict.fromkeys(_canonical(text, field) for text in texts))
        for moment in moments:
            if float(moment.split()[0]) == 0:
                raise ValueError(f"probe_at: {moment}: nothing is trained yet; choose `1 steps`")
        return moments

    @field_validator("warmup")
    @classmethod
    def _no_warmup(cls, text: str) -> str:
        return "0 steps" if float(text.split(maxsplit=1)[0]) == 0 else text

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """One level of names: the objective's fields are written in place of `objective_fields`.

        YAML files, grids, `--set`, result.json and MLflow all use these names. Their order is
        part of the identity. The first recipe is not written, see `trainers.config.recipe`.
        """
        flat: dict[str, Any] = {}
        for name, value in handler(self).items():
            flat |= value if name == "objective_fields" else {name: value}
        # A result written before these fields existed has the same JSON as one without them.
        if flat.get("teacher_precision", "") is None:
            del flat["teacher_precision"]
        if flat.get(VALIDATION, "") == NO_VALIDATION:
            del flat[VALIDATION]
        if not flat.get(PROBE_AT, True):
            del flat[PROBE_AT]
        if not flat.get(PLUGINS, True):
            del flat[PLUGINS]
        if flat.get(RECIPE_FIELD) == FIRST:
            del flat[RECIPE_FIELD]
        return flat

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values. pydantic would copy the identity as well."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("identity", None)
        return copied

    @property
    def unnamed(self) -> set[str]:
        """Fields that are no part of the identity."""
        return set(PINS) | UNNAMED[self.elastic]

    @cached_property
    def identity(self) -> str:
        """16 hexadecimal digits of the sha256 of the canonical JSON: the trial's name.

        Fields are left out that do not change the result, or that `elastic` lets change when the
        trial is resumed: `ranks` with `order`, `ranks` and `engine` with `exact` (engine `single`
        then counts as one rank).
        """
        text = self.model_dump_json(exclude=self.unnamed)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def draws_seed(self) -> int:
        """The seed of the draws of augmented views and test noise, which is that of the bank."""
        return self.seed if self.data_seed == "per_seed" else self.data_seed

    @property
    def trains(self) -> bool:
        """Whether any optimiser step is made; false for `teacher_pca` and untrained students."""
        return float((self.duration or f"{self.epochs}").split()[0]) > 0

    def total_steps(self, train_samples: int) -> int:
        """Optimiser steps in all; the last, incomplete batch of an epoch is dropped."""
        length = self.duration or f"{self.epochs} epochs"
        return in_steps(length, self.batch_size, train_samples)

    def probed_steps(self, train_samples: int) -> frozenset[int]:
        """The steps of `probe_at` before the end, at which the probes are run anyway.

        Raises: ValueError for a time of less than a step.
        """
        end, steps = self.total_steps(train_samples), set[int]()
        for moment in self.probe_at:
            step = in_steps(moment, self.batch_size, train_samples)
            if step < 1:
                raise ValueError(f"probe_at: {moment} is less than a step; choose `1 steps`")
            steps |= {step} if step < end else set()
        return frozenset(steps)

    def steps_of_curve(self, train_samples: int) -> int:
        """Steps between two observations; 0 where none are made.

        Raises: ValueError where `curve_every` is less than a step.
        """
        if self.curve_every is None:
            return 0
        steps = in_steps(self.curve_every, self.batch_size, train_samples)
        if steps < 1:
            raise ValueError(
                f"curve_every: {self.curve_every} is less than a step; choose `1 steps` or more"
            )
        return steps

    def epochs_begun(self, train_samples: int) -> int:
        """Epochs that the trial begins; it may end within the last."""
        steps = self.total_steps(train_samples)
        return -(-steps // max(1, train_samples // self.batch_size))
