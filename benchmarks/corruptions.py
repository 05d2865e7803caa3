"""Corruptions in batches against the same arithmetic image by image, and what a test pass costs.

    python benchmarks/corruptions.py [--side 32] [--batch 100] [--device cpu]

For each corruption at severity 5: milliseconds for 100 images in a batch, how many times longer
they take one by one, both in turns in one process; last, the sum over the 75 of CIFAR-10-C.
"""

from __future__ import annotations

import argparse
import time

import torch

from shards.arms import make_arm
from shards.arms.corruptions import CORRUPTIONS, SEVERITIES


def seconds(spec: str, images: torch.Tensor, batch: int) -> float:
    arm = make_arm(spec)
    keys = tuple(f"test/{i:06d}" for i in range(len(images)))
    params = torch.from_numpy(arm.draw(0, keys, 1)[:, 0]).to(images.device)
    start = time.perf_counter()
    for part, drawn in zip(images.split(batch), params.split(batch), strict=True):
        arm.pixels(part, drawn)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shape = (100, 3, options.side, options.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images = images.to(options.device)
    total = 0.0
    for name in CORRUPTIONS:
        together, alone = [], []
        for _ in range(4):
            together.append(seconds(f"{name}:5", images, options.batch))
            alone.append(seconds(f"{name}:5", images, 1))
        total += min(together)
        ratio = min(alone) / min(together)
        print(f"{name:18s} {1000 * min(together):8.1f} ms   one by one {ratio:5.1f} times as long")
    passes = total * len(SEVERITIES) * 100
    print(f"all 75 on 10,000 images of {options.side} px: about {passes:,.0f} s")


if __name__ == "__main__":
    main()
