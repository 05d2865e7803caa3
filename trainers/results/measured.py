"""From a trained student to its TrialResult and its student/ folder."""

from __future__ import annotations

import math
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shards.bank.members import DTYPES
from trainers.config.schema import TrialConfig
from trainers.inputs import TrialSplits, distinct_views
from trainers.probes import PROBES
from trainers.probes.feature_banks import StudentSubject, projected_features, student_features
from trainers.probes.measure import Measured, measure, measure_teacher
from trainers.probes.observer import Observer
from trainers.results.record import (
    Cost,
    Data,
    Embeddings,
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
from trainers.training.divergence import NotFiniteError, diverged
from trainers.training.loop import Trained
from trainers.training.wrappers import unwrap_student


def student_to_measure(splits: TrialSplits, trained: Trained, device: torch.device) -> Student:
    """The student inside the module that was trained.

    An untrained one gets BatchNorm statistics of one pass over the clean train images: its initial
    statistics, mean 0 and variance 1, come from no images.
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
    """Run the trial's probes on its student and on the teacher; returns the whole result.

    Args:
        splits: the samples of the trial.
        student: None for `teacher_pca:K`, which has no network.
        trained: rows of the training; None where nothing was trained.
        device: where the student is.
        root: path or URL of the folder in which the teacher's measurements are cached.

    Raises: DivergedError where an output of the trained student is not finite.
    """
    inputs, config = splits.inputs, splits.inputs.config
    try:
        if student is None:
            features = projected_features(splits)
        else:
            features = student_features(student, splits, device)
        values = measure(features, config, "test")
    except NotFiniteError as error:
        if trained is None or not trained.epochs:
            raise
        last = trained.epochs[-1]
        raise diverged(last["step"], math.ceil(last["epoch"]), str(error)) from None
    teacher = measure_teacher(splits, root)
    observations = Observations(rows=[], teacher={})
    if trained is not None and trained.observations:
        rows = [observation_of(row) for row in trained.observations]
        reference = Observer(splits, device).teacher() if config.curve_every else {}
        observations = Observations(rows=rows, teacher=reference)
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
        probes={name: probe_result(name, values[name], teacher[name]) for name in config.probes},
        epochs=[Epoch.model_validate(row) for row in trained.epochs] if trained else [],
        observations=observations,
        embeddings=Embeddings(
            precision=inputs.teacher.precision,
            device=inputs.manifest.plan.device,
            stored=np.dtype(DTYPES["embedding"]).name,
        ),
    )


def probe_result(probe: str, student: Measured, teacher: Measured) -> ProbeResult:
    """The values of a probe for a student and its teacher, with the version that measured them."""
    return ProbeResult(
        version=PROBES[probe].version,
        metrics=student.metrics,
        teacher=teacher.metrics,
        arrays=student.arrays | teacher.arrays,
        undefined=student.undefined + teacher.undefined,
    )


def observation_of(row: Mapping[str, float]) -> Observation:
    """A row of the training loop, {step, epoch, name: value ...}, as an Observation."""
    values = {name: value for name, value in row.items() if name not in ("step", "epoch")}
    return Observation(step=int(row["step"]), epoch=row["epoch"], values=values)


def data_of(splits: TrialSplits) -> Data:
    """Numbers of the images and classes that the trial was trained and measured on."""
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
    """Parameters and multiply-accumulates of a student for images of `size` x `size` pixels.

    dim: D of its embeddings. The classifier of a supervised student is not counted, because it is
    discarded after training.
    """
    student = describe(config.student, dim, size)
    return Cost(
        spec=config.student, **asdict(student.parameters), macs=student.macs, image_size=size
    )


def environment_of(device: torch.device, config: TrialConfig) -> Environment:
    """Versions and hardware of this process."""
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


def student_files(model: nn.Module, config: TrialConfig, dim: int, size: int) -> dict[str, bytes]:
    """{name: content} of the student's folder, see `trainers.students.files`.

    dim: D of its embeddings. size: height and width of its images in pixels.
    """
    with tempfile.TemporaryDirectory() as copy:
        save_student(copy, model, config.student, dim, size)
        # The weights come before student.json, so that a reader never finds only the JSON.
        return {f.name: f.read_bytes() for f in sorted(Path(copy).iterdir(), reverse=True)}
