"""The cost of a bank: bytes and images exactly, seconds from a calibration of two seconds."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from shards.arms import make_arm
from shards.bank.manifest import ArmRecord, Plan
from shards.building.request import Request
from shards.datasets import open_dataset
from shards.datasets.base import check_train_classes
from shards.support import storage
from shards.support.progress import clock
from shards.support.threads import check_device, single_core_map
from shards.teachers import Precision, Teacher, embedding_dim, input_size, open_teacher, untrained
from shards.teachers.precision import LEAST_SPEEDUP, matmul_speedup
from shards.teachers.preprocess import CPU_BATCH

CALIBRATION_SECONDS = 2.0
TAR_OVERHEAD = 20_000  # bytes of headers, padding and end marker in a tar file
# (train images, test images, pixels a side, classes) of data sets that need not be opened for it.
KNOWN_COUNTS = {
    "digits": (1438, 359, 32, 10),
    "cifar10": (50_000, 10_000, 32, 10),
    "cifar100": (50_000, 10_000, 32, 100),
}


@dataclass(frozen=True)
class Spread:
    """A Ray cluster to build on; `address` None is one started on this machine."""

    address: str | None
    workers: int | None


@dataclass(frozen=True)
class Size:
    """Counts of a data set: images, pixels a side, classes."""

    train: int
    test: int
    side: int
    classes: int


class DatasetFields(Protocol):
    """The fields of a request or trial config that name a data set or a subset of it."""

    @property
    def dataset(self) -> str: ...
    @property
    def image_size(self) -> int | None: ...
    @property
    def train_samples(self) -> int | None: ...
    @property
    def test_samples(self) -> int | None: ...


def size_of(fields: DatasetFields) -> Size:
    """The size of a data set or subset. Built-in data sets are known without a download.

    Raises: ValueError for a data set that cannot be opened, a subset larger than it, and train
        images that no linear probe can be fitted on.
    """
    if fields.dataset in KNOWN_COUNTS:
        train, test, side, classes = KNOWN_COUNTS[fields.dataset]
    else:
        data = open_dataset(fields.dataset, fields.image_size)
        check_train_classes(data)
        train, test, side = data.count("train"), data.count("test"), data.image_size
        classes = len(data.classes)
    for name, count, limit in (
        ("train_samples", fields.train_samples, train),
        ("test_samples", fields.test_samples, test),
    ):
        if count is not None and count > limit:
            raise ValueError(f"{name}: {count} is more than the {limit} that {fields.dataset} has")
    if fields.train_samples is not None and fields.train_samples <= classes:
        raise ValueError(
            f"train_samples: {fields.train_samples} of dataset {fields.dataset} are at most one of "
            f"each of its {classes} classes; the probe `linear` needs a class with two"
        )
    return Size(
        fields.train_samples or train,
        fields.test_samples or test,
        fields.image_size or side,
        classes,
    )


def bank_bytes(request: Request) -> int:
    """Bytes of a bank: each image, and of each view parameters, fp16 embeddings and fp32 norms."""
    size = size_of(request)
    dims = [embedding_dim(spec) for spec in request.teachers]
    records = {split: request.arm_records(split) for split in ("train", "test")}
    return _bytes(
        {"train": size.train, "test": size.test}, size.side, dims, records, request.shard_samples
    )


def plan_bytes(plan: Plan) -> int:
    """`bank_bytes` of a plan."""
    dims = [teacher.dim for teacher in plan.teachers]
    counts, side = plan.dataset.counts, plan.dataset.image_size
    return _bytes(counts, side, dims, plan.arms, plan.shard_samples)


def _bytes(
    counts: dict[str, int],
    side: int,
    dims: list[int],
    records: dict[str, tuple[ArmRecord, ...]],
    shard_samples: int,
) -> int:
    total = 0
    for split, count in counts.items():
        width = max(len(record.columns) for record in records[split])
        views = records[split][-1].stop
        each = sum(2 * dim + 4 for dim in dims) + 8 * width
        total += count * (side**2 * 3 + 8 + views * each)
        total += -(-count // shard_samples) * TAR_OVERHEAD
    return total


def bank_passes(request: Request) -> int:
    """Images that each teacher has to embed: all views of both splits, and the robustness draws."""
    size = size_of(request)
    counts = {"train": size.train, "test": size.test}
    views = [make_arm(spec).views(request.test_views) for spec in request.teacher_robustness]
    return sum(counts[split] * request.teacher_views(split) for split in counts) + (
        size.test * sum(views)
    )


def _untrained(spec: str, device: str, precision: Precision) -> Teacher:
    """The teacher's architecture with random weights: its speed does not depend on them."""
    logging.disable(logging.WARNING)  # open_clip and timm warn of random weights
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return open_teacher(untrained(spec), device, precision)
    finally:
        logging.disable(logging.NOTSET)


