"""Bytes that a sweep writes, and whether there is room for them."""

from __future__ import annotations

import shutil

from shards.bank.writer import bytes_listed
from shards.building.estimate import bank_bytes
from shards.support import storage
from sweep.planning.banks import BankJob, plan_banks
from sweep.planning.kinds import alike
from sweep.planning.resources import Resources, most_at_a_time
from sweep.planning.sizes import student_of
from trainers.config.schema import TrialConfig
from trainers.results.folder import begun, finished

# Bytes of a parameter, in fp32: of the student and its copy among MLflow's artifacts; and of two
# checkpoints with Adam's two moments.
STUDENTS, CHECKPOINTS = 4 * 2, 4 * 2 * 3


def bytes_needed(
    unfinished: list[TrialConfig], banks: list[BankJob], at_a_time: int | None = None
) -> int:
    """Bytes of the banks still to build, and of all that unfinished trials write, at most.

    A trial's checkpoints are deleted when it has finished, so those of the `at_a_time` trials with
    the largest students are counted; None: of all trials. MLflow's copy of a student is counted,
    though it may be on another disk.
    """
    parameters: list[int] = []
    for first, members in alike(unfinished).items():
        parameters += [student_of(first).parameters.total] * len(members)
    largest = sorted(parameters, reverse=True)[:at_a_time]
    trials = STUDENTS * sum(parameters) + CHECKPOINTS * sum(largest)
    return sum(bank_bytes(job.request) for job in banks) + trials


def bytes_left(job: BankJob) -> int:
    """Bytes of a bank that are still to be written. Raises: as `bytes_listed`."""
    return max(0, bank_bytes(job.request) - bytes_listed(job.location))


def check_room(
    trials: list[TrialConfig],
    store: str,
    resources: Resources,
    teacher_robustness: bool = False,
    early_stopping: bool = False,
) -> None:
    """Check that a local store has room for what is still to be written.

    teacher_robustness: see `plan_banks`. early_stopping: whether trials may be stopped early, which
    keep their checkpoints.

    Raises: OSError with bytes needed and free where it has not; ValueError for an unfinished bank
        that is damaged.
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
    _, banks = plan_banks(unfinished, store, teacher_robustness)
    at_a_time = None if early_stopping else most_at_a_time(unfinished, resources)
    needed = bytes_needed(unfinished, [], at_a_time)
    needed += sum(bytes_left(job) for job in banks)
    if needed > free:
        raise OSError(f"{store}: {needed:,} bytes needed, {free:,} bytes free")
