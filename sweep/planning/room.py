"""Bytes that a sweep writes, and whether there is room for them."""

from __future__ import annotations

import shutil

from shards.building.estimate import bank_bytes
from shards.support import storage
from sweep.planning.banks import BankJob, plan_banks
from sweep.planning.kinds import alike
from sweep.planning.sizes import student_of
from trainers.config.schema import TrialConfig
from trainers.results.folder import begun, finished

# fp32: the student, its copy among MLflow's artifacts; two checkpoints with Adam's two moments
BYTES_PER_PARAMETER = 4 * (2 + 2 * 3)


def bytes_needed(unfinished: list[TrialConfig], banks: list[BankJob]) -> int:
    """Bytes of the banks still to build, and of all that unfinished trials write, at most.

    A trial's checkpoints are counted, though they are deleted when it ends; MLflow's copy of its
    student is counted as well, though it may be on another disk.
    """
    parameters = sum(
        student_of(first).parameters.total * len(members)
        for first, members in alike(unfinished).items()
    )
    return sum(bank_bytes(job.request) for job in banks) + BYTES_PER_PARAMETER * parameters


def check_room(trials: list[TrialConfig], store: str, teacher_robustness: bool = False) -> None:
    """Raises: OSError with bytes needed and free where a local store is too small.

    `teacher_robustness`: see `plan_banks`.
    """
    if not storage.is_local(store):
        return
    folder = storage.local_path(store).resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = begun(store)
    unfinished = [
        config
        for config in trials
        if config.identity not in found or finished(store, config) is None
    ]
    needed = bytes_needed(unfinished, plan_banks(unfinished, store, teacher_robustness)[1])
    if needed > free:
        raise OSError(f"{store}: {needed:,} bytes needed, {free:,} bytes free")
