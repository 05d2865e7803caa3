"""What a finished trial leaves behind: the fields of result.json, and the student's folder."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shards.bank.manifest import Manifest, arm_record
from shards.support import storage
from shards.teachers.preprocess import Preprocess
from trainers.config.durations import distinct_views
from trainers.config.schema import TrialConfig
from trainers.probes import PROBES
from trainers.probes.measure import (
    Banks,
    Measured,
    Pupil,
    measure,
    measure_teacher,
    projected_features,
    student_features,
)
from trainers.probes.observer import Observer
from trainers.students import Student, describe, save_student
from trainers.training.loop import Trained
from trainers.training.wrappers import student_in

FORMAT = "trial-result/1"


def source_of(config: TrialConfig, manifest: Manifest) -> str:
    """sha256 of what the trial reads: data set, teacher weights, preprocessing, its arms, draws.

    Banks that differ only in other arms have the same source for a trial.
    """
    plan = manifest.plan
    arms = [*(("train", a) for a in ("clean", config.arm)), ("test", "clean")]
    chosen = [arm_record(manifest, split, arm) for split, arm in arms]
    parts = [
        plan.dataset.model_dump_json(),
        plan.teachers[plan.teacher_index(config.teacher)].model_dump_json(),
        *(f"{a.arm} {a.columns} {sorted(a.options.items())} {a.stop - a.start}" for a in chosen),
        f"{plan.seed} {plan.device} {plan.format}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def input_of(config: TrialConfig, manifest: Manifest) -> Preprocess:
    """How the student's images are prepared: the teacher's normalisation, at either's size."""
    plan = manifest.plan
    preprocess = plan.teachers[plan.teacher_index(config.teacher)].preprocess
    return preprocess.native(plan.dataset.image_size) if config.input == "native" else preprocess


def student_to_measure(
    config: TrialConfig,
    banks: Banks,
    trained: Trained,
    preprocess: Preprocess,
    device: torch.device,
) -> Student:
    """The student inside what was trained.

    One that was not trained gets BatchNorm statistics of one pass over the clean train images:
    those it starts with, 0 and 1, are of no images at all.
    """
    student = student_in(trained.student)
    if config.trains:
        return student
    fresh = Pupil(student, banks, config, preprocess, device).recalibrated("clean")
    return student if fresh is None else fresh.model


def measured(
    config: TrialConfig,
    banks: Banks,
    student: Student | None,
    trained: Trained | None,
    preprocess: Preprocess,
    device: torch.device,
    root: str,
) -> dict[str, Any]:
    """A student through the trial's probes: the whole record. None is `teacher_pca`'s."""
    if student is None:
        features = projected_features(banks, config)
    else:
        features = student_features(student, banks, config, preprocess, device)
    own = measure(features, config, "test")
    result = make_record(config, banks, own, measure_teacher(banks, config, root))
    result["student"] = cost_of(config, result["data"]["dim"], preprocess.size)
    result["environment"] = environment_of(device, config)
    result["curve"] = trained.curve if trained else []
    result["curves"] = trained.observed if trained else []
    if result["curves"]:
        reference = Observer(banks, config, preprocess, device).teacher()
        result["teacher"] |= {f"teacher/curve/{name}": value for name, value in reference.items()}
    return result


def make_record(
    config: TrialConfig, banks: Banks, own: Measured, teacher: Measured
) -> dict[str, Any]:
    """The trial, what it read and what was measured; student, curve and environment are added.

    `input` is what a user of the student needs: preprocessing, class names, prompts.
    `probe_versions` are those of the probes that gave metrics, teacher and arrays.
    """
    manifest, plan = banks.manifest, banks.manifest.plan
    source = plan.teachers[plan.teacher_index(config.teacher)]
    return {
        "format": FORMAT,
        "id": config.identity,
        "config": config.model_dump(mode="json"),
        "source": source_of(config, manifest),
        "weights_sha256": source.weights_sha256,
        "data": {
            "train": len(banks.clean_train.keys),
            "test": len(banks.test["clean"].keys),
            "classes": len(banks.classes),
            "chance": 1 / len(banks.classes),
            "dim": source.dim,
            "views_per_sample": distinct_views(config, len(banks.clean_train.keys)),
        },
        "input": {
            "preprocess": input_of(config, manifest).model_dump(mode="json"),
            "classes": list(banks.classes),
            "templates": list(plan.templates),
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
