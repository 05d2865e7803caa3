"""What a bank is asked to hold, and the plan that a data set and loaded teachers make of it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator

from shards.arms import make_arm
from shards.arms.cifar10c_files import check_dataset
from shards.arms.groups import expand_arms
from shards.bank.manifest import ArmRecord, DatasetRecord, Manifest, Plan, TeacherRecord
from shards.datasets.base import SPLITS, Dataset
from shards.support.schema import StrictModel
from shards.teachers import Teacher
from shards.teachers.preprocess import CPU_BATCH
from shards.teachers.prompts import templates_for


class Request(StrictModel):
    """What somebody asks a bank to hold. Arms are given in their canonical spelling.

    `precision` is that of the teachers' arithmetic: `auto` is decided once, when the bank is
    planned. `templates` are the prompts of the class embeddings; None is the data set's own set.
    `teacher_robustness`: arms under which the teachers' figures are put into the manifest, over
    `test_views` draws; they change nothing else of the bank.
    """

    dataset: str
    teachers: tuple[str, ...] = Field(min_length=1)
    arms: tuple[str, ...] = ()
    views: int = Field(default=1, ge=1, le=4096)
    test_arms: tuple[str, ...] = ()
    test_views: int = Field(default=1, ge=1, le=4096)
    teacher_robustness: tuple[str, ...] = ()
    image_size: int | None = Field(default=None, ge=1, le=4096)
    train_samples: int | None = None
    test_samples: int | None = None
    templates: tuple[str, ...] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(default=0, ge=0)
    batch: int = Field(default=256, ge=1)
    shard_samples: int = Field(default=1000, ge=1)

    @field_validator("arms")
    @classmethod
    def _trained_on(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        for spec in specs:
            if make_arm(spec).test_only:
                raise ValueError(f"arms: `{spec}` has test images only; ask for it in test_arms")
        return cls._measured(specs)

    @field_validator("test_arms", "teacher_robustness")
    @classmethod
    def _measured(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        """Arms and groups of arms (`shards.arms.groups`), canonical, each once, without `clean`."""
        return tuple(spec for spec in expand_arms(specs) if spec != "clean")

    @model_validator(mode="after")
    def _of_its_images(self) -> Request:
        check_dataset(self.test_arms + self.teacher_robustness, self.dataset)
        return self

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(specs))

    def arm_records(self, split: str) -> tuple[ArmRecord, ...]:
        """The clean view first, then `views` views of each arm (one where all are the same)."""
        specs, views = (
            (self.arms, self.views) if split == "train" else (self.test_arms, self.test_views)
        )
        records, at = [], 0
        for spec, count in [("clean", 1), *((s, views) for s in specs)]:
            arm = make_arm(spec)
            stop = at + arm.views(count)
            records.append(
                ArmRecord(
                    arm=arm.spec,
                    columns=arm.columns,
                    options=arm.options,
                    start=at,
                    stop=stop,
                )
            )
            at = stop
        return tuple(records)

    def teacher_views(self, split: str) -> int:
        """Views of a split that each teacher has to embed; the others are copies of the clean."""
        stops = [r.stop - r.start for r in self.arm_records(split) if embedded(r)]
        return sum(stops)


def embedded(record: ArmRecord) -> bool:
    """Whether an arm's views cost the teacher a pass: not where it always sees the clean image."""
    return not make_arm(record.arm).denoise


def images_at_once(batch: int, device: str) -> int:
    """What a worker of a build takes at a time; on a CPU no more than one core is best at.

    A teacher may round otherwise in another batch, so the plan says it.
    """
    return min(batch, CPU_BATCH) if torch.device(device).type == "cpu" else batch


def make_plan(request: Request, dataset: Dataset, teachers: list[Teacher], device: str) -> Plan:
    return Plan(
        dataset=DatasetRecord(
            spec=dataset.spec,
            identity=dataset.identity,
            decoder=dataset.decoder,
            image_size=dataset.image_size,
            classes=dataset.classes,
            train_samples=request.train_samples,
            test_samples=request.test_samples,
            counts={split: dataset.count(split) for split in SPLITS},
        ),
        teachers=tuple(
            TeacherRecord(
                spec=teacher.spec,
                weights_sha256=teacher.weights_sha256,
                dim=teacher.dim,
                parameters=teacher.parameters,
                preprocess=teacher.preprocess,
                precision=teacher.precision,
            )
            for teacher in teachers
        ),
        arms={split: request.arm_records(split) for split in SPLITS},
        templates=request.templates or templates_for(request.dataset),
        seed=request.seed,
        shard_samples=request.shard_samples,
        batch=images_at_once(request.batch, device),
        device="cuda" if torch.device(device).type == "cuda" else "cpu",
    )


def check_serves(request: Request, manifest: Manifest, place: str) -> None:
    """A finished bank is left as it is if it is the one asked for. Raises: ValueError."""
    plan = manifest.plan
    there = {
        "dataset": plan.dataset.spec,
        "teachers": tuple(teacher.spec for teacher in plan.teachers),
        "image_size": plan.dataset.image_size,
        "train_samples": plan.dataset.train_samples,
        "test_samples": plan.dataset.test_samples,
        "templates": plan.templates,
        "seed": plan.seed,
        "batch": images_at_once(plan.batch, plan.device),
        "shard_samples": plan.shard_samples,
        "train arms": _views(plan.arms["train"]),
        "test arms": _views(plan.arms["test"]),
        "precision": tuple(teacher.precision for teacher in plan.teachers),
    }
    asked = {field: getattr(request, field, None) for field in there} | {
        "batch": images_at_once(request.batch, plan.device),
        "image_size": request.image_size or plan.dataset.image_size,
        "templates": request.templates or templates_for(request.dataset),
        "train arms": _views(request.arm_records("train")),
        "test arms": _views(request.arm_records("test")),
        "precision": there["precision"]
        if request.precision == "auto"
        else (request.precision,) * len(plan.teachers),
    }
    for field, value in there.items():
        if value != asked[field]:
            raise ValueError(
                f"{place} holds a bank with {field} = {value!r}; {asked[field]!r} was asked for; "
                "choose another folder"
            )


def _views(records: tuple[ArmRecord, ...]) -> str:
    return ", ".join(f"{record.arm} x{record.stop - record.start}" for record in records)
