"""What a sweep would do: its trials with their sizes, banks, downloads, and what they cost."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shards.building.estimate import bank_bytes
from shards.datasets import data_root
from shards.datasets.cifar import is_present
from shards.support import storage
from shards.support.registry import split_spec
from shards.teachers import check_teacher
from sweep.planning.banks import BankJob, plan_banks
from sweep.planning.calibration import Calibration
from sweep.planning.estimate import Estimate, build_seconds, estimate
from sweep.planning.kinds import Kind, kinds_of
from sweep.planning.prices import Prices
from sweep.planning.resources import Resources, check_fits
from sweep.planning.room import bytes_needed
from sweep.planning.sizes import student_of
from sweep.planning.trial_seconds import seconds_of
from trainers.config.schema import TrialConfig
from trainers.inputs import distinct_views
from trainers.results.folder import begun, finished


@dataclass(frozen=True)
class PlannedTrial:
    """One trial.

    Attributes:
        id: the trial's identity.
        trunk, head, parameters: the student's parameters, and their sum.
        macs: multiply-accumulates of one image.
        distinct_views: how many different views of one training image the student sees at most.
        finished: whether its result is in the store.
        seconds: on its device, see `Estimate`.
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
    """One bank to build; `seconds` are those of the teachers on one device."""

    location: str
    request: dict[str, Any]
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a sweep would do. `bytes`: on disk, at most."""

    trials: list[PlannedTrial]
    banks: list[PlannedBank]
    downloads: list[str]
    bytes: int
    estimate: Estimate

    def as_plain(self) -> dict[str, Any]:
        """The same as dictionaries and lists, for JSON."""
        return asdict(self)


def plan_sweep(
    trials: list[TrialConfig],
    store: str,
    known: Calibration,
    prices: Prices,
    resources: Resources,
    *,
    teacher_robustness: bool = False,
    devices: int | None = None,
    here: bool = False,
    kinds: Sequence[tuple[Kind, list[TrialConfig]]] | None = None,
) -> Plan:
    """Plan `trials` on `store`, of which nothing is changed. `teacher_robustness`: see plan_banks.

    devices: GPUs or, with the calibration of a CPU, its cores; None: one GPU, or all cores here.
    resources: what each trial occupies of them, and how many run at a time. here: whether the sweep
    would run from this machine, so that what it refuses is refused. kinds: of the trials, where the
    caller has them.

    Raises: ValueError for an unknown data set or teacher, a trial that does not fit its data or
        needs more than there is, or what the calibration or the prices lack.
    """
    if devices is None:
        devices = (os.cpu_count() or 1) if known.device == "cpu" else 1
    to_download, present = downloads(trials), begun(store)
    kinds = kinds_of(trials) if kinds is None else kinds
    rows: dict[str, PlannedTrial] = {}
    unfinished: list[TrialConfig] = []
    to_run: list[tuple[Kind, list[TrialConfig]]] = []
    for kind, members in kinds:
        done = {
            config.identity
            for config in members
            if config.identity in present and finished(store, config) is not None
        }
        left = [config for config in members if config.identity not in done]
        rows |= {row.id: row for row in _planned_trials(kind, members, done, known)}
        unfinished += left
        if left:
            to_run.append((kind, left))
    if here:
        check_fits(unfinished, resources)
    _, jobs = plan_banks(unfinished, store, teacher_robustness)
    needed = bytes_needed(unfinished, jobs)
    remote = not storage.is_local(store)
    found = estimate(to_run, jobs, known, prices, devices, resources, needed, remote)
    return Plan(
        trials=[rows[trial] for trial in dict.fromkeys(config.identity for config in trials)],
        banks=[_planned_bank(job, known) for job in jobs],
        downloads=to_download,
        bytes=needed,
        estimate=found,
    )


def _planned_trials(
    kind: Kind, members: Sequence[TrialConfig], done: Container[str], known: Calibration
) -> Iterator[PlannedTrial]:
    """The trials of a kind. done: identities of those that are finished."""
    student, seconds = student_of(kind.config), seconds_of(kind, known).whole
    views = distinct_views(kind.config, kind.train)
    fields = kind.config.model_dump(mode="json")
    for config in members:
        yield PlannedTrial(
            id=config.identity,
            student=config.student,
            arm=config.arm,
            seed=config.seed,
            trunk=student.parameters.trunk,
            head=student.parameters.head,
            parameters=student.parameters.total,
            macs=student.macs,
            distinct_views=views,
            finished=config.identity in done,
            seconds=seconds,
            config=fields | {"seed": config.seed},
        )


def _planned_bank(job: BankJob, known: Calibration) -> PlannedBank:
    return PlannedBank(
        location=job.location,
        request=job.request.model_dump(mode="json"),
        bytes=bank_bytes(job.request),
        seconds=build_seconds([job], known),
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
