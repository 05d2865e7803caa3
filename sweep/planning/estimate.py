"""What a sweep takes: device-hours, wall-clock, money, requests.

Everything follows from a `Calibration` and `seconds_of` by counting.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shards.building.estimate import bank_passes, size_of
from sweep.planning.banks import BankJob
from sweep.planning.calibration import Calibration
from sweep.planning.kinds import Kind
from sweep.planning.prices import Prices
from sweep.planning.trial_seconds import seconds_of
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
        whole = seconds_of(kind, known)
        serial = whole.training * kind.config.ranks + whole.measuring
        total += count * (serial + images * teacher)
    return total


def estimate(
    kinds: Sequence[tuple[Kind, int]],
    jobs: Sequence[BankJob],
    known: Calibration,
    prices: Prices,
    devices: int,
    gpus_per_rank: float | None,
    store_bytes: int,
    remote: bool,
) -> Estimate:
    """Of so many unfinished trials of each kind, and the banks still to build.

    devices: GPUs, or CPU cores where the calibration is of a CPU. gpus_per_rank: see Resources.
    store_bytes: kept in the store. remote: whether the store is an object store.

    Raises: ValueError for what `known` or `prices` lacks, or a trial with more ranks than devices.
    """
    on_cpu = known.device == "cpu"
    durations: list[tuple[float, float]] = []  # (seconds, devices) of each trial
    hours: dict[str, float] = dict.fromkeys(
        ("build", "training", "measuring", "other", "set-up"), 0.0
    )
    puts = gets = 0.0
    for kind, count in kinds:
        config, taken = kind.config, seconds_of(kind, known)
        each = float(config.threads) if on_cpu else (gpus_per_rank or 1.0)
        share = each * config.ranks
        if share > devices:
            raise ValueError(
                f"{config.ranks} ranks need {share:g} {'CPU cores' if on_cpu else 'GPUs'}; the "
                f"plan is for {devices}; raise {'--cpus' if on_cpu else '--gpus'}"
            )
        durations += [(taken.whole, share)] * count
        for name, part in (("training", taken.training), ("measuring", taken.measuring)):
            hours[name] += part * share * count / 3600
        hours["other"] += taken.fixed * share * count / 3600
        epochs = config.epochs_begun(kind.train)
        puts += count * (PUTS + PUTS_EPOCH * epochs + PUTS_SECOND * taken.whole)
        gets += count * (GETS + GETS_SECOND * taken.whole)
    # The teacher goes through the same probes once, and its values are kept.
    for kind in {kind.measuring: kind for kind, _ in kinds}.values():
        arithmetic = known.measuring[kind.measuring]
        cores = kind.config.threads if on_cpu else 1
        hours["measuring"] += arithmetic.seconds * kind.train / arithmetic.train * cores / 3600
    building = build_seconds(jobs, known)
    hours["build"] = building / 3600
    used = min(devices, math.ceil(sum(share for _, share in durations)))
    hours["other"] += known.overhead.worker * used / 3600
    wall = known.overhead.start + building / devices + known.overhead.worker
    wall += makespan(durations, devices)
    behind = known.overhead.behind * len(durations)
    if on_cpu:  # on the same cores
        hours["other"] += behind / 3600
        wall += behind / devices
    else:
        hours["set-up"] = prices.setup_seconds * used / 3600
        wall = max(wall + prices.setup_seconds, behind)
    money = {"machines": sum(hours.values()) * prices.hour(known.device)}
    if not on_cpu:
        money["head"] = wall / 3600 * prices.head_hour
    if remote:
        money["storage, a month"] = store_bytes / GB * prices.storage_gb_month
        money["requests"] = puts / 1000 * prices.put_thousand + gets / 1000 * prices.get_thousand
    return Estimate(
        device=known.device,
        devices=devices,
        hours=hours,
        wall_seconds=wall,
        currency=prices.currency,
        money=money,
        puts=round(puts) if remote else 0,
        gets=round(gets) if remote else 0,
        paper_seconds=paper_seconds(kinds, known),
        notes=notes_of(kinds, known),
    )


def notes_of(kinds: Sequence[tuple[Kind, int]], known: Calibration) -> list[str]:
    """What is scaled from something else."""
    scaled = {
        kind.config.student
        for kind, _ in kinds
        if kind.student not in known.students and not has_no_network(kind.config.student)
    }
    return [f"not calibrated, estimated by its size: student {name}" for name in sorted(scaled)]


def makespan(durations: Sequence[tuple[float, float]], devices: int) -> float:
    """Seconds until the last trial ends, the longest first, each on its share of the devices."""
    if not durations:
        return 0.0
    if len({share for _, share in durations}) == 1:
        slots = max(1, int(devices / durations[0][1]))
        ends = [0.0] * min(slots, len(durations))
        for seconds, _ in sorted(durations, reverse=True):
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)
    free, now, running = float(devices), 0.0, list[tuple[float, float]]()
    for seconds, share in sorted(durations, reverse=True):
        while free < share:
            now, freed = heapq.heappop(running)
            free += freed
        free -= share
        heapq.heappush(running, (now + seconds, share))
    return max(end for end, _ in running)
