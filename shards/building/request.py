"""What a user requests of a bank, and the plan that the opened data set and teachers make of it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from shards.arms import ARMS, make_arm
from shards.arms.cifar10c_files import check_dataset
from shards.arms.groups import expand_arms
from shards.bank.manifest import ArmRecord, DatasetRecord, Manifest, Plan, TeacherRecord
from shards.datasets import DATASETS, needed_size
from shards.datasets.base import SPLITS, Dataset
from shards.support.plugins import load_plugins
from shards.support.registry import Table, plugins_of
from shards.support.schema import StrictModel
from shards.teachers import TEACHERS, Teacher
from shards.teachers.preprocess import CPU_BATCH
from shards.teachers.prompts import templates_for


class Request(StrictModel):
    """The requested contents of a bank. Validation turns arms and groups into canonical specs.

    plugins: MODULE or MODULE@HASH of plugins; validation imports them. Left out of the JSON where
        there are none.
    dataset, teachers, arms, test_arms: specs of entries of DATASETS, TEACHERS and ARMS (or GROUPS).
    views, test_views: augmented views of each image per random arm.
    teacher_robustness: arms under which the teachers are measured, over `test_views` draws. Only
        the figures are stored, in the manifest; the rest of the bank does not depend on it.
    image_size: side of the stored images in pixels; None for the data set's.
    train_samples, test_samples: sizes of class-balanced subsets; None for all images.
    templates: prompts of the class embeddings; None for the data set's standard prompts.
    precision: of the teachers' forward passes; `auto` is decided once, when the bank is planned.
    seed: of all random augmentation parameters.
    batch: images per batch of a teacher. shard_samples: samples per shard.
    """

    plugins: tuple[str, ...] = ()  # first: the fields below may name what they register
    dataset: str
    teachers: tuple[str, ...] = Field(min_length=1)
    arms: tuple[str, ...] = ()
    views: int = Field(default=1, ge=1, le=4096)
    test_arms: tuple[str, ...] = ()
    test_views: int = Field(default=1, ge=1, le=4096)
    teacher_robustness: tuple[str, ...] = ()
    image_size: int | None = Field(default=None, ge=1, le=4096)
    train_samples: int | None = Field(default=None, ge=1)
    test_samples: int | None = Field(default=None, ge=1)
    templates: tuple[str, ...] | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    batch: int = Field(default=256, ge=1)
    shard_samples: int = Field(default=1000, ge=1)

    @field_validator("plugins")
    @classmethod
    def _import(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        return load_plugins(specs)

    @model_serializer(mode="wrap")
    def _without_no_plugins(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return {name: v for name, v in fields.items() if name != "plugins" or v}

    @field_validator("arms")
    @classmethod
    def _training_arms(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        for spec in specs:
            if make_arm(spec).test_only:
                raise ValueError(f"arms: `{spec}` exists for test images only; use it in test_arms")
        return cls._canonical(specs)

    @field_validator("test_arms", "teacher_robustness")
    @classmethod
    def _canonical(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        """Each arm once, in canonical spelling, without `clean`, which every bank contains."""
        return tuple(spec for spec in expand_arms(specs) if spec != "clean")

    @model_validator(mode="after")
    def _dataset_has_them(self) -> Request:
        check_dataset(self.test_arms + self.teacher_robustness, self.dataset)
        for spec in self.teacher_robustness:
            # The stored figures name their arms alone, not the source that drew them.
            if plugins_of((ARMS, spec)):
                raise ValueError(
                    f"teacher_robustness: `{spec}` is of a plugin; use it in test_arms"
                )
        return self

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(specs))

    @property
    def plugins_used(self) -> tuple[str, ...]:
        """MODULE@HASH of the plugins that the bank depends on, sorted."""
        arms = ((ARMS, spec) for spec in self.arms + self.test_arms)
        teachers = ((TEACHERS, spec) for spec in self.teachers)
        return plugins_of((DATASETS, self.dataset), *teachers, *arms)

    def arm_records(self, split: str) -> tuple[ArmRecord, ...]:
        """The arms of a split with their ranges of views: first the clean view, then each arm's.

        An arm without random parameters has one view, since all of them would be identical.
        """
        specs, views = (
            (self.arms, self.views) if split == "train" else (self.test_arms, self.test_views)
        )
        records: list[ArmRecord] = []
        at = 0
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
        """Views per image of a split that each teacher embeds; others reuse the clean embedding."""
        counts = [r.stop - r.start for r in self.arm_records(split) if needs_teacher(r)]
        return sum(counts)

    def arguments(self, out: str) -> list[str]:
        """The arguments of `python -m shards.build` that build this request at `out`."""
        return ["--request", self.model_dump_json(), "--out", out]


def needs_teacher(record: ArmRecord) -> bool:
    """Whether teachers have to embed an arm's views: not if they are given the clean image."""
    return not make_arm(record.arm).denoise


def images_at_once(batch: int, device: str) -> int:
    """The batch size that a build really uses: on a CPU at most CPU_BATCH.

    The plan records it, because a teacher may round differently in a batch of another size.
    """
    return min(batch, CPU_BATCH) if torch.device(device).type == "cpu" else batch


def make_plan(request: Request, dataset: Dataset, teachers: list[Teacher], device: str) -> Plan:
    """The plan of a bank: the request, with the facts of the opened data set and teachers.

    The plan determines every byte of the shards, and its hash is the bank's identity.
    """
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
            plugin=_plugin_of(DATASETS, request.dataset),
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
                plugin=_plugin_of(TEACHERS, spec),
            )
            for spec, teacher in zip(request.teachers, teachers, strict=True)
        ),
        arms={split: request.arm_records(split) for split in SPLITS},
        templates=request.templates or templates_for(request.dataset),
        seed=request.seed,
        shard_samples=request.shard_samples,
        batch=images_at_once(request.batch, device),
        device="cuda" if torch.device(device).type == "cuda" else "cpu",
    )


def _plugin_of(table: Table[Any], spec: str) -> str | None:
    return next(iter(plugins_of((table, spec))), None)


def check_matches(request: Request, manifest: Manifest, location: str) -> None:
    """Check that the complete bank at `location` is what the request would build.

    Raises: ValueError naming the first field that differs, with both values.
    """
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
        "plugins": plan.plugins,
    }
    requested = {field: getattr(request, field, None) for field in stored} | {
        "batch": images_at_once(request.batch, plan.device),
        "image_size": needed_size(
            plan.dataset.spec,
            request.image_size,
            plan.dataset.image_size,
            manifest.requested_size,
        ),
        "templates": request.templates or templates_for(request.dataset),
        "train arms": _views(request.arm_records("train")),
        "test arms": _views(request.arm_records("test")),
        "plugins": request.plugins_used,
        "precision": stored["precision"]
        if request.precision == "auto"
        else (request.precision,) * len(plan.teachers),
    }
    for field, value in stored.items():
        if value != requested[field]:
            raise ValueError(
                f"{location} has a bank with {field} = {value!r}, the request has "
                f"{requested[field]!r}; choose another folder"
            )


def _views(records: tuple[ArmRecord, ...]) -> str:
    """Arms and their numbers of views as text: `clean x1, noise:0.1 x4`."""
    return ", ".join(f"{record.arm} x{record.stop - record.start}" for record in records)
