"""A build against its teacher alone on the same batches, in one run.

    python benchmarks/build_rate.py [cpu|cuda] [fp32|bf16|fp16]

Builds a bank of random images of CIFAR's size with open_clip's ViT-B-32 (random weights: its pace
is that of trained ones) under a clean and a crop_flip view, then embeds as many preprocessed
batches with the teacher alone. Ends with 1 where the build reaches less than 95 % of that rate. The
build's own estimate compares it with the time that it spent inside the teacher: what other programs
take from the CPU weighs on both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ratios import Ratio, finish

from shards.building.build import build
from shards.building.request import Request
from shards.support.memory import keep_freed_memory
from shards.support.threads import single_core_map
from shards.teachers import Precision, open_teacher
from shards.teachers.preprocess import CPU_BATCH

TEACHER, SIDE, SHARE = "open_clip:ViT-B-32:none", 32, 0.95


def make_images(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for split, n in (("train", count), ("test", 8)):
        for label in ("a", "b"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(n // 2):
                pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:05d}.png")


def alone(device: str, precision: Precision, batches: int, batch: int) -> float:
    """Images/s of the teacher on `batches` preprocessed batches, as many at once as the build."""
    teacher = open_teacher(TEACHER, device, precision)
    images = torch.randint(0, 256, (batch, 3, SIDE, SIDE), dtype=torch.uint8, device=device)
    inputs = teacher.preprocess(images)

    def one(_: int) -> None:
        teacher.embed(inputs)

    one(0)
    with single_core_map(device) as each:
        start = time.perf_counter()
        list(each(one, range(batches)))
        if device != "cpu":
            torch.cuda.synchronize()
        return batches * batch / (time.perf_counter() - start)


def main() -> int:
    keep_freed_memory()  # as `shards.build` does
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    precision: Any = sys.argv[2] if len(sys.argv) > 2 else "fp32"
    on_cpu = device == "cpu"
    count = 256 if on_cpu else 32_768
    batch = CPU_BATCH if on_cpu else 512
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_images(root / "images", count)
        request = Request(
            dataset=f"folder:{root / 'images'}",
            teachers=(TEACHER,),
            arms=("crop_flip",),
            batch=batch,
            shard_samples=128 if on_cpu else 2048,
            precision=precision,
        )
        before = alone(device, precision, 2 * count // batch, batch)
        created = build(request, str(root / "bank"), device).created
        after = alone(device, precision, 2 * count // batch, batch)
    rate, teacher = float(created["images/s"]), (before + after) / 2
    inside = float(created["teacher alone, images/s"])
    print(
        f"build in {precision}: {rate:,.1f} images/s; its own estimate of the teacher alone: ",
        end="",
    )
    print(f"{inside:,.1f}, share {rate / inside:.2f}")
    print(f"teacher alone: {before:,.1f} before, {after:,.1f} after: {teacher:,.1f} images/s")
    paces = f"{rate:,.1f} against {teacher:,.1f} images/s in {precision}"
    what = f"building a bank against its teacher alone ({TEACHER}, {device})"
    return finish([Ratio(what, rate / teacher, SHARE, measured=paces)])


if __name__ == "__main__":
    sys.exit(main())
