from __future__ import annotations

import hashlib
import os
import pickle
import struct
import urllib.error
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from shards.datasets import SPLITS, cifar, open_dataset
from shards.datasets.decoder import MAX_PIXELS
from shards.support import cache


def test_digits_are_1438_and_359_real_images_split_within_each_class() -> None:
    digits = open_dataset("digits")
    assert [digits.count(split) for split in SPLITS] == [1438, 359]
    per_class = [np.bincount(digits.labels(split), minlength=10) for split in SPLITS]
    share = per_class[1] / (per_class[0] + per_class[1])
    assert abs(share - 0.2).max() < 0.01
    keys = [key for split in SPLITS for key in digits.keys(split)]
    assert len(set(keys)) == 1797
    block = digits.read("test", 5, 9)
    assert (block.images_NHWC.shape, block.images_NHWC.dtype) == ((4, 32, 32, 3), np.uint8)
    assert block.keys == digits.keys("test")[5:9]
    assert np.array_equal(block.labels_N, digits.labels("test")[5:9])


def test_digits_identity_is_fixed() -> None:
    assert open_dataset("digits").identity.startswith("c4e93dccbb1b826e8a1b8c431fa42362")


def test_subset_is_balanced_nested_and_deterministic() -> None:
    small = open_dataset("digits", train_samples=57)
    large = open_dataset("digits", train_samples=300)
    again = open_dataset("digits", train_samples=57)
    counts = np.bincount(small.labels("train"), minlength=10)
    assert counts.sum() == 57
    assert counts.max() - counts.min() <= 1
    assert small.keys("train") == large.keys("train")[:57]
    assert small.keys("train") == again.keys("train")
    assert small.identity == again.identity != large.identity
    assert small.count("test") == 359


def test_subset_reads_the_images_of_its_keys() -> None:
    subset, whole = open_dataset("digits", test_samples=20), open_dataset("digits")
    block = subset.read("test", 3, 8)
    where = [whole.keys("test").index(key) for key in block.keys]
    assert np.array_equal(block.images_NHWC, whole.read("test", 0, 359).images_NHWC[where])
    assert np.array_equal(block.labels_N, whole.labels("test")[where])


@pytest.mark.parametrize("count", [0, -1, 1439])
def test_subset_out_of_range_is_refused(count: int, refused) -> None:
    refused(lambda: open_dataset("digits", train_samples=count), "train_samples", "1 to 1438")


def test_unknown_dataset_and_arguments_are_refused(refused) -> None:
    refused(lambda: open_dataset("digit"), "unknown dataset `digit`", "did you mean `digits`")
    refused(lambda: open_dataset("digits:8"), "takes no argument")
    refused(lambda: open_dataset("cifar10", image_size=64), "image_size: 64", "32")
    refused(lambda: open_dataset("folder"), "write folder:DIR")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def opened(folder: Path, image_size: int | None = None):
    return open_dataset(f"folder:{folder}", image_size)


def test_folder_order_labels_and_pixels(folder: Path) -> None:
    data = opened(folder)
    assert data.classes == ("cat", "dog")
    assert data.image_size == 32
    assert data.keys("test")[2:4] == ("test/cat/2.png", "test/dog/0.png")
    assert data.labels("test").tolist() == [0, 0, 0, 1, 1, 1]
    stored = np.asarray(Image.open(folder / "test/dog/1.png"))
    assert np.array_equal(data.read("test", 4, 5).images_NHWC[0], stored)
    assert data.identity == opened(folder).identity


def test_folder_identity_is_content_and_read_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    real = cache._hash
    monkeypatch.setattr(cache, "_hash", lambda file: hashed.append(file) or real(file))
    first = opened(folder).identity
    assert len(hashed) == 12
    assert opened(folder).identity == first
    assert len(hashed) == 12
    file = folder / "train/dog/1.png"
    before, stat = file.read_bytes(), file.stat()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = opened(folder).identity
    assert changed != first
    assert len(hashed) == 15
    file.write_bytes(before)
    assert opened(folder).identity == first
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert opened(moved).identity == first
    file = moved / "train/dog/1.png"
    file.rename(file.with_name("7.png"))
    assert opened(moved).identity != first


