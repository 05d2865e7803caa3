"""What a sweep takes: device-hours, wall-clock, money, requests.

Everything follows from a `Calibration` and `seconds_of` by counting.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shards.building.estimate import bank_passes, size_of
from sweep.planning.banks import BankJob
from sweep.planning.calibration import Calibration
from sweep.planning.kinds import Kind
from sweep.planning.makespan import makespan
from sweep.planning.prices import Prices
from sweep.planning.resources import Resources, placement_of, share_of
from sweep.planning.trial_seconds import Seconds, seconds_of
from trainers.config.schema import TrialConfig
from trainers.students.teacher_pca import has_no_network

# Requests of one trial to an object store, assumed and not counted: writes and lists, reads, and
# what every epoch and second adds.
PUTS, GETS = 40.0, 60.0
PUTS_EPOCH, PUTS_SECOND, GETS_SECOND = 1.0, 0.4, 0.4
GB = 1e9


@dataclass(frozen=True)
class Estimate:
    """What a sweep takes.

    Attributes:
        device: `cpu`, or the name of a GPU; how many of it `devices`.
        hours: device-hours by what takes them: build, training, measuring, other, set-up.
        wall_seconds: on `devices` of them.
        money: {what: cost} in `currency`: devices, head, storage of a month, requests.
        puts, gets: requests to an object store; 0 for a local store.
        paper_seconds: the same trials the paper's way, see `paper_seconds`.
        notes: what was not measured but estimated.
    """

    device: str
    devices: int
    hours: dict[str, float]
    wall_seconds: float
    currency: str
    money: dict[str, float]
    puts: int
    gets: int
    paper_seconds: float
    notes: list[str]

    @property
    def total_money(self) -> float:
        return sum(self.money.values())


def build_seconds(jobs: Iterable[BankJob], known: Calibration) -> float:
    """Device-seconds of the teachers for all banks. Raises: ValueError for what `known` lacks."""
    total = 0.0
    for job in jobs:
        side = size_of(job.request).side
        for spec in job.request.teachers:
            each = known.entry("teachers", f"{spec} from {side} px")
            total += bank_passes(job.request) * each
    return total


def paper_seconds(kinds: Sequence[tuple[Kind, int]], known: Calibration) -> float:
    """Of all trials, one after the other on one device, with the teacher run in every step.

    As the paper's notebook does it: every image that a student sees goes through the teacher as
    well, and each trial embeds train and test images by the teacher once more to measure it.
    """
    total = 0.0
    for kind, count in kinds:
        teacher = known.entry("teachers", kind.teacher)
        images = kind.seen + kind.train + kind.test * (1 + len(kind.config.test_arms))
        alone = replace(kind, config=kind.config.model_copy(update={"ranks": 1}))
        serial = seconds_of(alone, known)
        total += count * (serial.training + serial.measuring + images * teacher)
    return total


def estimate(
    kinds: Sequence[tuple[Kind, Sequence[TrialConfig]]],
    jobs: Sequence[BankJob],
    known: Calibration,
    prices: Prices,
    devices: int,
    resources: Resources,
    store_bytes: int,
    remote: bool,
) -> Estimate:
    """Of the unfinished trials of each kind, and the banks still to build.

    devices: GPUs, or CPU cores where the calibration is of a CPU. resources: what each trial
    occupies of them, and how many run at a time. store_bytes: kept in the store. remote: whether
    the store is an object store.

    Raises: ValueError for what `known` or `prices` lacks, or a trial that needs more `devices`.
    """
    on_cpu = known.device == "cpu"
    groups: list[_Group] = []
    for kind, members in kinds:
        seconds = seconds_of(kind, known)
        shares = Counter(_share(config, resources, on_cpu, devices) for config in members)
        groups += [_Group(kind, count, seconds, share) for share, count in shares.items()]
    durations = [(group.seconds.whole, group.share) for group in groups for _ in range(group.count)]
    building = build_seconds(jobs, known)
    largest = sorted((share for _, share in durations), reverse=True)[: resources.concurrent]
    used = min(devices, math.ceil(sum(largest)))
    hours = _hours(groups, building, used, known, prices)
    wall = _wall_seconds(durations, building, devices, resources.concurrent, known, prices)
    money = {"machines": sum(hours.values()) * prices.hour(known.device)}
    if not on_cpu:
        money["head"] = wall / 3600 * prices.head_hour
    puts = gets = 0.0
    if remote:
        puts, gets = _requests(groups)
        money["storage, a month"] = store_bytes / GB * prices.storage_gb_month
        money["requests"] = puts / 1000 * prices.put_thousand + gets / 1000 * prices.get_thousand
    return Estimate(
        device=known.device,
        devices=devices,
        hours=hours,
        wall_seconds=wall,
        currency=prices.currency,
        money=money,
        puts=round(puts),
        gets=round(gets),
        paper_seconds=paper_seconds([(kind, len(members)) for kind, members in kinds], known),
        notes=notes_of([kind for kind, _ in kinds], known),
    )


@dataclass(frozen=True)
class _Group:
    """The unfinished trials of one kind: what each takes, on `share` devices."""

    kind: Kind
    count: int
    seconds: Seconds
    share: float

    def device_hours(self, seconds: float) -> float:
        """Of all its trials, for a part of each that takes so many seconds."""
        return seconds * self.share * self.count / 3600


def _share(config: TrialConfig, resources: Resources, on_cpu: bool, devices: int) -> float:
    """How many devices a trial takes. Raises: ValueError where it needs more than there are."""
    # Checked as by a sweep: `share_of` may be more than the grid asks for.
    placement = placement_of(config, resources, resources.gpus_per_trial or 1.0)
    needed = placement.total["CPU" if on_cpu else "GPU"]
    if needed > devices:
        raise ValueError(
            f"{config.ranks} ranks need {needed:g} {'CPU cores' if on_cpu else 'GPUs'}; the "
            f"plan is for {devices}; raise {'--cpus' if on_cpu else '--gpus'}, or lower threads, "
            "ranks or the grid's resources"
        )
    return share_of(config, resources, on_cpu)


def _hours(
    groups: Sequence[_Group], building: float, used: int, known: Calibration, prices: Prices
) -> dict[str, float]:
    """Device-hours by what takes them. used: devices that have anything to do."""
    on_cpu = known.device == "cpu"
    measuring = [group.device_hours(group.seconds.measuring) for group in groups]
    # The teacher goes through the same probes once, and its values are kept.
    for kind in {group.kind.measuring: group.kind for group in groups}.values():
        arithmetic = known.measuring[kind.measuring]
        cores = kind.config.threads if on_cpu else 1
        measuring.append(arithmetic.seconds * kind.train / arithmetic.train * cores / 3600)
    other = [group.device_hours(group.seconds.fixed) for group in groups]
    other.append(known.overhead.worker * used / 3600)
    if on_cpu:  # Ray, driver and upload run on the same cores
        other.append(known.overhead.base / 3600)
        other.append(known.overhead.behind * sum(group.count for group in groups) / 3600)
    return {
        "build": building / 3600,
        "training": sum((group.device_hours(group.seconds.training) for group in groups), 0.0),
        "measuring": sum(measuring, 0.0),
        "other": sum(other, 0.0),
        "set-up": 0.0 if on_cpu else prices.setup_seconds * used / 3600,
    }


def _wall_seconds(
    durations: Sequence[tuple[float, float]],
    building: float,
    devices: int,
    concurrent: int | None,
    known: Calibration,
    prices: Prices,
) -> float:
    """From the start of the sweep to its end. durations: (seconds, devices) of each trial."""
    overhead = known.overhead
    wall = overhead.start + building / devices + overhead.worker
    wall += makespan(durations, devices, most=concurrent)
    behind = overhead.behind * len(durations)
    if known.device == "cpu":  # on the same cores
        return wall + behind / devices
    return max(wall + prices.setup_seconds, behind)


def _requests(groups: Sequence[_Group]) -> tuple[float, float]:
    """Requests to an object store: writes and lists, and reads."""
    puts = gets = 0.0
    for group in groups:
        config, whole = group.kind.config, group.seconds.whole
        epochs = config.epochs_begun(group.kind.train)
        puts += group.count * (PUTS + PUTS_EPOCH * epochs + PUTS_SECOND * whole)
        gets += group.count * (GETS + GETS_SECOND * whole)
    return puts, gets


def notes_of(kinds: Sequence[Kind], known: Calibration) -> list[str]:
    """What is scaled from something else."""
    scaled = {
        kind.config.student
        for kind in kinds
        if kind.student not in known.students and not has_no_network(kind.config.student)
    }
    return [f"not calibrated, estimated by its size: student {name}" for name in sorted(scaled)]
