"""What a sweep would cost: parameters and bytes exactly, seconds from a short calibration here."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from shards.arms import make_arm
from shards.build import Request
from shards.teachers import embedding_dim, open_teacher
from trainers.students import build_student

KNOWN_COUNTS = {
    "digits": (1438, 359, 32),
    "cifar10": (50_000, 10_000, 32),
    "cifar100": (50_000, 10_000, 32),
}


@dataclass(frozen=True)
class Size:
    """A data set's counts and image side; known without a download for the built-in ones."""

    train: int
    test: int
    side: int


def size_of(fields: Any) -> Size:
    """`fields` has dataset, image_size, train_samples, test_samples. Opens folders only."""
    if fields.dataset in KNOWN_COUNTS:
        train, test, side = KNOWN_COUNTS[fields.dataset]
    else:
        from shards.datasets import open_dataset

        data = open_dataset(fields.dataset, fields.image_size)
        train, test, side = data.count("train"), data.count("test"), data.image_size
    for name, have in (("train_samples", train), ("test_samples", test)):
        asked = getattr(fields, name)
        if asked is not None and asked > have:
            raise ValueError(f"{name}: {asked} asked of {fields.dataset}, which has {have}")
    return Size(
        fields.train_samples or train, fields.test_samples or test, fields.image_size or side
    )


def bank_bytes(request: Request) -> int:
    """Bytes of the columns of a bank: image, draws, fp16 embedding and fp32 norm of each view."""
    size, dim = size_of(request), embedding_dim(request.teacher)
    total = 0
    for split, count in (("train", size.train), ("test", size.test)):
        records = request.arm_records(split)
        width = max(len(make_arm(record.arm).columns) for record in records)
        views = records[-1].stop
        total += count * (size.side**2 * 3 + 8 + views * (2 * dim + 4 + 8 * width))
    return total


def bank_passes(request: Request) -> int:
    """Images through the teacher."""
    size = size_of(request)
    train = size.train * request.arm_records("train")[-1].stop
    return train + size.test * request.arm_records("test")[-1].stop


def _seconds(action: Any, least: float = 0.2) -> float:
    """Seconds of one call, after a warm-up, averaged over at least `least` seconds."""
    action()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        action()
        calls += 1
    return (time.perf_counter() - start) / calls


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


def teacher_seconds(spec: str) -> float:
    """Seconds an image takes through the teacher's architecture on this machine's CPU."""
    name, _, argument = spec.partition(":")
    if name == "open_clip":
        spec = f"open_clip:{argument.split(':')[0]}:none"
    logging.disable(logging.WARNING)  # that its weights are random is no news here
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            teacher = open_teacher(spec)
    finally:
        logging.disable(logging.NOTSET)
    side = teacher.preprocess.size
    images_BCHW = torch.zeros(2, 3, side, side)
    return _seconds(lambda: teacher.embed(images_BCHW)) / 2