def test_folder_works_without_a_usable_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder).identity
    monkeypatch.setenv("DISTIL_CACHE", "/proc/none")
    assert opened(folder).identity == first


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_folder_converts_every_mode_to_rgb(mode: str, folder: Path) -> None:
    suffix = "tiff" if mode == "CMYK" else "png"
    picture = Image.open(folder / "train/cat/0.png").convert(mode)
    picture.save(folder / f"train/cat/9.{suffix}")
    block = opened(folder).read("train", 3, 4)
    assert block.keys == (f"train/cat/9.{suffix}",)
    assert np.array_equal(block.images_NHWC[0], np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "gif"])
def test_folder_reads_several_formats(suffix: str, folder: Path) -> None:
    file = folder / f"train/dog/z.{suffix}"
    Image.open(folder / "train/cat/0.png").save(file)
    (folder / "train/dog/notes.txt").write_text("not an image, ignored")
    data = opened(folder)
    assert data.count("train") == 7
    expected = np.asarray(Image.open(file).convert("RGB"))
    assert np.array_equal(data.read("train", 6, 7).images_NHWC[0], expected)


def test_folder_brings_unequal_images_to_the_size_asked(folder: Path) -> None:
    wide = np.zeros((64, 128, 3), dtype=np.uint8)
    wide[:, 32:96] = 200  # exactly the centre square
    Image.fromarray(wide).save(folder / "train/cat/0.png")
    image = opened(folder, 16).read("train", 0, 1).images_NHWC[0]
    assert image.shape == (16, 16, 3)
    assert (image[:, 4:12] == 200).all()
    assert image.min() > 100


def test_folder_with_unequal_images_asks_for_a_size(folder: Path, refused) -> None:
    Image.new("RGB", (32, 40)).save(folder / "train/cat/0.png")
    refused(lambda: opened(folder), "differ in size", "--image-size")


def test_folder_finds_an_unequal_image_that_is_not_the_first(folder: Path, refused) -> None:
    Image.new("RGB", (48, 48)).save(folder / "train/dog/2.png")
    data = opened(folder)
    refused(lambda: data.read("train", 0, 6), "2.png", "48x48", "--image-size")


def test_folder_layout_errors(folder: Path, tmp_path: Path, refused) -> None:
    refused(lambda: opened(tmp_path / "nowhere"), "no folder", "train")
    (folder / "test/emu").mkdir()
    refused(lambda: opened(folder), "same classes", "emu")
    (folder / "train/emu").mkdir()
    refused(lambda: opened(folder), "no image in", "emu")


def test_folder_without_classes_is_refused(tmp_path: Path, refused) -> None:
    for split in SPLITS:
        (tmp_path / split).mkdir()
    refused(lambda: opened(tmp_path), "same classes", "none at all")


@pytest.mark.parametrize("place", ["train/cat/0.png", "train/cat/1.png"])
@pytest.mark.parametrize("how", ["cut", "text", "empty", "flipped"])
def test_corrupt_images_are_named(how: str, place: str, folder: Path, refused) -> None:
    data = (folder / place).read_bytes()
    spoilt = {"cut": data[:-900], "text": b"hello", "empty": b"", "flipped": flip(data)}
    (folder / place).write_bytes(spoilt[how])
    refused(lambda: opened(folder).read("train", 0, 6), place, "not a readable image")


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8193, 20_000, 60_000])
@pytest.mark.parametrize("place", ["train/cat/0.png", "train/cat/1.png"])
def test_decompression_bombs_are_refused(side: int, place: str, folder: Path, refused) -> None:
    assert side * side > MAX_PIXELS
    (folder / place).write_bytes(png_that_claims(side, side))
    refused(lambda: opened(folder, 32).read("train", 0, 2), place, "refused")
    refused(lambda: opened(folder).read("train", 0, 2), place, "refused")


@pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000)])
def test_strips_that_would_need_gigabytes_are_refused(
    size: tuple[int, int], folder: Path, refused
) -> None:
    Image.new("RGB", size).save(folder / "train/cat/1.png")
    parts = "{}x{} pixels".format(*size), f"more than {MAX_PIXELS:,}", "crop it"
    with mock.patch.object(Image.Image, "resize", side_effect=AssertionError("resized")):
        refused(lambda: opened(folder, 224).read("train", 1, 2), "train/cat/1.png", *parts)


def test_strips_are_resized_up_to_the_limit_and_not_beyond(folder: Path, refused) -> None:
    longest = MAX_PIXELS // (64 * 64)  # at a side of 64, a strip of one pixel's height
    for length in (longest, longest + 1):
        Image.new("RGB", (length, 1), "red").save(folder / f"train/cat/{length - longest}.png")
    block = opened(folder, 64).read("train", 0, 1)
    assert (block.images_NHWC[0] == (255, 0, 0)).all()
    refused(lambda: opened(folder, 64).read("train", 1, 2), "train/cat/1.png", "image size")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's folder layout with 4 random images a file, and torchvision told their md5."""
    from torchvision.datasets import CIFAR10

    base = tmp_path / CIFAR10.base_folder
    base.mkdir()
    rng = np.random.default_rng(0)

    def write(name: str, value: dict) -> str:
        data = pickle.dumps(value, protocol=4)
        (base / name).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    for listing in ("train_list", "test_list"):
        entries = [
            [name, write(name, {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8),
                                "labels": [3, 1, 4, 1]})]
            for name, _ in getattr(CIFAR10, listing)
        ]  # fmt: skip
        monkeypatch.setattr(CIFAR10, listing, entries)
    names = [f"class {i}" for i in range(10)]
    meta = {**CIFAR10.meta, "md5": write("batches.meta", {"label_names": names})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setenv("DISTIL_DATA", str(tmp_path))
    return base


def test_cifar_reads_arrays_in_file_order(archive: Path) -> None:
    data = open_dataset("cifar10")
    assert [data.count(split) for split in SPLITS] == [20, 4]
    assert data.classes[3] == "class 3"
    assert data.labels("test").tolist() == [3, 1, 4, 1]
    raw = pickle.loads((archive / "data_batch_2").read_bytes())["data"][1]
    block = data.read("train", 5, 6)
    assert block.keys == ("train/000005",)
    assert np.array_equal(block.images_NHWC[0], raw.reshape(3, 32, 32).transpose(1, 2, 0))


def test_cifar_with_a_wrong_checksum_is_never_unpickled(archive: Path, refused) -> None:
    (archive / "data_batch_1").write_bytes(pickle.dumps(Touch(archive / "touched")))
    refused(lambda: open_dataset("cifar10"), "data_batch_1", "md5", "delete it")
    assert not (archive / "touched").exists()


class Touch:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_unpickler_refuses_code_even_when_the_checksum_agrees(
    archive: Path, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    from torchvision.datasets import CIFAR10

    data = pickle.dumps({"data": Touch(archive / "touched")}, protocol=4)
    (archive / "test_batch").write_bytes(data)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5]])
    refused(lambda: open_dataset("cifar10"), "system", "only NumPy arrays")
    assert not (archive / "touched").exists()


def test_cifar_file_that_is_missing_is_named(archive: Path, refused) -> None:
    (archive / "data_batch_4").unlink()
    refused(lambda: open_dataset("cifar10"), "data_batch_4 is missing", "extract")


def test_cifar_offline_says_where_to_place_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", offline)
    monkeypatch.setenv("DISTIL_DATA", str(tmp_path))
    assert not cifar.is_present("cifar10", tmp_path)
    parts = ("put cifar-10-python.tar.gz", str(tmp_path), "no route", "DISTIL_DATA")
    refused(lambda: open_dataset("cifar10"), *parts)
