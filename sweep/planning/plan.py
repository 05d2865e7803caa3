"""A sweep before it runs: every name resolved, sizes exact, disk and time estimated."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections import Counter
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from shards.building.estimate import bank_bytes, bank_passes, size_of, teacher_seconds
from shards.building.request import Request
from shards.datasets import data_root
from shards.datasets.cifar import is_present
from shards.support import storage
from shards.support.progress import clock
from shards.support.registry import split_spec
from shards.teachers import check_teacher, embedding_dim
from sweep.planning.banks import plan_banks
from sweep.planning.estimate import student_seconds
from trainers.config.durations import distinct_views
from trainers.config.schema import TrialConfig
from trainers.students import StudentSummary
from trainers.students import describe as describe_student
from trainers.trial import finished

FIXED_SECONDS, START_SECONDS = 4.0, 10.0  # of a trial beside its training; of Ray and workers
BYTES_A_PARAMETER = 4 * (1 + 2 * 3)  # the student, and two checkpoints with Adam's moments


@functools.cache
def _summary(student: str, dim: int, side: int) -> StudentSummary:
    return describe_student(student, dim, side)


def _side(config: TrialConfig) -> int:
    """Pixels a side of what the student sees."""
    if config.input == "native":
        return size_of(config).side
    from shards.teachers import input_size

    return input_size(config.teacher)


def student_of(config: TrialConfig) -> StudentSummary:
    return _summary(config.student, embedding_dim(config.teacher), _side(config))


def train_samples(config: TrialConfig) -> int:
    """Images that a trial learns from; of a subset of classes, as if all were of one size.

    Raises: ValueError with both numbers where it asks for more classes than there are.
    """
    size = size_of(config)
    shown = size.classes if config.classes is None else config.classes
    if shown > size.classes:
        raise ValueError(f"classes: {shown} asked of {config.dataset}, which has {size.classes}")
    return size.train * shown // size.classes


def planned_steps(config: TrialConfig) -> int:
    """Optimiser steps of a trial. Raises: those of `train_samples`."""
    return config.total_steps(train_samples(config))


def samples_seen(config: TrialConfig) -> int:
    return planned_steps(config) * config.batch_size


def trial_weight(config: TrialConfig) -> float:
    """Relative cost of a trial: multiply-accumulates, and a constant for what is fixed."""
    return 2e10 + student_of(config).macs * 3.0 * samples_seen(config)


def downloads(trials: list[TrialConfig]) -> list[str]:
    """What would have to be fetched. Raises: ValueError for an unknown data set or teacher."""
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


def bytes_needed(trials: list[TrialConfig], store: str, figures: bool = False) -> int:
    """Banks still to build, and every unfinished trial's student and checkpoints."""
    left = [config for config in trials if finished(store, config) is None]
    banks = sum(bank_bytes(job.request) for job in plan_banks(left, store, figures)[1])
    return banks + sum(BYTES_A_PARAMETER * student_of(c).parameters.total for c in left)


def check_room(trials: list[TrialConfig], store: str, figures: bool = False) -> None:
    """Raises: OSError with bytes needed and free when a local store is too small."""
    if not storage.is_local(store):
        return
    place = storage.local_path(store).resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = bytes_needed(trials, store, figures)
    if needed > free:
        raise OSError(f"{store}: {needed:,} bytes needed, {free:,} bytes free")


def _pace(trials: list[TrialConfig]) -> dict[TrialConfig, float]:
    """Seconds a training sample of each trial takes on this machine's CPU; 0 of one untrained."""
    known: dict[tuple[Any, ...], float] = {}
    found = {}
    for config in trials:
        if not config.trains:
            found[config] = 0.0
            continue
        side, dim = _side(config), embedding_dim(config.teacher)
        key = (config.student, dim, side, config.threads)
        if key not in known:
            known[key] = student_seconds(config.student, dim, side, config.threads)
        found[config] = known[key]
    return found


def guess(left: list[TrialConfig], cpus: int) -> str:
    """A first ETA, before any epoch has ended: `, about 5:20`."""
    work = sum(
        (FIXED_SECONDS + pace * samples_seen(config)) * min(cpus, config.ranks * config.threads)
        for config, pace in _pace(left).items()
    )
    return f", about {clock(START_SECONDS + work / min(cpus, len(left)))}"


