"""A request for a bank, and the plan that it becomes with an opened data set and teachers."""

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
    """What a bank shall hold. Arms and groups of arms become canonical specs of arms.

    dataset, teachers, arms, test_arms: specs of entries of DATASETS, TEACHERS and ARMS.
    views, test_views: views of each image under each arm whose parameters are random.
    teacher_robustness: arms under which the teachers are measured, over `test_views` draws; only
        the figures are stored, in the manifest, and nothing else of the bank changes.
    image_size: pixels a side of the stored images; None for the data set's own size.
    train_samples, test_samples: sizes of class-balanced subsets; None for all images.
    templates: prompts of the class embeddings; None for the data set's standard set.
    precision: of the teachers' arithmetic; `auto` is decided once, when the bank is planned.
    seed: of every random parameter of an augmentation.
    batch: images in a teacher's batch; shard_samples: samples in a shard.
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
    def _training_arms(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        for spec in specs:
            if make_arm(spec).test_only:
                raise ValueError(f"arms: `{spec}` has test images only; name it in test_arms")
        return cls._canonical(specs)

    @field_validator("test_arms", "teacher_robustness")
    @classmethod
    def _canonical(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        """Each arm once, in canonical spelling, without `clean`, which every bank holds anyway."""
        return tuple(spec for spec in expand_arms(specs) if spec != "clean")

    @model_validator(mode="after")
    def _dataset_has_them(self) -> Request:
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
        """Views of a split that each teacher has to embed; the others copy the clean view's."""
        counts = [r.stop - r.start for r in self.arm_records(split) if needs_teacher(r)]
        return sum(counts)

    def arguments(self, out: str) -> list[str]:
        """The arguments with which `python -m shards.build` builds this at `out`."""
        return ["--request", self.model_dump_json(), "--out", out]


def needs_teacher(record: ArmRecord) -> bool:
    """Whether an arm's views need a teacher pass: not where the teacher sees the clean image."""
    return not make_arm(record.arm).denoise


def images_at_once(batch: int, device: str) -> int:
    """The batch size that a worker of a build really uses: on a CPU at most CPU_BATCH.

    A teacher may round differently in a batch of another size, so the plan records it.
    """
    return min(batch, CPU_BATCH) if torch.device(device).type == "cpu" else batch


def make_plan(request: Request, dataset: Dataset, teachers: list[Teacher], device: str) -> Plan:
    """The plan of a bank: the request, and what the opened data set and teachers add to it."""
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
                tag=teacher.tag,
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


def check_matches(request: Request, manifest: Manifest, location: str) -> None:
    """Raises: ValueError naming the first field in which the bank differs from the request."""
    plan = manifest.plan
    stored = {
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
    requested = {field: getattr(request, field, None) for field in stored} | {
        "batch": images_at_once(request.batch, plan.device),
        "image_size": request.image_size or plan.dataset.image_size,
        "templates": request.templates or templates_for(request.dataset),
        "train arms": _views(request.arm_records("train")),
        "test arms": _views(request.arm_records("test")),
        "precision": stored["precision"]
        if request.precision == "auto"
        else (request.precision,) * len(plan.teachers),
    }
    for field, value in stored.items():
        if value != requested[field]:
            raise ValueError(
                f"{location} holds a bank with {field} = {value!r}, the request has "
                f"{requested[field]!r}; choose another folder"
            )


def _views(records: tuple[ArmRecord, ...]) -> str:
    """`clean x1, noise:0.1 x4`."""
    return ", ".join(f"{record.arm} x{record.stop - record.start}" for record in records)
