"""Preprocessing against the teacher's own pipeline on PIL images, on one core, in one run.

    python benchmarks/preprocess.py [BATCH]

In batches of what a build on a CPU takes at a time, unless another number is given. Prints images
per second of CPU time of both (waiting for a busy core does not count), their ratio, and how far
apart their pixels are; ends with 1 where the ratio is below 10 or more than 0.1 % of the pixels
are further than one level apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import open_clip
import torch
from PIL import Image
from ratios import Ratio, finish
from sklearn.datasets import load_sample_images

from shards.support.memory import keep_freed_memory
from shards.teachers.preprocess import CPU_BATCH, Preprocess

SIDE, SIZE, TURNS, ROUNDS = 32, 224, 8, 12
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
RATIO, SHARE = 10.0, 1e-3


def pictures(count: int) -> np.ndarray:
    """Pieces of two photographs at CIFAR's size, uint8 (count, 32, 32, 3)."""
    photographs = load_sample_images().images
    boxes = [
        (17 * i % 500, 11 * i % 300, 17 * i % 500 + 100, 11 * i % 300 + 100) for i in range(count)
    ]
    cut = [Image.fromarray(photographs[i % 2]).crop(box) for i, box in enumerate(boxes)]
    return np.stack([np.asarray(piece.resize((SIDE, SIDE))) for piece in cut])


def seconds(*actions: Callable[[], torch.Tensor]) -> list[float]:
    """Of each, the least CPU time of several rounds: in the others, other programs used the caches.

    Each runs a few times in a row, as a build does, and then the next has its turn: one beside
    the other in every round, they would measure how they spoil each other's cache and heap.
    """
    rounds: list[list[float]] = [[] for _ in actions]
    for _ in range(TURNS):
        for action, found in zip(actions, rounds, strict=True):
            action()
            for _ in range(ROUNDS):
                start = time.process_time()
                action()
                found.append(time.process_time() - start)
    return [min(found) for found in rounds]


def main() -> int:
    keep_freed_memory()  # as a build does
    torch.set_num_threads(1)
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else CPU_BATCH
    images_NHWC = pictures(batch)
    images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous()
    transform = open_clip.image_transform(SIZE, is_train=False, mean=MEAN, std=STD)
    preprocess = Preprocess(size=SIZE, mean=MEAN, std=STD)

    def with_pil() -> torch.Tensor:
        return torch.stack([transform(Image.fromarray(image)) for image in images_NHWC])

    theirs, ours = (s / batch for s in seconds(with_pil, lambda: preprocess(images_NCHW)))
    levels = (preprocess(images_NCHW) - with_pil()) * torch.tensor(STD)[:, None, None] * 255
    apart = levels.abs().round()
    far = float((apart > 1).double().mean())
    print(f"{SIDE} to {SIZE} pixels, batches of {batch}, one core")
    print(f"PIL pipeline: {1 / theirs:8,.0f} images/s ({theirs * 1e3:.3f} ms)")
    print(f"batched:      {1 / ours:8,.0f} images/s ({ours * 1e3:.3f} ms)")
    print(
        f"pixels one level apart {float((apart == 1).double().mean()):.3%}, further {far:.4%} "
        f"(at most {SHARE:.1%}), largest {int(apart.max())}"
    )
    paces = f"{1 / ours:,.0f} against {1 / theirs:,.0f} images/s, {SIDE} to {SIZE} pixels"
    what = f"preprocessing in batches of {batch} against open_clip's on PIL images"
    return finish([Ratio(what, theirs / ours, RATIO, measured=paces)], far <= SHARE)


if __name__ == "__main__":
    sys.exit(main())