def _teacher_seconds(request: Request) -> float:
    """Of one view of one image, by all teachers."""
    side = size_of(request).side
    return sum(teacher_seconds(spec, side, seconds=0.5) for spec in request.teachers)


def describe(trials: list[TrialConfig], store: str, figures: bool = False) -> dict[str, Any]:
    """The dry run, for machines. Times are of this machine's CPU, from a short calibration."""
    fetch = downloads(trials)
    rows, pace = [], _pace(trials)
    for config in trials:
        student = student_of(config)
        rows.append(
            {
                "id": config.identity,
                "student": config.student,
                "arm": config.arm,
                "seed": config.seed,
                "trunk": student.parameters.trunk,
                "head": student.parameters.head,
                "parameters": student.parameters.total,
                "macs": student.macs,
                "distinct_views": distinct_views(config, train_samples(config)),
                "finished": finished(store, config) is not None,
                "seconds": pace[config] * samples_seen(config),
                "config": config.model_dump(mode="json"),
            }
        )
    left = [c for c, row in zip(trials, rows, strict=True) if not row["finished"]]
    banks = [
        {
            "location": job.location,
            "request": job.request.model_dump(mode="json"),
            "bytes": bank_bytes(job.request),
            "seconds": bank_passes(job.request) * _teacher_seconds(job.request),
        }
        for job in plan_banks(left, store, figures)[1]
    ]
    work = sum(row["seconds"] for row in rows if not row["finished"])
    return {
        "trials": rows,
        "banks": banks,
        "downloads": fetch,
        "bytes": bytes_needed(trials, store, figures),
        "cpu_seconds": {
            "teacher": sum(bank["seconds"] for bank in banks),
            "training": work,
        },
        "cores": os.cpu_count(),
    }


def _odd(plan: dict[str, Any]) -> dict[str, Any]:
    """{field: most frequent value} of the fields in which trials differ, besides those shown."""
    shown = ("student", "arm", "seed", "views", "curve_every", "curve_samples")
    counts: dict[str, Counter[Any]] = {}
    for row in plan["trials"]:
        for name, value in row["config"].items():
            if name not in shown:
                counts.setdefault(name, Counter())[json.dumps(value)] += 1
    return {n: json.loads(c.most_common(1)[0][0]) for n, c in counts.items() if len(c) > 1}


def show(plan: dict[str, Any], console: Console) -> None:
    """The dry run, for people: one line for trials that differ in their seed alone."""
    table = Table(title=f"{len(plan['trials'])} trials", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    usual = _odd(plan)
    for name in ("student", "arm", "but") if usual else ("student", "arm"):
        table.add_column(name, overflow="fold")
    for name in ("seeds", "trunk", "head", "total", "MMAC", "done"):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in plan["trials"]:
        changing = {k: v for k, v in row["config"].items() if k != "seed"}
        groups.setdefault((repr(changing),), []).append(row)
    for rows in groups.values():
        first = rows[0]
        other = (f"{n} {v}" for n, v in first["config"].items() if n in usual and v != usual[n])
        table.add_row(
            first["student"],
            first["arm"],
            *([", ".join(other)] if usual else []),
            str(len(rows)),
            f"{first['trunk']:,}",
            f"{first['head']:,}",
            f"{first['parameters']:,}",
            f"{first['macs'] / 1e6:,.1f}",
            str(sum(row["finished"] for row in rows)),
        )
    console.print(table)
    views = {row["arm"]: set[int]() for row in plan["trials"]}
    for row in plan["trials"]:
        views[row["arm"]].add(row["distinct_views"])
    seen = (f"{arm} {' or '.join(map(str, sorted(each)))}" for arm, each in views.items())
    console.print(f"distinct views of a sample: {', '.join(seen)}")
    for bank in plan["banks"]:
        request = bank["request"]
        arms = ", ".join(["clean", *request["arms"]])
        console.print(
            f"to build: {request['dataset']} x {', '.join(request['teachers'])} ({arms}; "
            f"{request['views']} views), {bank['bytes']:,} bytes"
        )
    for line in plan["downloads"]:
        console.print(f"to download: {line}")
    seconds, cores = plan["cpu_seconds"], max(1, plan["cores"] or 1)
    each = math.ceil(seconds["training"] / cores)
    console.print(
        f"disk: {plan['bytes']:,} bytes. On this machine's {cores} cores, without a GPU: teacher "
        f"about {clock(seconds['teacher'])}, training about {clock(each)}"
    )
    console.print("nothing was run")
