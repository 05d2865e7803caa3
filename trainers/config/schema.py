"""TrialConfig: everything that determines a trial's result. Its hash is the trial's name."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)

from shards.arms import make_arm
from shards.arms.cifar10c_files import check_dataset
from shards.arms.groups import expand_arms
from shards.support.schema import validated
from shards.support.yaml_reader import parse_mapping
from trainers.config.durations import canonical_duration, in_steps
from trainers.config.rank_fields import UNNAMED, check_ranks, idle

Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(strict=True, min_length=1)]
PINS = ("teacher_sha256", "teacher_dim", "teacher_size")
PROBE_NAMES = (
    "spectrum", "linear", "neighbours", "zero_shot", "robustness", "frequency", "infonce",
    "intervals", "retained", "truncated",
)  # fmt: skip
ADAPT_ARMS = ("noise:0.1",)


class TrialConfig(BaseModel):
    """One trial. Frozen, validated, in canonical spelling; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What is looked at, and what the teacher said about it.
    dataset: Text
    image_size: Whole | None = Field(default=None, ge=1, le=4096)
    train_samples: Whole | None = Field(default=None, ge=1)
    test_samples: Whole | None = Field(default=None, ge=1)
    teacher: Text
    arm: Text = "clean"
    views: Whole = Field(default=1, ge=1, le=4096)
    data_seed: Whole = Field(default=0, ge=0, lt=2**63)
    # What the shards must say of the teacher, if given; no part of the identity.
    teacher_sha256: Text | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    teacher_dim: Whole | None = Field(default=None, ge=1)
    teacher_size: Whole | None = Field(default=None, ge=1)
    classes: Whole | None = Field(default=None, ge=2)  # only the first so many of the data set's
    # Who learns, from what input and by which loss.
    student: Text
    input: Literal["native", "teacher"] = "native"
    target: Text = "teacher"
    objective: Text = "cosine"
    # Terms of the objective; those it does not have are at their defaults.
    infonce_weight: Number = Field(default=1.0, ge=0)
    temperature: Number = Field(default=0.1, gt=0)
    infonce_positive: Literal["teacher", "student"] = "teacher"  # student: of another view
    theia_cosine_weight: Number = Field(default=0.9, ge=0)
    theia_smooth_l1_weight: Number = Field(default=0.1, ge=0)
    rkd_distance_weight: Number = Field(default=25.0, ge=0)
    rkd_angle_weight: Number = Field(default=50.0, ge=0)
    sp_weight: Number = Field(default=1.0, ge=0)
    vicreg_variance_weight: Number = Field(default=25.0, ge=0)
    vicreg_covariance_weight: Number = Field(default=1.0, ge=0)
    vicreg_gamma: Number | None = Field(default=None, gt=0)  # None: 1, on unit vectors 1/sqrt(D)
    vicreg_vectors: Literal["raw", "unit"] = "raw"
    koleo_weight: Number = Field(default=0.1, ge=0)
    # For how long, from which draws.
    seed: Whole = Field(default=0, ge=0, lt=2**63)
    epochs: Whole | None = Field(default=5, ge=0, le=100_000)
    duration: Text | None = None  # instead of epochs: `1000 steps`, `50000 samples`
    batch_size: Whole = Field(default=64, ge=2)
    accumulate: Whole = Field(default=1, ge=1)  # micro-batches a step; each has its own negatives
    # By which optimiser.
    optimizer: Text = "adam"
    lr: Number = Field(default=1e-3, gt=0, le=1e6)
    weight_decay: Number = Field(default=0.0, ge=0)
    momentum: Number = Field(default=0.9, ge=0, lt=1)  # of sgd and muon
    clip_norm: Number = Field(default=0.0, ge=0)  # 0: gradients are not clipped
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Text = "0 steps"
    ema: Number = Field(default=0.0, ge=0, lt=1)  # decay of the averaged weights; 0: none
    # In what arithmetic.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: Flag = True
    compile: Flag = False
    cuda_graphs: Flag = False
    # On what.
    engine: Text = "single"
    ranks: Whole = Field(default=1, ge=1, le=1024)
    threads: Whole = Field(default=1, ge=1, le=1024)
    elastic: Literal["off", "order", "exact"] = "off"  # what another number of ranks keeps
    sync_batchnorm: Flag = True  # statistics over the global batch (of a micro-batch)
    zero_stage: Whole = Field(default=0, ge=0, le=3)  # of deepspeed
    offload: Flag = False  # of deepspeed: optimiser state in the host's memory
    # What is looked at while it trains.
    curve_every: Text | None = None
    curve_samples: Whole = Field(default=1000, ge=2)  # of each split, at most
    # What is measured at the end.
    probes: tuple[Text, ...] = PROBE_NAMES
    test_arms: tuple[Text, ...] = ("noise:0.05", "noise:0.1", "noise:0.2")
    test_views: Whole = Field(default=3, ge=1, le=64)
    adapt_arms: tuple[Text, ...] = ADAPT_ARMS  # refitted, and BatchNorm recalibrated, under these

    @field_validator("arm")
    @classmethod
    def _arm(cls, spec: str) -> str:
        arm = make_arm(spec)
        if arm.test_only:
            raise ValueError(f"arm: `{arm.spec}` has test images only; choose another arm")
        return arm.spec

    @field_validator("views")
    @classmethod
    def _one_view_of_clean(cls, views: int, info: ValidationInfo) -> int:
        """An arm without draws has one view, whatever was asked: the same trial, one name."""
        return views if make_arm(info.data.get("arm", "noise")).stochastic else 1

    @field_validator("test_arms")
    @classmethod
    def _test_arms(cls, specs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Arms and groups of arms (`shards.arms.groups`), each arm once in canonical spelling."""
        arms = expand_arms(specs)
        check_dataset(arms, info.data.get("dataset", "cifar10"))
        return arms

    @field_validator("adapt_arms")
    @classmethod
    def _adapt_arms(cls, specs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Without the robustness probe they have no effect: the default."""
        arms = tuple(spec for spec in expand_arms(specs) if spec != "clean")
        for spec in arms:
            if make_arm(spec).test_only:
                raise ValueError(f"adapt_arms: `{spec}` has test images only; choose another arm")
        return arms if "robustness" in info.data.get("probes", PROBE_NAMES) else ADAPT_ARMS

    @field_validator("*")
    @classmethod
    def _no_minus_zero(cls, value: Any) -> Any:
        return value + 0.0 if isinstance(value, float) else value

    @field_validator("warmup", "duration", "curve_every")
    @classmethod
    def _duration(cls, text: str | None) -> str | None:
        return text if text is None else canonical_duration(text)

    @field_validator("optimizer")
    @classmethod
    def _optimizer(cls, name: str) -> str:
        from trainers.training.optim import OPTIMIZERS

        _ = OPTIMIZERS[name]
        return name

    @field_validator("warmup")
    @classmethod
    def _no_warmup(cls, text: str) -> str:
        return "0 steps" if float(text.split(maxsplit=1)[0]) == 0 else text

    @field_validator("student")
    @classmethod
    def _student(cls, spec: str) -> str:
        from trainers.students import canonical_student

        return canonical_student(spec)

    @field_validator("objective")
    @classmethod
    def _objective(cls, name: str) -> str:
        from trainers.objectives import canonical_objective

        return canonical_objective(name)

    @field_validator("target")
    @classmethod
    def _target(cls, spec: str) -> str:
        from trainers.objectives.targets import canonical_target

        return canonical_target(spec)

    @field_validator("engine")
    @classmethod
    def _engine(cls, name: str) -> str:
        from trainers.engines import ENGINES

        _ = ENGINES[name]
        return name

    @field_validator("probes")
    @classmethod
    def _probes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from trainers.probes import PROBES

        for name in names:
            _ = PROBES[name]
        return tuple(dict.fromkeys(names))

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, fields: Any) -> Any:
        """`duration` takes the place of `epochs`; one in whole epochs is written as `epochs`."""
        if not isinstance(fields, dict):
            return fields
        given = cast("dict[str, Any]", fields)
        if given.get("duration") is None:
            return given
        if given.get("epochs") is not None:
            raise ValueError("epochs and duration: both are given; keep one")
        text = given["duration"]
        with contextlib.suppress(ValueError):  # said by the field's own check
            text = canonical_duration(text) if isinstance(text, str) else text
        whole = re.fullmatch(r"(\d+) epochs?", str(text))
        length = {"epochs": int(whole[1]), "duration": None} if whole else {"epochs": None}
        return given | length

    @model_validator(mode="wrap")
    @classmethod
    def _settled(cls, fields: Any, validate: ModelWrapValidatorHandler[TrialConfig]) -> TrialConfig:
        """What has no effect is at its default, so that one trial has one name."""
        from trainers.config.rules import settled

        config = validate(fields)
        values = settled(config)
        if all(getattr(config, name) == value for name, value in values.items()):
            return config
        return validate(config.model_dump() | values)

    @field_validator("elastic", "sync_batchnorm", "zero_stage", "offload")
    @classmethod
    def _no_effect(cls, value: Any, info: ValidationInfo) -> Any:
        """A value that changes nothing with this engine is written as the default."""
        name = str(info.field_name)
        return cls.model_fields[name].default if idle(name, value, info.data) else value

    @model_validator(mode="after")
    def _together(self) -> TrialConfig:
        check_ranks(self)
        return self

    @property
    def unnamed(self) -> set[str]:
        """Fields that are no part of the identity."""
        return set(PINS) | UNNAMED[self.elastic]

    @property
    def identity(self) -> str:
        """16 hexadecimal digits of the sha256 of the canonical JSON: the trial's name.

        Left out is what does not change the result, or what `elastic` lets change under way:
        `ranks` with `order`, `ranks` and `engine` with `exact` (`single` is then its one rank).
        """
        text = self.model_dump_json(exclude=self.unnamed)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def trains(self) -> bool:
        """Whether any step is asked for: not of an untrained student, nor of `teacher_pca`."""
        return float((self.duration or f"{self.epochs}").split()[0]) > 0

    def total_steps(self, train_samples: int) -> int:
        """Optimiser steps in all (the last short batch of an epoch is dropped)."""
        length = self.duration or f"{self.epochs} epochs"
        return in_steps(length, self.batch_size, train_samples)


def make_config(fields: dict[str, Any], place: str = "") -> TrialConfig:
    """Validate. Raises: ValueError, one line naming place, field, what was found, what is right."""
    return validated(TrialConfig, fields, place)


def load_config(path: str) -> TrialConfig:
    """A YAML file with the fields of TrialConfig. Raises: ValueError, OSError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return make_config(parse_mapping(text, path), path)
