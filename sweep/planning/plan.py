"""What a sweep would do: its trials with their sizes, banks, downloads, disk space and time."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from shards.building.estimate import bank_bytes, bank_passes
from shards.datasets import data_root
from shards.datasets.cifar import is_present
from shards.support.registry import split_spec
from shards.teachers import check_teacher
from sweep.planning.banks import BankJob, plan_banks
from sweep.planning.costs import bytes_needed, teacher_pass_seconds, training_seconds
from sweep.planning.sizes import student_of, train_samples
from trainers.config.schema import TrialConfig
from trainers.inputs import distinct_views
from trainers.results.folder import finished


@dataclass(frozen=True)
class PlannedTrial:
    """One trial.

    Attributes:
        id: the trial's identity.
        trunk, head, parameters: the student's parameters, and their sum.
        macs: multiply-accumulates of one image.
        distinct_views: how many different views of one training image the student sees at most.
        finished: whether its result is in the store.
        seconds: of training, on one process of this machine's CPU.
    """

    id: str
    student: str
    arm: str
    seed: int
    trunk: int
    head: int
    parameters: int
    macs: int
    distinct_views: int
    finished: bool
    seconds: float
    config: dict[str, Any]


@dataclass(frozen=True)
class PlannedBank:
    """One bank to build; `seconds` are those of the teachers, on this machine's CPU."""

    location: str
    request: dict[str, Any]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a sweep would do. Times are of this machine's CPU, from a short calibration."""

    trials: list[PlannedTrial]
    banks: list[PlannedBank]
    downloads: list[str]
    bytes: int
    cpu_seconds: dict[str, float]  # of `teacher` and `training`
    cores: int

    def as_plain(self) -> dict[str, Any]:
        """The same as dictionaries and lists, for JSON."""
        return asdict(self)


def plan_sweep(trials: list[TrialConfig], store: str, teacher_robustness: bool = False) -> Plan:
    """Plan `trials` on `store`, of which nothing is changed. `teacher_robustness`: see plan_banks.

    Raises: ValueError for an unknown data set or teacher, or a trial that does not fit its data.
    """
    to_download = downloads(trials)
    seconds = training_seconds(trials)
    rows = [_planned_trial(config, store, seconds[config]) for config in trials]
    unfinished = [config for config, row in zip(trials, rows, strict=True) if not row.finished]
    _, jobs = plan_banks(unfinished, store, teacher_robustness)
    banks = [_planned_bank(job) for job in jobs]
    return Plan(
        trials=rows,
        banks=banks,
        downloads=to_download,
        bytes=bytes_needed(unfinished, jobs),
        cpu_seconds={
            "teacher": sum(bank.seconds for bank in banks),
            "training": sum(row.seconds for row in rows if not row.finished),
        },
        cores=os.cpu_count() or 1,
    )


def _planned_trial(config: TrialConfig, store: str, seconds: float) -> PlannedTrial:
    student = student_of(config)
    return PlannedTrial(
        id=config.identity,
        student=config.student,
        arm=config.arm,
        seed=config.seed,
        trunk=student.parameters.trunk,
        head=student.parameters.head,
        parameters=student.parameters.total,
        macs=student.macs,
        distinct_views=distinct_views(config, train_samples(config)),
        finished=finished(store, config) is not None,
        seconds=seconds,
        config=config.model_dump(mode="json"),
    )


def _planned_bank(job: BankJob) -> PlannedBank:
    return PlannedBank(
        location=job.location,
        request=job.request.model_dump(mode="json"),
        bytes=bank_bytes(job.request),
        seconds=bank_passes(job.request) * teacher_pass_seconds(job.request),
    )


def downloads(trials: list[TrialConfig]) -> list[str]:
    """The data sets and weights that trials need and this machine lacks, one line for each.

    Raises: ValueError for an unknown data set or teacher.
    """
    lines: dict[str, None] = {}
    for spec in dict.fromkeys(config.dataset for config in trials):
        name, _ = split_spec(spec)
        if name in ("cifar10", "cifar100") and not is_present(name, data_root()):
            lines[f"data set {name} into {data_root().resolve()}"] = None
    for spec in dict.fromkeys(config.teacher for config in trials):
        line = check_teacher(spec)
        if line:
            lines[line] = None
    return list(lines)
