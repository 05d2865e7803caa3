"""From a trained student to its TrialResult and its student/ folder."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from shards.support import storage
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialSplits, distinct_views
from trainers.probes import PROBES
from trainers.probes.feature_banks import StudentSubject, projected_features, student_features
from trainers.probes.measure import Measured, measure, measure_teacher
from trainers.probes.observer import Observer
from trainers.results.folder import STUDENT
from trainers.results.record import (
    Cost,
    Data,
    Environment,
    Epoch,
    Input,
    Observation,
    Observations,
    ProbeResult,
    TrialResult,
)
from trainers.students import describe
from trainers.students.base import Student
from trainers.students.files import save_student
from trainers.training.loop import Trained
from trainers.training.wrappers import unwrap_student


def student_to_measure(splits: TrialSplits, trained: Trained, device: torch.device) -> Student:
    """The student inside what was trained.

    One that was not trained gets BatchNorm statistics of one pass over the clean train images:
    those it starts with, 0 and 1, are of no images at all.
    """
    student = unwrap_student(trained.student)
    if splits.inputs.config.trains:
        return student
    fresh = StudentSubject(student, splits, device).recalibrated("clean")
    return student if fresh is None else fresh.model


def measure_trial(
    splits: TrialSplits,
    student: Student | None,
    trained: Trained | None,
    device: torch.device,
    root: str,
) -> TrialResult:
    """A student through the trial's probes: the whole result.

    student: None for `teacher_pca:K`, which has no network; trained: None where nothing was
    trained; root: where the teacher's measurements are cached.
    """
    inputs, config = splits.inputs, splits.inputs.config
    if student is None:
        features = projected_features(splits)
    else:
        features = student_features(student, splits, device)
    own = measure(features, config, "test")
    reference = measure_teacher(splits, root)
    observations = Observations(rows=[], teacher={})
    if trained is not None and trained.observations:
        rows = [observation_of(row) for row in trained.observations]
        observations = Observations(rows=rows, teacher=Observer(splits, device).teacher())
    return TrialResult(
        id=config.identity,
        config=config.model_dump(mode="json"),
        source=inputs.source,
        weights_sha256=inputs.teacher.weights_sha256,
        data=data_of(splits),
        input=Input(
            preprocess=inputs.preprocess,
            classes=list(inputs.classes),
            templates=list(inputs.manifest.plan.templates),
        ),
        student=cost_of(config, inputs.teacher.dim, inputs.preprocess.size),
        environment=environment_of(device, config),
        probes={name: probe_result(name, own[name], reference[name]) for name in config.probes},
        epochs=[Epoch.model_validate(row) for row in trained.epochs] if trained else [],
        observations=observations,
    )


def probe_result(probe: str, own: Measured, teacher: Measured) -> ProbeResult:
    """What this code's version of a probe gave for the student and for its teacher."""
    return ProbeResult(
        version=PROBES[probe].version,
        metrics=own.metrics,
        teacher=teacher.metrics,
        arrays=own.arrays | teacher.arrays,
        undefined=own.undefined + teacher.undefined,
    )


def observation_of(row: Mapping[str, float]) -> Observation:
    """A row of the training loop, {step, epoch, measures ...}, as results hold it."""
    values = {name: value for name, value in row.items() if name not in ("step", "epoch")}
    return Observation(step=int(row["step"]), epoch=row["epoch"], values=values)


def data_of(splits: TrialSplits) -> Data:
    """What the trial was trained and measured on."""
    inputs, samples = splits.inputs, len(splits.clean_train.keys)
    return Data(
        train=samples,
        test=len(splits.test["clean"].keys),
        classes=len(inputs.classes),
        chance=1 / len(inputs.classes),
        dim=inputs.teacher.dim,
        views_per_sample=distinct_views(inputs.config, samples),
    )


def cost_of(config: TrialConfig, dim: int, size: int) -> Cost:
    """Parameters and multiply-accumulates of the student, for images of `size` pixels.

    A supervised student's classifier does not count: it is no part of what is measured.
    """
    student = describe(config.student, dim, size)
    return Cost(
        spec=config.student, **asdict(student.parameters), macs=student.macs, image_size=size
    )


def environment_of(device: torch.device, config: TrialConfig) -> Environment:
    """Where the numbers were made: they are bitwise comparable where all of this agrees."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    versions = {name: version(name) for name in ("numpy", "scikit-learn")}
    return Environment(
        torch=str(torch.__version__),
        python=platform.python_version(),
        device=accelerator or "cpu",
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        threads=config.threads,
        **versions,
    )


def store_student(folder: str, model: nn.Module, config: TrialConfig, dim: int, size: int) -> None:
    """student/ in the trial's folder: safetensors and the JSON that rebuilds it."""
    with tempfile.TemporaryDirectory() as copy:
        save_student(copy, model, config.student, dim, size)
        files = {f.name: f.read_bytes() for f in sorted(Path(copy).iterdir(), reverse=True)}
    storage.write_folder(storage.join(folder, STUDENT), files)
