"""A sweep before it runs: every name resolved, sizes exact, disk and time estimated."""

from __future__ import annotations

import functools
import math
import os
import shutil
from typing import Any

from rich.console import Console
from rich.table import Table

from shards import storage
from shards.cifar import is_present
from shards.datasets import data_root
from shards.progress import clock
from shards.table import split_spec
from shards.teachers import check_teacher, embedding_dim
from sweep.banks import plan_banks
from sweep.estimate import bank_bytes, bank_passes, size_of, student_seconds, teacher_seconds
from trainers.config import TrialConfig
from trainers.students import StudentSummary
from trainers.students import describe as describe_student
from trainers.trial import finished

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


def trial_weight(config: TrialConfig) -> float:
    """Relative cost of a trial: multiply-accumulates, and a constant for what is fixed."""
    return 2e10 + student_of(config).macs * 3.0 * config.epochs * size_of(config).train


def downloads(trials: list[TrialConfig]) -> list[str]:
    """What would have to be fetched. Errors: ValueError for an unknown data set or teacher."""
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


def bytes_needed(trials: list[TrialConfig], store: str) -> int:
    """Banks still to build, and every unfinished trial's student and checkpoints."""
    left = [config for config in trials if finished(store, config) is None]
    banks = sum(bank_bytes(job.request) for job in plan_banks(left, store)[1])
    return banks + sum(BYTES_A_PARAMETER * student_of(c).parameters.total for c in left)


def check_room(trials: list[TrialConfig], store: str) -> None:
    """Errors: OSError with bytes needed and free when a local store is too small."""
    if not storage.is_local(store):
        return
    free = shutil.disk_usage(storage.local_path(store)).free
    needed = bytes_needed(trials, store)
    if needed > free:
        raise OSError(f"{store}: {needed:,} bytes needed, {free:,} bytes free")


def describe(trials: list[TrialConfig], store: str) -> dict[str, Any]:
    """The dry run, for machines. Times are of this machine's CPU, from a short calibration."""
    fetch = downloads(trials)
    rows = []
    pace: dict[tuple[Any, ...], float] = {}
    for config in trials:
        student, size, side = student_of(config), size_of(config), _side(config)
        key = (config.student, config.teacher, side, config.threads)
        if key not in pace:
            dim = embedding_dim(config.teacher)
            pace[key] = student_seconds(config.student, dim, side, config.threads)
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
                "finished": finished(store, config) is not None,
                "seconds": pace[key] * config.steps(size.train) * config.batch_size,
                "config": config.model_dump(mode="json"),
            }
        )
    left = [c for c, row in zip(trials, rows, strict=True) if not row["finished"]]
    banks = [
        {
            "location": job.location,
            "request": job.request.model_dump(mode="json"),
            "bytes": bank_bytes(job.request),
            "seconds": bank_passes(job.request) * teacher_seconds(job.request.teacher),
        }
        for job in plan_banks(left, store)[1]
    ]
    work = sum(row["seconds"] for row in rows if not row["finished"])
    return {
        "trials": rows,
        "banks": banks,
        "downloads": fetch,
        "bytes": bytes_needed(trials, store),
        "cpu_seconds": {
            "teacher": sum(bank["seconds"] for bank in banks),
            "training": work,
        },
        "cores": os.cpu_count(),
    }


def show(plan: dict[str, Any], console: Console) -> None:
    """The dry run, for people: one line a student and arm."""
    table = Table(title=f"{len(plan['trials'])} trials")
    for name in ("student", "arm", "seeds", "trunk", "head", "parameters", "MMAC", "finished"):
        table.add_column(name, justify="left" if name in ("student", "arm") else "right")
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in plan["trials"]:
        changing = {k: v for k, v in row["config"].items() if k != "seed"}
        groups.setdefault((repr(changing),), []).append(row)
    for rows in groups.values():
        first = rows[0]
        table.add_row(
            first["student"],
            first["arm"],
            str(len(rows)),
            f"{first['trunk']:,}",
            f"{first['head']:,}",
            f"{first['parameters']:,}",
            f"{first['macs'] / 1e6:,.1f}",
            str(sum(row["finished"] for row in rows)),
        )
    console.print(table)
    for bank in plan["banks"]:
        request = bank["request"]
        arms = ", ".join(["clean", *request["arms"]])
        console.print(
            f"bank to build: {request['dataset']} x {request['teacher']} ({arms}; "
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
