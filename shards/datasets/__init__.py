"""DATASETS: labelled uint8 images behind one small interface.

A data set is opened by a spec, `NAME[:ARGUMENT]`, and read by ranges, so that a build that was
interrupted goes on at any shard without touching what came before it:

    dataset = open_dataset("digits")
    block = dataset.read("test", 0, 100)      # images uint8 (100, H, W, 3), labels, keys

Keys are unique within a split and never change: the augmentation parameters of a sample are
drawn by a counter-based generator from its key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from shards.datasets.base import SPLITS, ArrayDataset, Block, Dataset, check_samples
from shards.datasets.folder import FolderDataset
from shards.datasets.huggingface import HubDataset
from shards.datasets.webdataset import WebDatasets
from shards.support.registry import Table, check_spelling, split_spec

# Sides in pixels of the images of data sets whose images are always the same.
OWN_SIZES = {"digits": 32, "cifar10": 32, "cifar100": 32}


def _numbered(split: str, count: int) -> tuple[str, ...]:
    return tuple(f"{split}/{i:06d}" for i in range(count))


def _digits(argument: str, image_size: int | None) -> Dataset:
    """scikit-learn's 1,797 real handwritten digits (UCI, 8x8, 17 grey levels).

    Enlarged to 32x32 RGB with Pillow's bicubic filter. Split: within each class, in the order
    of scikit-learn's file, every fifth sample (the 3rd, 8th, ...) is test: 1,438 train, 359 test.
    """
    from PIL import Image

    _no_argument("digits", argument)
    side = image_size or OWN_SIZES["digits"]
    # What load_digits() reads; importing it takes longer than a small build.
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ValueError("the data set `digits` needs scikit-learn: pip install scikit-learn")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    raw_N65 = np.loadtxt(file, delimiter=",")  # 64 pixels and the label
    grey_N88 = np.round(raw_N65[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels_N = raw_N65[:, -1].astype(np.int64)
    big = [Image.fromarray(g).resize((side, side), Image.Resampling.BICUBIC) for g in grey_N88]
    images_NHWC = np.repeat(np.stack([np.asarray(g) for g in big])[..., None], 3, axis=3)
    is_test_N = np.zeros(len(labels_N), dtype=bool)
    for label in range(10):
        is_test_N[np.flatnonzero(labels_N == label)[2::5]] = True
    keys = tuple(f"digit/{i:04d}" for i in range(len(labels_N)))
    splits = {}
    for split, mask_N in (("train", ~is_test_N), ("test", is_test_N)):
        where = np.flatnonzero(mask_N)
        splits[split] = Block(images_NHWC[where], labels_N[where], tuple(keys[i] for i in where))
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return ArrayDataset("digits", words, splits)


def data_root() -> Path:
    """Where downloaded data sets are kept: $DISTIL_DATA, else ./data."""
    return Path(os.environ.get("DISTIL_DATA", "data"))


def _cifar(name: str) -> Callable[[str, int | None], Dataset]:
    def make(argument: str, image_size: int | None) -> Dataset:
        from shards.datasets.cifar import load_cifar

        _no_argument(name, argument)
        _native_only(name, OWN_SIZES[name], image_size)
        classes, arrays = load_cifar(name, data_root())
        splits = {
            split: Block(images, labels, _numbered(split, len(labels)))
            for split, (images, labels) in arrays.items()
        }
        return ArrayDataset(name, classes, splits)

    return make


class Subset:
    """The first `limits[split]` samples of each split in a fixed, class-balanced order.

    Samples of a class are ordered by sha256(key) and classes take turns, so a subset of n is
    contained in every larger one and holds each class n / C times, give or take one.
    """

    def __init__(self, base: Dataset, limits: dict[str, int]) -> None:
        self.base, self.spec, self.classes = base, base.spec, base.classes
        self.decoder = base.decoder
        self.image_size = base.image_size
        self._index = {split: self._choose(split, limits.get(split)) for split in SPLITS}
        chosen = {split: len(index) for split, index in self._index.items()}
        text = f"{base.identity} {sorted(limits.items())} {sorted(chosen.items())}"
        self.identity = hashlib.sha256(text.encode()).hexdigest()

    def _choose(self, split: str, limit: int | None) -> np.ndarray:
        count = self.base.count(split)
        if limit is None:
            return np.arange(count)
        if not 0 < limit <= count:
            raise ValueError(
                f"{split}_samples: {limit} requested of dataset {self.spec}, which has {count} "
                f"{split} samples; choose 1 to {count}"
            )
        labels_N, keys = self.base.labels(split), self.base.keys(split)
        digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        order = sorted(range(count), key=digests.__getitem__)
        turn = np.zeros(count, dtype=np.int64)
        seen: dict[int, int] = {}
        for i in order:
            turn[i] = seen.get(int(labels_N[i]), 0)
            seen[int(labels_N[i])] = int(turn[i]) + 1
        return np.array(sorted(range(count), key=lambda i: (turn[i], digests[i]))[:limit])

    def count(self, split: str) -> int:
        return len(self._index[split])

    def keys(self, split: str) -> tuple[str, ...]:
        keys = self.base.keys(split)
        return tuple(keys[i] for i in self._index[split])

    def labels(self, split: str) -> np.ndarray:
        return self.base.labels(split)[self._index[split]]

    def read(self, split: str, start: int, stop: int) -> Block:
        return self.take(split, np.arange(start, min(stop, self.count(split))))

    def take(self, split: str, index_B: np.ndarray) -> Block:
        return self.base.take(split, self._index[split][index_B])


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise ValueError(f"dataset `{name}:{argument}`: `{name}` takes no argument")


def _native_only(name: str, native: int, requested: int | None) -> None:
    if requested not in (None, native):
        raise ValueError(
            f"image_size: {requested} requested of dataset `{name}`, whose images are {native}"
        )


DATASETS: Table[Callable[[str, int | None], Dataset]] = Table(
    "dataset",
    {
        "digits": _digits,
        "cifar10": _cifar("cifar10"),
        "cifar100": _cifar("cifar100"),
        "folder": FolderDataset,
        "wds": WebDatasets,
        "hf": HubDataset,
    },
)


def open_dataset(
    spec: str,
    image_size: int | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
) -> Dataset:
    """Open `spec`; `*_samples` take a fixed class-balanced subset. Raises: ValueError."""
    name, argument = split_spec(spec)
    base = DATASETS[name](argument, image_size)
    check_spelling("dataset", spec, base.spec)
    check_samples(base)
    limits = {"train": train_samples, "test": test_samples}
    given = {split: limit for split, limit in limits.items() if limit is not None}
    return Subset(base, given) if given else base


def needed_size(spec: str, image_size: int | None, stored: int, requested: int | None) -> int | str:
    """The side in pixels that a bank of `spec` must have; equal to `stored` where it serves.

    image_size: the side that is wanted, None for the data set's own. stored: the bank's side.
    requested: the side that was requested of the bank's build, None for the data set's own. Where
    only the data set's files say what its own side is and another was requested, the result is
    that in words. Banks built before requests were recorded say None: they are believed.
    """
    name = split_spec(spec)[0]
    if image_size is not None or name in OWN_SIZES:
        return image_size or OWN_SIZES[name]
    return stored if requested is None else "the data set's own"


def decoder_of(spec: str) -> int | None:
    """Version of the picture decoder that this code reads a data set with; None without one."""
    return getattr(DATASETS[split_spec(spec)[0]], "decoder", None)
