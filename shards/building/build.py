"""Build a bank: plan it, compute its missing shards, write its manifest last.

An executor computes the embeddings (`shards.building.executor`): this process by default, or
workers on a Ray cluster (`shards.building.ray_workers`).
"""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version

import torch

from shards.bank.manifest import MANIFEST, Manifest, Plan
from shards.bank.reader import load_manifest
from shards.bank.writer import BankWriter, read_plan
from shards.building.embed import Embedder
from shards.building.estimate import plan_bytes
from shards.building.executor import Executor, MakeExecutor, Task, tasks_of
from shards.building.request import Request, check_matches
from shards.building.sources import check_sources
from shards.building.teacher_robustness import add_robustness, missing_arms
from shards.support import lock, storage
from shards.support.plugins import keep_copies
from shards.support.progress import Progress
from shards.support.threads import check_device, prefetch


def build(
    request: Request, out: str, device: str = "cpu", make_executor: MakeExecutor = Embedder
) -> Manifest:
    """Build the bank at `out` (a folder or URL), or continue a build that was interrupted.

    A complete bank is left unchanged, except that requested figures of the teachers' robustness
    which its manifest lacks are added. `make_executor` is called only if there is work to do.
    Raises: ValueError where `out` has another bank, or the request cannot be fulfilled; OSError.
    """
    manifest = _complete(request, out)
    if manifest and not missing_arms(request, manifest):
        return manifest
    if make_executor is Embedder:
        check_device(device)
    with lock.exclusive(out, "bank"):
        manifest = _complete(request, out)  # another process may have built it meanwhile
        if manifest and not missing_arms(request, manifest):
            return manifest
        plan = manifest.plan if manifest else _interrupted(out, device)
        teachers = plan.teachers if plan else ()
        executor = make_executor(request, device, {each.spec: each.precision for each in teachers})
        if manifest is None:
            writer = BankWriter(out, executor.plan)
            keep_copies(out, executor.plan.plugins)
            _check_space(executor.plan, writer)
            start = time.monotonic()
            rates = _compute(request, executor, writer)
            created = _created(device, time.monotonic() - start) | rates
            manifest = writer.finish(executor.class_embeddings(), created, request.image_size)
        return add_robustness(out, manifest, request, executor)


def _complete(request: Request, out: str) -> Manifest | None:
    """The manifest of a complete bank at `out`; None if it is not complete.

    Raises: ValueError where it is not the bank of the request, or its source files have changed.
    """
    if not storage.exists(storage.join(out, MANIFEST)):
        return None
    manifest = load_manifest(out)
    check_matches(request, manifest, out)
    check_sources(manifest, out)
    return manifest


def _interrupted(out: str, device: str) -> Plan | None:
    """The plan of an incomplete bank at `out`; None where there is none.

    Raises: ValueError where its shards were computed on another kind of device: embeddings differ
    in their last bits between a CPU and a GPU, and one bank never mixes them.
    """
    plan, kind = read_plan(out), torch.device(device).type
    if plan is not None and plan.device != kind:
        raise ValueError(
            f"{out} has shards that were computed on {plan.device}, this build's device is {kind}; "
            f"continue with --device {plan.device}, or choose another folder"
        )
    return plan


def _check_space(plan: Plan, writer: BankWriter) -> None:
    """Raises: ValueError, before anything is computed, where the disk cannot hold the bank."""
    if not storage.is_local(writer.location):
        return
    needed = plan_bytes(plan) - writer.bytes_published
    free = shutil.disk_usage(storage.local_path(writer.location)).free
    if needed > free:
        raise ValueError(
            f"{writer.location}: {needed:,} bytes needed for the shards, {free:,} bytes free; "
            "choose fewer views or another disk"
        )


def _compute(request: Request, executor: Executor, writer: BankWriter) -> dict[str, str]:
    """Compute and write the missing shards; returns the throughput for the manifest."""
    plan = executor.plan
    missing = [task for task in tasks_of(plan) if not writer.has(task.split, task.index)]
    passes = {split: request.teacher_views(split) * len(plan.teachers) for split in plan.arms}
    total = sum(passes[split] * plan.dataset.counts[split] for split in plan.arms)
    left = sum(passes[task.split] * (task.stop - task.start) for task in missing)
    with Progress(f"teacher {', '.join(request.teachers)}", total) as bar:
        bar.resume_at(total - left)
        start = time.monotonic()
        shards = executor.shards(missing, lambda images: bar.update(bar.done + images))
        _write(shards, writer, bar)
        seconds = time.monotonic() - start
    if not left:
        return {}
    rates = {"images/s": f"{left / seconds:.1f}"}
    if executor.teacher_seconds:
        rates["teacher alone, images/s"] = f"{left / executor.teacher_seconds:.1f}"
    return rates


def _write(shards: Iterator[tuple[Task, bytes]], writer: BankWriter, bar: Progress) -> None:
    """Write each shard in the background while the next one is computed.

    At most one finished shard waits to be written: shards are tens of megabytes, and a slow disk
    has to slow down the build instead of filling the memory.
    """

    def publish(item: tuple[Task, bytes]) -> Task:
        task, data = item
        writer.publish(task.split, task.index, task.stop - task.start, data)
        return task

    with ThreadPoolExecutor(1) as pool:
        for task in prefetch(pool, publish, shards, depth=1):
            bar.note = f"{task.split} shard {task.index}"


def _created(device: str, seconds: float) -> dict[str, str]:
    """Provenance for the manifest: command, device, and versions of libraries."""
    libraries = ("torch", "numpy", "open_clip_torch", "timm", "pillow", "scikit-learn")
    return {
        "command": " ".join(sys.argv),
        "device": device,
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "seconds": f"{seconds:.1f}",
        **{name: installed for name in libraries if (installed := _version(name))},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
