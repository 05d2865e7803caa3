"""Bytes of a bank against the raw arrays in it: images and fp16 embeddings of every view.

    python benchmarks/shard_bytes.py [DATASET]

A real build with K = 8 views of crop_flip beside the clean one, of images of CIFAR-10's shape (32
pixels, 10 classes; by default scikit-learn's digits) by a teacher of 512 dimensions. Everything in
the folder counts, the manifest too; of raw labels, a byte each. Ends with 1 above 1.1.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from ratios import Ratio, finish

from shards.building.build import build
from shards.building.request import Request

RATIO, VIEWS, SAMPLES = 1.1, 8, {"train": 600, "test": 150}


def main() -> int:
    request = Request(
        dataset=sys.argv[1] if len(sys.argv) > 1 else "digits",
        teachers=("embedded",),
        arms=("crop_flip",),
        views=VIEWS,
        train_samples=SAMPLES["train"],
        test_samples=SAMPLES["test"],
        precision="fp32",
    )
    with tempfile.TemporaryDirectory() as folder:
        plan = build(request, folder).plan
        sizes = {file.name: file.stat().st_size for file in Path(folder).iterdir()}
    raw = 0
    for split, count in plan.dataset.counts.items():
        embeddings = plan.views(split) * plan.teachers[0].dim * 2
        raw += count * (plan.dataset.image_size**2 * 3 + 1 + embeddings)
    total = sum(sizes.values())
    for name, size in sorted(sizes.items()):
        print(f"{name}: {size:,} bytes")
    ratio = total / raw
    sizes_text = f"{total:,} against {raw:,} bytes"
    what = f"bytes of a bank of {VIEWS} + 1 views against its raw arrays"
    return finish([Ratio(what, ratio, RATIO, at_least=False, measured=sizes_text)])


if __name__ == "__main__":
    sys.exit(main())