def teacher_seconds(
    spec: str,
    side: int,
    device: str = "cpu",
    precision: Precision = "fp32",
    seconds: float = CALIBRATION_SECONDS,
) -> float:
    """Seconds per image of `side` pixels for preprocessing and teacher, on this machine."""
    teacher = _untrained(spec, device, precision)
    batch = CPU_BATCH if torch.device(device).type == "cpu" else 256
    images_BCHW = torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device)

    def one(_: int) -> int:
        return len(teacher.embed(teacher.preprocess(images_BCHW)).cpu())

    one(0)
    with single_core_map(device) as each:
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds or not done:
            done += sum(each(one, _round(device)))
        return (time.perf_counter() - start) / done


def _round(device: str) -> Iterator[int]:
    """One item for every worker thread."""
    return itertools.islice(itertools.count(), torch.get_num_threads() if device == "cpu" else 1)


def print_cost(
    request: Request, out: str, device: str, price: float | None, spread: Spread | None = None
) -> None:
    """Print what a build would cost (`--dry-run`); nothing is written."""
    check_device(device)
    size, passes = size_of(request), bank_passes(request)
    needed = bank_bytes(request)
    print(f"{request.dataset}: {size.train:,} train and {size.test:,} test images, {size.side} px")
    for split in ("train", "test"):
        arms = [f"{r.arm} x{r.stop - r.start}" for r in request.arm_records(split)]
        print(f"views of a {split} image: {', '.join(arms)}")
    if request.teacher_robustness:
        print(f"teachers under {len(request.teacher_robustness)} arms, stored as figures")
    print(f"bytes: {needed:,}{_free(out, needed)}")
    total = sum(
        _print_throughput(spec, request, size.side, device, passes) for spec in request.teachers
    )
    _print_total(total, device, price, spread)
    print("nothing was written")


def _print_throughput(spec: str, request: Request, side: int, device: str, passes: int) -> float:
    """Print a teacher's throughput; returns seconds for all passes.

    What `--precision auto` would choose depends on the real weights, which are not loaded here.
    """
    on_cpu, auto = torch.device(device).type == "cpu", request.precision == "auto"
    precision = request.precision
    if precision == "auto":
        precision = "fp32" if on_cpu else "bf16"
    each = teacher_seconds(spec, side, device, precision)
    print(
        f"{spec}: {passes:,} images of {input_size(spec)} px at {1 / each:,.1f} images/s "
        f"({precision} on {device}), about {clock(each * passes)}"
    )
    if auto and on_cpu and matmul_speedup() >= LEAST_SPEEDUP:
        half = teacher_seconds(spec, side, device, "bf16")
        print(
            f"{spec}: {1 / half:,.1f} images/s in bf16, if the build chooses it, "
            f"about {clock(half * passes)}"
        )
    return each * passes


def _print_total(total: float, device: str, price: float | None, spread: Spread | None) -> None:
    """Print time and money. `total`: seconds of teacher work on this machine.

    A Ray worker has one GPU, or one core of a CPU; the cluster's are assumed to be as fast as this
    machine's.
    """
    on_cpu = torch.device(device).type == "cpu"
    local = torch.get_num_threads() if on_cpu else 1
    workers, where = local, f"this machine's {device}"
    if spread and (spread.address or spread.workers):
        workers = spread.workers or 1
        if spread.address is None:  # a Ray of this machine has no more than the machine
            workers = min(workers, local if on_cpu else torch.cuda.device_count())
        unit = "one core" if on_cpu else "one GPU"
        where = f"{workers} Ray workers, each {unit} like this machine's"
        where += "" if spread.workers else "; --workers N sets their number"
    wall = total * local / workers
    print(f"seconds: {wall:,.0f}, about {clock(wall)}, on {where}")
    if price is None:
        return
    if on_cpu:
        print("money: unknown, because a CPU was timed; --gpu-price needs a GPU and --device cuda")
    else:
        print(f"money: {total / 3600 * price:,.2f} at {price:g} per GPU hour")


def _free(out: str, needed: int) -> str:
    """Free bytes on the disk of `out`, as a remark; nothing for an object store."""
    if not storage.is_local(out):
        return ""
    folder = Path(storage.local_path(out)).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f" ({free:,} free{'' if free > needed else ': NOT ENOUGH'})"
