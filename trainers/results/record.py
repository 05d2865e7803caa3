"""What a finished trial leaves behind: the fields of result.json, and the student's folder."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shards.support import storage
from trainers.config.durations import distinct_views
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialSplits
from trainers.probes import PROBES
from trainers.probes.measure import (
    Measured,
    Pupil,
    measure,
    measure_teacher,
    projected_features,
    student_features,
)
from trainers.probes.observer import Observer
from trainers.students import describe
from trainers.students.base import Student
from trainers.students.files import save_student
from trainers.training.loop import Trained
from trainers.training.wrappers import unwrap_student

FORMAT = "trial-result/1"


def student_to_measure(splits: TrialSplits, trained: Trained, device: torch.device) -> Student:
    """The student inside what was trained.

    One that was not trained gets BatchNorm statistics of one pass over the clean train images:
    those it starts with, 0 and 1, are of no images at all.
    """
    student = unwrap_student(trained.student)
    if splits.inputs.config.trains:
        return student
    fresh = Pupil(student, splits, device).recalibrated("clean")
    return student if fresh is None else fresh.model


def measured(
    splits: TrialSplits,
    student: Student | None,
    trained: Trained | None,
    device: torch.device,
    root: str,
) -> dict[str, Any]:
    """A student through the trial's probes: the whole record. None is `teacher_pca`'s."""
    inputs, config = splits.inputs, splits.inputs.config
    if student is None:
        features = projected_features(splits)
    else:
        features = student_features(student, splits, device)
    own = measure(features, config, "test")
    result = make_record(splits, own, measure_teacher(splits, root))
    result["student"] = cost_of(config, inputs.teacher.dim, inputs.preprocess.size)
    result["environment"] = environment_of(device, config)
    result["curve"] = trained.epochs if trained else []
    result["curves"] = trained.observations if trained else []
    if result["curves"]:
        reference = Observer(splits, device).teacher()
        result["teacher"] |= {f"teacher/curve/{name}": value for name, value in reference.items()}
    return result


def make_record(splits: TrialSplits, own: Measured, teacher: Measured) -> dict[str, Any]:
    """The trial, what it read and what was measured; student, curve and environment are added.

    `input` is what a user of the student needs: preprocessing, class names, prompts.
    `probe_versions` are those of the probes that gave metrics, teacher and arrays.
    """
    inputs, config = splits.inputs, splits.inputs.config
    return {
        "format": FORMAT,
        "id": config.identity,
        "config": config.model_dump(mode="json"),
        "source": inputs.source,
        "weights_sha256": inputs.teacher.weights_sha256,
        "data": {
            "train": len(splits.clean_train.keys),
            "test": len(splits.test["clean"].keys),
            "classes": len(inputs.classes),
            "chance": 1 / len(inputs.classes),
            "dim": inputs.teacher.dim,
            "views_per_sample": distinct_views(config, len(splits.clean_train.keys)),
        },
        "input": {
            "preprocess": inputs.preprocess.model_dump(mode="json"),
            "classes": list(inputs.classes),
            "templates": list(inputs.manifest.plan.templates),
        },
        "probe_versions": {name: PROBES[name].version for name in config.probes},
        "metrics": own.metrics,
        "teacher": teacher.metrics,
        "arrays": own.arrays | teacher.arrays,
        "undefined": own.undefined + teacher.undefined,
    }


def cost_of(config: TrialConfig, dim: int, size: int) -> dict[str, Any]:
    """Parameters (trunk + head = total) and multiply-accumulates of one image.

    A supervised student's classifier does not count: it is no part of what is measured.
    """
    student = describe(config.student, dim, size)
    return {
        "spec": config.student,
        **asdict(student.parameters),
        "macs": student.macs,
        "image_size": size,
    }


def environment_of(device: torch.device, config: TrialConfig) -> dict[str, Any]:
    """Where the numbers were made: they are bitwise comparable where all of this agrees."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "python": platform.python_version(),
        "device": accelerator or "cpu",
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": config.threads,
    }


def store_student(place: str, model: nn.Module, config: TrialConfig, dim: int, size: int) -> None:
    """student/ in the trial's place: safetensors and the JSON that rebuilds it."""
    with tempfile.TemporaryDirectory() as folder:
        save_student(folder, model, config.student, dim, size)
        files = {f.name: f.read_bytes() for f in sorted(Path(folder).iterdir(), reverse=True)}
    storage.write_folder(storage.join(place, "student"), files)
