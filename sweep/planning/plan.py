"""A sweep before it runs: every name resolved, sizes exact, disk and time estimated."""

from __future__ import annotations

import os
from typing import Any

from shards.building.estimate import bank_bytes, bank_passes
from shards.datasets import data_root
from shards.datasets.cifar import is_present
from shards.support.registry import split_spec
from shards.teachers import check_teacher
from sweep.planning.banks import plan_banks
from sweep.planning.costs import bytes_needed, seconds_per_sample, teacher_pass_seconds
from sweep.planning.sizes import samples_seen, student_of, train_samples
from trainers.config.schema import TrialConfig
from trainers.inputs import distinct_views
from trainers.results.folder import finished


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


def describe(trials: list[TrialConfig], store: str, figures: bool = False) -> dict[str, Any]:
    """The dry run, for machines. Times are of this machine's CPU, from a short calibration."""
    fetch = downloads(trials)
    rows, pace = [], seconds_per_sample(trials)
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
            "seconds": bank_passes(job.request) * teacher_pass_seconds(job.request),
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
