"""Layouts of shards, read by us and by webdataset's own reader: the same samples, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from tests.shards.foreign import decoded, encoded, opened, write_tar

Members = list[tuple[str, bytes]]
Layout = dict[str, Members]  # {shard: its members}
IMAGES = ("jpg", "jpeg", "png", "webp")
FIELDS = ("label", "cls", "class")


def picture(row: int, suffix: str = "png") -> bytes:
    return encoded(row, "jpeg" if suffix.lower() in ("jpg", "jpeg") else suffix.lower())


def sample(row: int, key: str, suffix: str = "png", label: str = "cls") -> Members:
    """An image and its label: .cls, or with another `label` that field of a .json."""
    kind, value = "cls", b"%d" % (row % 3)
    if label != "cls":
        kind, value = "json", json.dumps({"caption": "7", label: row % 3}).encode()
    return [(f"{key}.{suffix}", picture(row, suffix)), (f"{key}.{kind}", value)]


def joined(samples: list[Members]) -> Members:
    return [member for members in samples for member in members]


def rows(make: Callable[[int], Members], count: int = 4) -> Layout:
    return {"train-0": joined([make(row) for row in range(count)])}


READ: dict[str, Layout] = {
    "nested names": rows(lambda r: sample(r, f"a/{r % 2}/deep/{r:03d}")),
    "dots in folders": rows(lambda r: sample(r, f"v1.0/part.{r % 2}/{r:03d}")),
    "spaces and other scripts": rows(lambda r: sample(r, f"ein Bild/ä 猫 {r}")),
    "same name in two folders": rows(lambda r: sample(r, f"class{r}/0001")),
    "two shards": {
        "train-0": joined([sample(r, f"{r:03d}") for r in range(3)]),
        "train-1": joined([sample(r, f"{r:03d}") for r in range(3, 8)]),
    },
    "same keys in two shards": {
        "train-0": joined([sample(r, f"{r:03d}") for r in range(3)]),
        "train-1": joined([sample(r + 3, f"{r:03d}") for r in range(3)]),
    },
    "formats": rows(lambda r: sample(r, f"{r:03d}", IMAGES[r])),
    "capital suffixes": rows(lambda r: sample(r, f"{r:03d}", IMAGES[r].upper())),
    "json labels": rows(lambda r: sample(r, f"{r:03d}", label=("label", "class")[r % 2])),
    "labels first": rows(lambda r: sample(r, f"{r:03d}")[::-1]),
    "cls and json": rows(lambda r: [*sample(r, f"{r}"), (f"{r}.json", b'{"label": 9}')]),
    "a mask of several dots": rows(
        lambda r: [*sample(r, f"{r}"), (f"{r}.mask.png", picture(9)), (f"{r}.seg.v2.png", b"?")]
    ),
    "captions beside": rows(lambda r: [*sample(r, f"{r}"), (f"{r}.txt", b"7")]),
    "names that begin with two underscores": rows(lambda r: sample(r, f"__{r}")),
    "metadata": {
        "train-0": [
            ("__meta__", b"?"),
            ("__index__/0.png", picture(9)),
            *sample(0, "0"),
            ("README", b"no suffix, no sample"),
            *sample(1, "1"),
        ]
    },
}


def theirs(folder: Path, shard: str) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset(str(folder / f"{shard}.tar"), shardshuffle=False))


def label_of(raw: dict[str, Any]) -> int:
    if "cls" in raw:
        return int(raw["cls"])
    fields = json.loads(raw["json"])
    return next(fields[name] for name in FIELDS if name in fields)


def write(folder: Path, layout: Layout) -> None:
    for shard, members in {**layout, "test-0": sample(0, "test")}.items():
        write_tar(folder / f"{shard}.tar", members)


@pytest.mark.parametrize("name", READ)
def test_samples_are_those_of_webdatasets_own_reader(name: str, tmp_path: Path) -> None:
    """Keys, their order, labels and pixels, sample by sample."""
    write(tmp_path, READ[name])
    data = opened(tmp_path)
    raw = [(shard, found) for shard in READ[name] for found in theirs(tmp_path, shard)]
    assert len(raw) >= 2
    assert data.keys("train") == tuple(f"train/{shard}/{found['__key__']}" for shard, found in raw)
    assert data.labels("train").tolist() == [label_of(found) for _, found in raw]
    block = data.read("train", 0, len(raw))
    for ours, (_, found) in zip(block.images_NHWC, raw, strict=True):
        (suffix,) = [suffix for suffix in IMAGES if suffix in found]
        assert np.array_equal(ours, decoded(found[suffix]))


def test_members_of_no_sample_are_left_out_and_said(tmp_path: Path) -> None:
    """Of a hidden file webdataset makes a sample of its own, here without a label."""
    members = [("__meta__", b"?"), ("README", b"?"), ("x/.hidden.png", picture(9))]
    write(tmp_path, {"train-0": [*members, *sample(0, "x/0"), *sample(1, "x/1")]})
    data = opened(tmp_path)
    assert [found["__key__"] for found in theirs(tmp_path, "train-0")] == ["x/", "x/0", "x/1"]
    assert data.keys("train") == ("train/train-0/x/0", "train/train-0/x/1")
    line = "members that belong to no sample left out: 3 (first `train-0.tar: __meta__`)"
    assert data.left_out.line().partition(";")[0] == line


def test_a_leading_dot_and_slash_is_no_part_of_a_key(tmp_path: Path) -> None:
    """`tar -C DIR .` writes it; webdataset keeps it, so that one tar made twice has other keys."""
    write(tmp_path, rows(lambda r: sample(r, f"./a/{r}")))
    keys = [found["__key__"] for found in theirs(tmp_path, "train-0")]
    assert keys == [f"./a/{r}" for r in range(4)]
    assert opened(tmp_path).keys("train") == tuple(f"train/train-0/a/{r}" for r in range(4))


REFUSED: dict[str, tuple[Members, int, tuple[str, ...]]] = {
    "a txt label": ([("b.png", picture(1)), ("b.txt", b"1")], 2, ("`b`", "no label", ".cls")),
    "no label": ([("b.png", picture(1))], 2, ("`b`", "no label")),
    "no image": ([("b.cls", b"1")], 2, ("`b`", "no image")),
    "a tiff": ([("b.tif", picture(1, "tiff")), ("b.cls", b"1")], 2, ("`b`", "no image", ".png")),
    "only views": (
        [("b.left.png", picture(1)), ("b.right.png", picture(2)), ("b.cls", b"1")],
        2,
        ("`b`", "no image"),
    ),
    "two images": ([*sample(1, "b"), ("b.jpg", picture(2, "jpg"))], 2, ("`b`", "2 images")),
    "a dot in a key": (  # both read `b`, so the second is taken for more members of the first
        [*sample(1, "b.1"), *sample(2, "b.2")],
        2,
        ("`b`", "no label"),
    ),
    "members apart": (  # which webdataset gives as three samples, two of half the members
        [("b.png", picture(1)), *sample(2, "c"), ("b.cls", b"1")],
        4,
        ("`b`", "no label"),
    ),
    "a key again": ([*sample(1, "b"), *sample(2, "c"), *sample(3, "b")], 4, ("`b`", "comes again")),
    "a json label as text": (
        [("b.png", picture(1)), ("b.json", b'{"label": "1"}')],
        2,
        ("`b.json`",),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_webdataset_reads_and_we_refuse_names_the_sample(name, tmp_path, refused) -> None:
    members, count, parts = REFUSED[name]
    write(tmp_path, {"train-0": [*sample(0, "a"), *members]})
    assert len(theirs(tmp_path, "train-0")) == count
    refused(lambda: opened(tmp_path), "train-0.tar", *parts)


def test_both_refuse_a_member_that_comes_twice(tmp_path: Path, refused) -> None:
    write(tmp_path, {"train-0": [*sample(0, "a"), ("a.PNG", picture(1))]})
    with pytest.raises(ValueError, match="duplicate file name"):
        theirs(tmp_path, "train-0")
    refused(lambda: opened(tmp_path), "train-0.tar", "`a.PNG`", "twice")
