"""The cost of a bank: bytes and images by counting, seconds from a two-second calibration."""

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
TAR_OVERHEAD = 20_000  # bytes of headers, padding and end marker per tar file
# (train images, test images, side in pixels, classes): an estimate must not download a data set.
KNOWN_COUNTS = {
    "digits": (1438, 359, 32, 10),
    "cifar10": (50_000, 10_000, 32, 10),
    "cifar100": (50_000, 10_000, 32, 100),
}


@dataclass(frozen=True)
class Spread:
    """The Ray cluster of a build; `address` None: one that is started on this machine."""

    address: str | None
    workers: int | None


@dataclass(frozen=True)
class Size:
    """The size of a data set: images per split, side in pixels, classes."""

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
    """The size of a data set or subset, without a download for the built-in ones.

    Raises: ValueError for a data set that cannot be opened, a subset larger than it, or too few
        train images to fit a linear probe on.
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
            raise ValueError(f"{name}: {count} exceeds the {limit} images of {fields.dataset}")
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
    """The size of a bank's shards in bytes, estimated before anything is downloaded or opened.

    Each image, and for each view its parameters, fp16 embeddings and fp32 norms.
    """
    size = size_of(request)
    dims = [embedding_dim(spec) for spec in request.teachers]
    records = {split: request.arm_records(split) for split in ("train", "test")}
    return _bytes(
        {"train": size.train, "test": size.test}, size.side, dims, records, request.shard_samples
    )


def plan_bytes(plan: Plan) -> int:
    """The size of a planned bank's shards in bytes; see `bank_bytes`."""
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
    """Images that each teacher embeds: all views of both splits, and draws for robustness."""
    size = size_of(request)
    counts = {"train": size.train, "test": size.test}
    views = [make_arm(spec).views(request.test_views) for spec in request.teacher_robustness]
    return sum(counts[split] * request.teacher_views(split) for split in counts) + (
        size.test * sum(views)
    )


def untrained_teacher(spec: str, device: str, precision: Precision) -> Teacher:
    """The teacher's architecture with random weights: its speed does not depend on them."""
    # The warnings of random weights, in the log and on stderr, would confuse the user here.
    logging.disable(logging.WARNING)
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
    """Seconds per image for preprocessing and forward pass, on all cores or one GPU.

    side: of the stored images in pixels. seconds: duration of the measurement.
    """
    teacher = untrained_teacher(spec, device, precision)
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
    """One item per worker thread."""
    return itertools.islice(itertools.count(), torch.get_num_threads() if device == "cpu" else 1)


def print_cost(
    request: Request, out: str, device: str, price: float | None, spread: Spread | None = None
) -> None:
    """Print the size, time and cost of a build (`--dry-run`); writes nothing.

    price: of one GPU hour, in any currency; None to leave the cost out.
    Raises: ValueError for a device, data set or teacher that does not exist.
    """
    check_device(device)
    size, passes = size_of(request), bank_passes(request)
    needed = bank_bytes(request)
    print(f"{request.dataset}: {size.train:,} train and {size.test:,} test images, {size.side} px")
    for split in ("train", "test"):
        arms = [f"{r.arm} x{r.stop - r.start}" for r in request.arm_records(split)]
        print(f"views of a {split} image: {', '.join(arms)}")
    if request.teacher_robustness:
        print(f"robustness of the teachers: measured under {len(request.teacher_robustness)} arms")
    print(f"bytes: {needed:,}{_free(out, needed)}")
    total = sum(
        _print_throughput(spec, request, size.side, device, passes) for spec in request.teachers
    )
    _print_total(total, device, price, spread)
    print("nothing was written")


def _print_throughput(spec: str, request: Request, side: int, device: str, passes: int) -> float:
    """Print a teacher's throughput; returns the seconds for all images.

    The precision that `--precision auto` will choose depends on the real weights, which are not
    loaded for an estimate, so the usual choice is assumed.
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
            f"{spec}: {1 / half:,.1f} images/s if the build chooses bf16, "
            f"about {clock(half * passes)}"
        )
    return each * passes


def _print_total(total: float, device: str, price: float | None, spread: Spread | None) -> None:
    """Print time and cost. `total`: seconds of teacher work on this machine.

    A Ray worker has one GPU or one CPU core, which is assumed to be as fast as this machine's.
    """
    on_cpu = torch.device(device).type == "cpu"
    local = torch.get_num_threads() if on_cpu else 1
    workers, where = local, f"this machine's {device}"
    if spread and (spread.address or spread.workers):
        workers = spread.workers or 1
        if spread.address is None:  # a cluster on this machine has no more cores or GPUs than it
            workers = min(workers, local if on_cpu else torch.cuda.device_count())
        unit = "one core" if on_cpu else "one GPU"
        where = f"{workers} Ray workers, each {unit} like this machine's"
        where += "" if spread.workers else "; --workers N sets their number"
    wall = total * local / workers
    print(f"seconds: {wall:,.0f}, about {clock(wall)}, on {where}")
    if price is None:
        return
    if on_cpu:
        print("cost: unknown, because a CPU was timed; --gpu-price needs a GPU and --device cuda")
    else:
        print(f"cost: {total / 3600 * price:,.2f} at {price:g} per GPU hour")


def _free(out: str, needed: int) -> str:
    """A remark on the free space on the disk of `out`; empty for an object store."""
    if not storage.is_local(out):
        return ""
    folder = Path(storage.local_path(out)).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f" ({free:,} free{'' if free > needed else ': NOT ENOUGH'})"
