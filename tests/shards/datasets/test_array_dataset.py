"""Data sets of arrays, as plugins make them, are checked before anything is computed for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.building.build import build
from shards.building.request import Request
from shards.datasets import DATASETS, open_dataset
from shards.datasets.base import ArrayDataset, Block

LEVELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
BLOCK = Block(LEVELS, np.arange(12) % 3, tuple(f"k{i}" for i in range(12)))
CLASSES = ("a", "b", "c")


def mine(train: Block = BLOCK, test: Block = BLOCK) -> ArrayDataset:
    return ArrayDataset("mine", CLASSES, {"train": train, "test": test})


def images(array: np.ndarray) -> Block:
    return replace(BLOCK, images_NHWC=array)


def labels(*values: object) -> Block:
    return replace(BLOCK, labels_N=np.array([*values, *BLOCK.labels_N[len(values) :]]))


def test_arrays_that_shards_can_store_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(BLOCK, labels_N=BLOCK.labels_N.astype(np.uint8))
    monkeypatch.setitem(DATASETS, "mine", lambda argument, image_size: mine(small))
    data = open_dataset("mine")
    assert (data.count("train"), data.image_size) == (12, 8)
    assert data.identity == mine().identity
    assert data.labels("train").tolist() == BLOCK.labels_N.tolist()


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (images(LEVELS.astype(np.float32) / 255), ("float32 (12, 8, 8, 3); expected uint8",)),
        (images(LEVELS.astype(np.int32) * 257), ("int32 (12, 8, 8, 3); expected uint8",)),
        (images(LEVELS[..., :1]), ("uint8 (12, 8, 8, 1)", "expected uint8 (12, 8, 8, 3)")),
        (images(LEVELS[..., 0]), ("uint8 (12, 8, 8)", "expected uint8 (12, 8, 8, 3)")),
        (images(LEVELS[:, :, :4]), ("uint8 (12, 8, 4, 3)", "expected uint8 (12, 8, 8, 3)")),
        (images(LEVELS.tolist()), ("of type list",)),
        (replace(BLOCK, keys=BLOCK.keys[1:]), ("(12, 8, 8, 3)", "each of 11 keys")),
        (replace(BLOCK, labels_N=np.arange(11)), ("int64 (11,)", "expected int64 (12,)")),
        (labels(0, 1, 3), ("row 2: label 3 is outside 0 to 2",)),
        (labels(0, -1), ("row 1: label -1 is outside 0 to 2",)),
        (labels(0.0), ("float64 (12,)", "expected int64 (12,)")),
    ],
)
def test_arrays_that_shards_cannot_store_are_refused(
    wrong: Block, parts: tuple[str, ...], refused
) -> None:
    refused(lambda: mine(test=wrong), "dataset mine: test ", *parts)
    refused(lambda: mine(train=wrong), "dataset mine: train ", *parts)


def test_a_split_of_other_images_or_none_is_refused(refused) -> None:
    refused(lambda: mine(test=images(LEVELS[:, :4, :4])), "test", "(12, 4, 4, 3)", "(12, 8, 8, 3)")
    refused(lambda: ArrayDataset("mine", CLASSES, {"train": BLOCK}), "has splits train;", "test")


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ((*BLOCK.keys[:3], "k1", *BLOCK.keys[4:]), ("row 3: key `k1` is that of row 1 too",)),
        ((*BLOCK.keys[:3], 3, *BLOCK.keys[4:]), ("row 3: key 3 is no text",)),
        ((), ("has no images",)),
    ],
)
def test_keys_that_a_bank_could_not_be_read_with_are_refused(
    keys: tuple, parts: tuple[str, ...], refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(keys)
    data = mine(test=Block(LEVELS[:n], BLOCK.labels_N[:n], keys))
    monkeypatch.setitem(DATASETS, "mine", lambda argument, image_size: data)
    refused(lambda: open_dataset("mine"), "dataset mine: test ", *parts)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda block: replace(block, images_NHWC=block.images_NHWC / 255), "float64 (5, 8, 8, 3)"),
        (lambda block: replace(block, labels_N=block.labels_N + 1), "label 3 is outside 0 to 2"),
    ],
)
def test_what_another_kind_of_data_set_reads_is_checked_before_it_is_embedded(
    change: Callable[[Block], Block],
    part: str,
    tmp_path: Path,
    refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Other(ArrayDataset):
        def read(self, split: str, start: int, stop: int) -> Block:
            block = super().read(split, start, stop)
            return change(block) if (split, start) == ("train", 5) else block

    data = Other("mine", CLASSES, {"train": BLOCK, "test": BLOCK})
    monkeypatch.setitem(DATASETS, "mine", lambda argument, image_size: data)
    request = Request(dataset="mine", teachers=("embedded",), precision="fp32", shard_samples=5)
    refused(lambda: build(request, str(tmp_path)), "dataset mine: train ", part)
    assert not (tmp_path / "train-000001.tar").exists()
