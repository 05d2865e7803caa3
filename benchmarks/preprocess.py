"""Preprocessing against the teacher's own pipeline on PIL images, on one core, in one run.

    python benchmarks/preprocess.py

Prints images/s of both, their ratio, and how far apart their pixels are; ends with 1 where the
ratio is below 10 or more than 0.1 % of the pixels are further than one level apart.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import open_clip
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from shards.preprocess import Preprocess

SIDE, SIZE, BATCH, TURNS, ROUNDS = 32, 224, 32, 4, 12
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
RATIO, SHARE = 10.0, 1e-3


def pictures() -> np.ndarray:
    """Pieces of two photographs at CIFAR's size, uint8 (BATCH, 32, 32, 3)."""
    photographs = load_sample_images().images
    boxes = [(17 * i, 11 * i % 300, 17 * i + 100, 11 * i % 300 + 100) for i in range(BATCH)]
    cut = [Image.fromarray(photographs[i % 2]).crop(box) for i, box in enumerate(boxes)]
    return np.stack([np.asarray(piece.resize((SIDE, SIDE))) for piece in cut])


def seconds(*actions: Callable[[], torch.Tensor]) -> list[float]:
    """Of each, the median of several rounds, per image.

    Each runs a few times in a row, as a build does, and then the next has its turn: one beside
    the other in every round, they would measure how they spoil each other's cache and heap.
    """
    rounds: list[list[float]] = [[] for _ in actions]
    for _ in range(TURNS):
        for action, found in zip(actions, rounds, strict=True):
            action()
            for _ in range(ROUNDS):
                start = time.perf_counter()
                action()
                found.append(time.perf_counter() - start)
    return [float(np.median(found)) / BATCH for found in rounds]


def main() -> int:
    torch.set_num_threads(1)
    images_NHWC = pictures()
    images_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous()
    transform = open_clip.image_transform(SIZE, is_train=False, mean=MEAN, std=STD)
    preprocess = Preprocess(size=SIZE, mean=MEAN, std=STD)

    def with_pil() -> torch.Tensor:
        return torch.stack([transform(Image.fromarray(image)) for image in images_NHWC])

    theirs, ours = seconds(with_pil, lambda: preprocess(images_NCHW))
    levels = (preprocess(images_NCHW) - with_pil()) * torch.tensor(STD)[:, None, None] * 255
    apart = levels.abs().round()
    far = float((apart > 1).double().mean())
    print(f"{SIDE} to {SIZE} pixels, batches of {BATCH}, one core")
    print(f"PIL pipeline: {1 / theirs:8,.0f} images/s ({theirs * 1e3:.3f} ms)")
    print(f"batched:      {1 / ours:8,.0f} images/s ({ours * 1e3:.3f} ms)")
    print(f"ratio {theirs / ours:.1f}, to reach {RATIO:g}")
    print(
        f"pixels one level apart {float((apart == 1).double().mean()):.3%}, further {far:.4%} "
        f"(at most {SHARE:.1%}), largest {int(apart.max())}"
    )
    return int(theirs / ours < RATIO or far > SHARE)


if __name__ == "__main__":
    sys.exit(main())
