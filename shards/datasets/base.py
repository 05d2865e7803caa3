"""Labelled uint8 images: the interface of a data set, and a data set held in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Block:
    """Consecutive samples: images uint8 (N, H, W, 3), labels int64 (N,), keys (N,)."""

    images_NHWC: np.ndarray
    labels_N: np.ndarray
    keys: tuple[str, ...]


class Dataset(Protocol):
    """The interface of a data set. `identity` is a sha256 of its content.

    `decoder`: version of the picture decoder (`shards.datasets.decoder`), None where the data set
    is made of arrays and no picture is decoded.
    """

    decoder: int | None
    spec: str
    classes: tuple[str, ...]
    image_size: int
    identity: str

    def count(self, split: str) -> int: ...
    def keys(self, split: str) -> tuple[str, ...]: ...
    def labels(self, split: str) -> np.ndarray: ...
    def read(self, split: str, start: int, stop: int) -> Block: ...
    def take(self, split: str, index_B: np.ndarray) -> Block: ...


def have_names(classes: tuple[str, ...]) -> bool:
    """Whether classes have names; not where every name is a number.

    A data set whose labels are only numbers names its classes "0", "1", ... A text prompt of a
    number says nothing of what is in the picture, so no text embeddings are computed of such names,
    and there is no zero-shot figure.
    """
    return not all(name.isdecimal() for name in classes)


def check_train_classes(data: Dataset) -> None:
    """Refuse train images that no linear probe can be fitted on, before any work is done for them.

    Raises: ValueError where they are all of one class, or no class has two of them.
    """
    present_K, counts_K = np.unique(data.labels("train"), return_counts=True)
    if len(present_K) < 2:
        raise ValueError(
            f"dataset {data.spec}: all train images are of one class "
            f"(`{data.classes[int(present_K[0])]}`); the probe `linear` needs two classes or more"
        )
    if counts_K.max() < 2:
        raise ValueError(
            f"dataset {data.spec}: every class has one train image; the probe `linear` needs a "
            "class with two, one of which chooses its penalty"
        )


class ArrayDataset:
    """A data set whose images are held in memory."""

    decoder: int | None = None

    def __init__(self, spec: str, classes: tuple[str, ...], splits: dict[str, Block]) -> None:
        self.spec, self.classes, self._splits = spec, classes, splits
        self.image_size = int(splits["train"].images_NHWC.shape[1])
        digest = hashlib.sha256()
        for split in SPLITS:
            block = splits[split]
            digest.update(repr((split, block.images_NHWC.shape, classes)).encode())
            digest.update(np.ascontiguousarray(block.images_NHWC).data)
            digest.update(block.labels_N.astype("<i8").tobytes())
        self.identity = digest.hexdigest()

    def count(self, split: str) -> int:
        return len(self._splits[split].keys)

    def keys(self, split: str) -> tuple[str, ...]:
        return self._splits[split].keys

    def labels(self, split: str) -> np.ndarray:
        return self._splits[split].labels_N

    def read(self, split: str, start: int, stop: int) -> Block:
        block = self._splits[split]
        at = slice(start, stop)
        return Block(block.images_NHWC[at], block.labels_N[at], block.keys[at])

    def take(self, split: str, index_B: np.ndarray) -> Block:
        block = self._splits[split]
        keys = tuple(block.keys[i] for i in index_B)
        return Block(block.images_NHWC[index_B], block.labels_N[index_B], keys)
