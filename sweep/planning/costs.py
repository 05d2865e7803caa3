"""What trials cost: bytes on disk exactly, seconds from a short calibration on this machine."""

from __future__ import annotations

import shutil
import time
from typing import Any

import torch

from shards.building.estimate import bank_bytes, size_of, teacher_seconds
from shards.building.request import Request
from shards.support import storage
from shards.support.progress import clock
from shards.teachers import embedding_dim
from sweep.planning.banks import plan_banks
from sweep.planning.sizes import input_side, samples_seen, student_of
from trainers.config.schema import TrialConfig
from trainers.results.folder import finished
from trainers.students import build_student

FIXED_SECONDS, START_SECONDS = 4.0, 10.0  # of a trial beside its training; of Ray and workers
BYTES_A_PARAMETER = 4 * (1 + 2 * 3)  # the student, and two checkpoints with Adam's moments


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


def seconds_per_sample(trials: list[TrialConfig]) -> dict[TrialConfig, float]:
    """Seconds a training sample of each trial takes on this machine's CPU; 0 of one untrained."""
    known: dict[tuple[Any, ...], float] = {}
    found = {}
    for config in trials:
        if not config.trains:
            found[config] = 0.0
            continue
        side, dim = input_side(config), embedding_dim(config.teacher)
        key = (config.student, dim, side, config.threads)
        if key not in known:
            known[key] = student_seconds(config.student, dim, side, config.threads)
        found[config] = known[key]
    return found


def guess(left: list[TrialConfig], cpus: int) -> str:
    """A first ETA, before any epoch has ended: `, about 5:20`."""
    work = sum(
        (FIXED_SECONDS + pace * samples_seen(config)) * min(cpus, config.ranks * config.threads)
        for config, pace in seconds_per_sample(left).items()
    )
    return f", about {clock(START_SECONDS + work / min(cpus, len(left)))}"


def teacher_pass_seconds(request: Request) -> float:
    """Of one view of one image, by all teachers."""
    side = size_of(request).side
    return sum(teacher_seconds(spec, side, seconds=0.5) for spec in request.teachers)


def student_seconds(spec: str, dim: int, side: int, threads: int) -> float:
    """Seconds a training sample takes on this machine's CPU: forward, backward and Adam."""
    batch = 32 if side <= 64 else 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = build_student(spec, dim, side, 0).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters())
        images_BCHW = torch.zeros(batch, 3, side, side)

        def step() -> None:
            optimizer.zero_grad()
            model(images_BCHW).square().mean().backward()
            optimizer.step()

        return _seconds(step) / batch
    finally:
        torch.set_num_threads(before)


def _seconds(action: Any, least: float = 0.2) -> float:
    """Seconds of one call, after a warm-up, averaged over at least `least` seconds."""
    action()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        action()
        calls += 1
    return (time.perf_counter() - start) / calls
