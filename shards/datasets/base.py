"""Labelled uint8 images: the interface of a data set, and a data set held in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

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


def check_samples(data: Dataset) -> None:
    """Refuse labels and keys that a bank could not be read with, before any work is done for them.

    Raises: ValueError naming split and row where a split has no images, a label is not one of the
        classes, or a key is no text or that of two samples.
    """
    for split in SPLITS:
        where, keys = f"dataset {data.spec}: {split}", data.keys(split)
        if not len(keys):
            raise ValueError(f"{where} has no images; expected at least one")
        _check_labels(where, data.labels(split), 0, len(keys), len(data.classes))
        rows: dict[object, int] = {}
        for row, key in enumerate(keys):
            if not isinstance(key, str):
                raise ValueError(f"{where} row {row}: key {key!r} is no text; expected a string")
            if rows.setdefault(key, row) != row:
                raise ValueError(
                    f"{where} row {row}: key `{key}` is that of row {rows[key]} too; expected "
                    "another key for each sample"
                )


def check_block(data: Dataset, split: str, first: int, block: Block) -> None:
    """Refuse a block, whose first sample is `first`, that shards would store as something else.

    Raises: ValueError naming split and row unless images are uint8 (N, S, S, 3), labels integers
        (N,) from 0 to the number of classes - 1, and there are N keys.
    """
    where, count, side = f"dataset {data.spec}: {split}", len(block.keys), data.image_size
    found, expected = _form(block.images_NHWC), f"uint8 ({count}, {side}, {side}, 3)"
    if found != expected:
        raise ValueError(
            f"{where} images from row {first} on are {found}; expected {expected}: square RGB "
            f"images with levels of 0 to 255, one for each of {count} keys"
        )
    _check_labels(where, block.labels_N, first, count, len(data.classes))


def _check_labels(where: str, labels: Any, first: int, count: int, classes: int) -> None:
    found = _form(labels)
    is_whole = isinstance(labels, np.ndarray) and np.issubdtype(labels.dtype, np.integer)
    if not is_whole or labels.shape != (count,):
        raise ValueError(
            f"{where} labels from row {first} on are {found}; expected int64 ({count},), one for "
            f"each of {count} keys"
        )
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(bad):
        raise ValueError(
            f"{where} row {first + bad[0]}: label {labels[bad[0]]} is outside 0 to {classes - 1}"
        )


def _form(array: object) -> str:
    """Type and shape as text: `uint8 (40, 32, 32, 3)`."""
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {array.shape}"
    return f"of type {type(array).__name__}"


class ArrayDataset:
    """A data set whose images are held in memory. Raises: those of `check_block`."""

    decoder: int | None = None

    def __init__(self, spec: str, classes: tuple[str, ...], splits: dict[str, Block]) -> None:
        self.spec, self.classes, self._splits = spec, classes, splits
        if set(splits) != set(SPLITS):
            raise ValueError(
                f"dataset {spec}: has splits {', '.join(splits) or 'none'}; expected "
                f"{', '.join(SPLITS)}"
            )
        self.image_size = (*np.shape(splits["train"].images_NHWC), 0, 0)[1]
        digest = hashlib.sha256()
        for split in SPLITS:
            check_block(self, split, 0, splits[split])
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
