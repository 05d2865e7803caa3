from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from shards.datasets import open_dataset
from shards.datasets import webdataset as webdatasets
from tests.shards.foreign import PIXELS_NHWC, decoded, encoded, opened, samples, write_tar


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_order_keys_labels_and_pixels(shards: Path) -> None:
    data = opened(shards)
    assert (data.count("train"), data.count("test"), data.image_size) == (7, 3, 32)
    assert data.classes == ("0", "1", "2")
    assert data.keys("train")[3:5] == ("train/train-0/0003", "train/train-1/0004")
    assert data.labels("train").tolist() == [0, 1, 2, 0, 1, 2, 0]
    block = data.read("train", 2, 6)
    assert np.array_equal(block.images_NHWC, PIXELS_NHWC[2:6])
    assert block.labels_N.tolist() == [2, 0, 1, 2]
    assert block.keys == data.keys("train")[2:6]
    assert np.array_equal(data.read("train", 6, 99).images_NHWC, PIXELS_NHWC[6:7])


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("label", ["cls", "json"])
def test_reads_what_webdatasets_own_writer_writes(kind: str, label: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        with webdataset.TarWriter(str(tmp_path / f"{split}.tar")) as writer:
            for row in range(4):
                value = row % 2 if label == "cls" else {"label": row % 2, "text": "x"}
                image = encoded(row, kind) if kind == "webp" else PIXELS_NHWC[row]
                writer.write({"__key__": f"a/s{row}", kind: image, label: value, "txt": "y"})
    data = opened(tmp_path, pattern="{split}.tar")
    stored = {
        sample["__key__"]: decoded(sample[kind])
        for sample in webdataset.WebDataset(str(tmp_path / "train.tar"), shardshuffle=False)
    }
    assert data.keys("train") == tuple(f"train/train/{key}" for key in stored)
    assert np.array_equal(data.read("train", 0, 4).images_NHWC, np.stack(list(stored.values())))
    assert data.labels("test").tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_every_format_of_tar(form: int, tmp_path: Path) -> None:
    long = "deep/" * 12 + "x" * 90
    for split in ("train", "test"):
        folder = tarfile.TarInfo("./deep")
        folder.type = tarfile.DIRTYPE
        members = [(folder, b""), ("README", b"no sample"), ("._junk.png", b"no sample")]
        members += [(f"./{long}.PNG", encoded(1)), (f"./{long}.cls", b"0\n")]
        write_tar(tmp_path / f"{split}.tar", members, format=form)
    data = opened(tmp_path, pattern="{split}.tar")
    assert data.keys("test") == (f"test/test/{long}",)
    assert np.array_equal(data.read("test", 0, 1).images_NHWC[0], PIXELS_NHWC[1])


@pytest.mark.parametrize(
    "fields", [{"label": 1}, {"cls": 1}, {"class": 1}, {"label": "a", "cls": 1}]
)
def test_labels_are_read_from_json(fields: dict, tmp_path: Path) -> None:
    for split in ("train", "test"):
        members = [("a.json", json.dumps(fields).encode()), ("a.jpeg", encoded(0, "jpeg"))]
        write_tar(tmp_path / f"{split}.tar", members)
    assert opened(tmp_path, pattern="{split}.tar").labels("train").tolist() == [1]


@pytest.mark.parametrize("word", ["val", "validation"])
def test_other_names_of_the_test_split(word: str, shards: Path) -> None:
    before = opened(shards)
    (shards / "test-0.tar").rename(shards / f"{word}-0.tar")
    data = opened(shards)
    assert data.keys("test") == tuple(
        key.replace("test/test-0", f"test/{word}-0") for key in before.keys("test")
    )


def test_split_may_be_a_folder_and_ranges_expand(shards: Path, refused) -> None:
    for name in ("train-0", "train-1", "test-0"):
        split, number = name.split("-")
        (shards / split).mkdir(exist_ok=True)
        (shards / f"{name}.tar").rename(shards / split / f"{int(number):06d}.tar")
    data = opened(shards, pattern="{split}/{000000..000001}.tar")
    assert (data.count("train"), data.count("test")) == (7, 3)
    assert data.keys("train")[4] == "train/000001/0004"
    by_list = opened(shards, pattern="{split}/{000000,000001}.tar")
    assert by_list.identity == data.identity
    short = f"wds:{shards}/{{split}}/{{000000..000002}}.tar"
    refused(lambda: open_dataset(short), "train/000002.tar is missing", "narrow the range")
    (shards / "train/000000.tar").rename(shards / "train/000002.tar")
    refused(lambda: open_dataset(short), "train/000000.tar is missing")
    (shards / "test/000000.tar").rename(shards / "test/000001.tar")
    (shards / "train/000002.tar").rename(shards / "train/000000.tar")
    refused(lambda: opened(shards, pattern="{split}/{000000..000001}.tar"), "test/000000.tar is")


def test_pattern_errors(shards: Path, refused) -> None:
    refused(lambda: open_dataset("wds:"), "no {split}", "wds:DIR/{split}-{000000..000009}.tar")
    refused(lambda: open_dataset(f"wds:{shards}/*.tar"), "no {split}", "write it where")
    refused(lambda: opened(shards, pattern="{split}-*.tgz"), "no train shard", "train-*.tgz")
    (shards / "test-0.tar").unlink()
    refused(lambda: opened(shards), "no test shard", "val-*.tar", "validation-*.tar")
    refused(lambda: opened(shards, pattern="{split}-{0..9.tar"), "write ranges as {000..009}")
    refused(lambda: opened(shards, pattern="{split}-{0..999999999999}.tar"), "narrow the range")


@pytest.mark.parametrize("scheme", ["pipe:cat ", "ftp://host/", "memory://", "hf://"])
def test_other_schemes_are_refused(scheme: str, refused) -> None:
    refused(lambda: open_dataset(f"wds:{scheme}{{split}}.tar"), "refused", "s3://")


def test_two_shards_of_one_name_are_refused(shards: Path, refused) -> None:
    (shards / "b").mkdir()
    (shards / "train-0.tar").rename(shards / "b/train-1.tar")
    refused(lambda: opened(shards, pattern="**/{split}-*.tar"), "have one name", "b/train-1.tar")


@pytest.mark.parametrize("name", ["classnames.txt", "classes.txt"])
@pytest.mark.parametrize("above", [False, True])
def test_class_names_come_from_their_file(name: str, above: bool, shards: Path, refused) -> None:
    before = opened(shards).identity
    file = (shards.parent if above else shards) / name
    file.write_text("cat\ndog\ngreat auk\n")
    data = opened(shards)
    assert data.classes == ("cat", "dog", "great auk")
    assert data.identity != before
    file.write_text("cat\ndog\n")
    parts = ("train-0.tar", "sample `0002`", "label 2", "0 to 1", str(file))
    refused(lambda: opened(shards), *parts)
    file.write_text("cat\n\ndog\n")
    refused(lambda: opened(shards), "line 2 is empty")
    file.write_bytes(b"\xff")
    refused(lambda: opened(shards), name, "not UTF-8")
    for odd in ("cat\u2028x\ndog\nauk\n", "cat\x0cx\ndog\nauk\n", "cat\0\ndog\nauk\n"):
        file.write_text(odd)
        refused(lambda: opened(shards), name, "line 1 has control characters")
    for end in (b"\n", b"\r\n", b"\r"):  # with the mark that editors on Windows write
        file.write_bytes(b"\xef\xbb\xbfcat" + end + b"dog" + end + b"great auk" + end)
        assert opened(shards).classes == data.classes
    file.write_text("")
    refused(lambda: opened(shards), name, "is empty")


def test_image_size_follows_the_rule_of_folders(shards: Path, refused) -> None:
    write_tar(shards / "test-0.tar", [("a.png", encoded(0, size=(64, 48))), ("a.cls", b"0")])
    refused(lambda: opened(shards), "differ in size", "sample `a`", "64x48", "--image-size")
    data = opened(shards, 16)
    assert data.image_size == 16
    assert data.read("test", 0, 1).images_NHWC.shape == (1, 16, 16, 3)
    members = [*samples(0, 2, lambda _: 0), ("b.png", encoded(3, size=(40, 40))), ("b.cls", b"0")]
    write_tar(shards / "test-0.tar", members)
    data = opened(shards)
    refused(lambda: data.read("test", 0, 3), "sample `b`", "40x40", "--image-size")


def test_identity_is_content_and_nothing_else(shards: Path, tmp_path: Path) -> None:
    first = opened(shards).identity
    assert opened(shards, 16).identity != first
    moved = shards.rename(tmp_path / "elsewhere")
    assert opened(moved).identity == first
    late = [(tarfile.TarInfo(str(name)), data) for name, data in samples(7, 3)]
    for info, _ in late:
        info.mtime = 1_700_000_000
    write_tar(moved / "test-0.tar", late)
    assert opened(moved).identity == first
    spoilt = bytearray((moved / "test-0.tar").read_bytes())
    spoilt[700] ^= 1  # inside the first picture
    (moved / "test-0.tar").write_bytes(spoilt)
    assert opened(moved).identity != first
    write_tar(moved / "test-0.tar", samples(7, 3, lambda row: (row + 1) % 3))
    assert opened(moved).identity != first


def test_a_shard_is_passed_over_once(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    real = webdatasets.index_shard
    monkeypatch.setattr(webdatasets, "index_shard", lambda p: passes.append(p) or real(p))
    first = opened(shards)
    assert len(passes) == 3
    again = opened(shards)
    assert len(passes) == 3
    assert again.identity == first.identity
    assert np.array_equal(again.read("test", 0, 3).images_NHWC, PIXELS_NHWC[7:10])
    write_tar(shards / "test-0.tar", samples(8, 3))
    assert np.array_equal(opened(shards).read("test", 0, 3).images_NHWC, PIXELS_NHWC[8:11])
    assert len(passes) == 4


def test_a_spoilt_cache_is_made_again(shards: Path, cache: Path) -> None:
    first = opened(shards).identity
    notes = list(cache.rglob("*.json"))
    assert len(notes) == 3
    for note, text in zip(notes, ("", "[]", '{"state": 1}'), strict=True):
        note.write_text(text)
    assert opened(shards).identity == first


def test_labels_that_contradict_each_other_are_said(shards: Path, capsys) -> None:
    members: list[tuple[str | tarfile.TarInfo, bytes]]
    members = [("a.png", encoded(0)), ("a.cls", b"1"), ("a.json", b'{"label": 0}')]
    members += [("b.png", encoded(0)), ("b.json", b'{"label": 2, "cls": 1, "class": 2}')]
    members += [("c.png", encoded(0)), ("c.cls", b"0"), ("c.json", b'{"label": 0, "class": "x"}')]
    write_tar(shards / "train-1.tar", members)
    assert opened(shards).labels("train")[-3:].tolist() == [1, 2, 0]
    said = "samples with several labels, of which .cls, then label, cls, class is used: 2 (first "
    assert said + "`train-1.tar: a`)" in capsys.readouterr().err


def test_two_classes_of_one_name_are_said(shards: Path, capsys) -> None:
    (shards / "classes.txt").write_text("crane\ndog\ncrane\n")
    opened(shards)
    assert "names that several classes have" in (said := capsys.readouterr().err)
    assert "1 (first `crane`)" in said
