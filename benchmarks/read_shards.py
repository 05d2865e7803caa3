"""Reading columnar shards into resident tensors against WebDataset, one sample per member.

    python benchmarks/read_shards.py [SAMPLES]

The same content twice: a bank, and its export with one sample per member, from a warm page cache,
each in one process. Ours twice: the first time on a machine, when every checksum and unit vector is
checked, and after that. WebDataset checks nothing; its members are decoded with NumPy. Ends with 1
where a ratio of samples/s is below FIRST or LATER.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import webdataset
from ratios import Ratio, finish

from shards.bank.manifest import DatasetRecord, Plan, TeacherRecord
from shards.bank.members import pack
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.bank.writer import BankWriter
from shards.building.request import Request
from shards.export import export
from shards.support.memory import keep_freed_memory
from shards.teachers.preprocess import Preprocess

ROUNDS = 4
FIRST, LATER = 50.0, 100.0  # times as fast, at least
DIM, SIDE, VIEWS = 512, 32, 8
ARM = "crop_flip:4"


def make_bank(place: Path, samples: int) -> None:
    """A bank of random content: CIFAR's images, 512 dimensions, a clean view and 8 of an arm."""
    rng = np.random.default_rng(0)
    request = Request(dataset="digits", teachers=("embedded",), arms=(ARM,), views=VIEWS)
    plan = Plan(
        dataset=DatasetRecord(
            spec="random", identity="0" * 64, image_size=SIDE, classes=tuple("0123456789"),
            train_samples=None, test_samples=None, counts={"train": samples, "test": 10},
        ),
        teachers=(
            TeacherRecord(
                spec="random", weights_sha256="0" * 64, dim=DIM, parameters=1, precision="fp32",
                preprocess=Preprocess(size=SIDE, mean=(0, 0, 0), std=(1, 1, 1)),
            ),
        ),
        arms={split: request.arm_records(split) for split in ("train", "test")},
        templates=(), seed=0, shard_samples=1000, batch=1, device="cpu",
    )  # fmt: skip
    writer = BankWriter(str(place), plan)
    for split, count in plan.dataset.counts.items():
        views = plan.views(split)
        for index, start in enumerate(range(0, count, 1000)):
            n = min(1000, count - start)
            unit_NVD = rng.standard_normal((n, views, DIM), dtype=np.float32)
            unit_NVD /= np.linalg.norm(unit_NVD, axis=-1, keepdims=True)
            arrays = {
                "image": rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8),
                "label": rng.integers(0, 10, n),
                "params": rng.integers(0, 9, (n, views, 3 if split == "train" else 0)),
                "embedding.0": unit_NVD.astype(np.float16),
                "norm.0": np.ones((n, views), dtype=np.float32),
            }
            keys = tuple(f"{split}/{start + i:06d}" for i in range(n))
            writer.publish(split, index, n, pack(index, arrays, keys))
    writer.finish((None,), {})


def read_columns(place: Path) -> int:
    """Into tensors, nothing trusted."""
    manifest = load_manifest(str(place))
    split = load_splits(str(place), manifest, "train", ("clean", ARM))[ARM]
    columns = (split.images_NHWC, split.labels_N, split.params_NVP, split.embedding_NVD)
    tensors = [torch.from_numpy(np.asarray(column)) for column in columns]
    return len(tensors[0])


def read_members(place: Path) -> int:
    """Into tensors, one sample after another."""
    urls = sorted(map(str, place.glob("train-*.tar")))
    names = ("image.npy", "cls", "params.npy", "embedding.0.npy")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        for name in names:
            body = sample[name]
            value = np.array(int(body)) if name == "cls" else np.load(io.BytesIO(body))
            columns[name].append(value)
    tensors = [torch.from_numpy(np.stack(column)) for column in columns.values()]
    return len(tensors[0])


def main() -> int:
    keep_freed_memory()  # as a trial does
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_bank(root / "bank", samples)
        export(str(root / "bank"), str(root / "members"), splits=("train",), image="npy")
        os.sync()  # or the disk is still busy with what was just written
        time.sleep(2.5)  # files that were changed just now are checked however often they are read
        fastest = dict.fromkeys(("columns", "columns, checked before", "members"), float("inf"))
        for round_ in range(ROUNDS):
            os.environ["DISTIL_CACHE"] = str(root / f"cache{round_}")
            for name in fastest:
                read, place = (
                    (read_members, root / "members")
                    if name == "members"
                    else (read_columns, root / "bank")
                )
                start = time.perf_counter()
                assert read(place) == samples
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    pace = {name: samples / seconds for name, seconds in fastest.items()}
    for name, rate in pace.items():
        print(f"{name}: {rate:,.0f} samples/s, ratio {rate / pace['members']:.0f}")
    members = pace["members"]
    return finish(
        [
            Ratio(
                f"{what}, against WebDataset's one sample a member",
                pace[name] / members,
                wanted,
                measured=f"{pace[name]:,.0f} against {members:,.0f} samples/s",
            )
            for name, what, wanted in (
                ("columns", "reading shards the first time, every checksum compared", FIRST),
                ("columns, checked before", "reading shards that were checked before", LATER),
            )
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
