"""Shards, a trial's checkpoints and its result on an S3 endpoint, as cluster.yaml uses them."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from shards.bank.splits import load_splits
from shards.building.build import build
from shards.building.request import Request
from shards.datasets import open_dataset, webdataset
from shards.support import storage
from shards.verify import verify
from tests.s3_server import serve_bucket
from trainers.canonical import make_config
from trainers.results import trial_journal
from trainers.results.folder import finished
from trainers.runner import run_trial
from trainers.training.checkpoint import Checkpoints

pytestmark = pytest.mark.store

FIELDS = {
    "dataset": "digits",
    "teacher": "embedded",
    "student": "width:0.5",
    "train_samples": 128,
    "test_samples": 40,
    "epochs": 3,
    "test_arms": ["noise:0.1"],
    "test_views": 1,
}


@pytest.fixture(scope="module")
def bucket():
    """s3://sweep on a real server of the S3 protocol."""
    with serve_bucket("sweep") as address:
        yield address


def test_a_bank_and_a_trial_on_s3_equal_those_on_disk(bucket, tmp_path):
    request = Request(
        dataset="digits",
        teachers=("embedded",),
        train_samples=128,
        test_samples=40,
        test_arms=("noise:0.1",),
        shard_samples=100,
    )
    config = make_config(FIELDS)
    results = []
    for root in (bucket + "/run", str(tmp_path / "run")):
        bank = storage.join(root, "banks", "one")
        build(request, bank)
        assert len(verify(bank).manifest.shards) == 3
        results.append(run_trial(config, bank, root, device="cpu", save_seconds=0))
        assert finished(root, config) == results[-1]
    assert results[0].metrics == results[1].metrics
    assert storage.names(storage.join(bucket, "run", "trials", config.identity, "student")) == [
        "student.json",
        "student.safetensors",
    ]


def test_an_interrupted_trial_goes_on_from_s3(bucket, tmp_path, monkeypatch):
    # Rows are reported once they are stored; here each at once, and not those of 5 s together.
    monkeypatch.setattr(trial_journal, "PUT_SECONDS", 0.0)
    bank = str(tmp_path / "bank")
    build(
        Request(
            dataset="digits",
            teachers=("embedded",),
            train_samples=128,
            test_samples=40,
            test_arms=("noise:0.1",),
        ),
        bank,
    )
    config = make_config(FIELDS)
    whole = run_trial(config, bank, str(tmp_path / "whole"), device="cpu")

    def stop(values):
        if values["epoch"] == 2:
            raise KeyboardInterrupt

    root = bucket + "/resumed"
    with pytest.raises(KeyboardInterrupt):
        run_trial(config, bank, root, stop, device="cpu", save_seconds=0)
    place = storage.join(root, "trials", config.identity, "checkpoints")
    assert Checkpoints(place, config.identity).steps() == [3, 4]
    assert finished(root, config) is None
    seen = []
    resumed = run_trial(config, bank, root, lambda v: seen.append(v["epoch"]), device="cpu")
    assert seen == [3]
    assert resumed.metrics == whole.metrics
    assert not storage.exists(place)


def test_streaming_copies_shards_once_and_again_where_a_copy_is_spoilt(
    bucket, tmp_path, monkeypatch
):
    bank, cache = bucket + "/streamed", tmp_path / "cache"
    monkeypatch.setenv("DISTIL_CACHE", str(cache))
    request = Request(
        dataset="digits", teachers=("embedded",), train_samples=60, test_samples=20,
        shard_samples=25,
    )  # fmt: skip
    manifest, fetched = build(request, bank), []
    real = storage.read

    def read(place):
        if place.startswith("s3://") and place.endswith(".tar"):
            fetched.append(place.rpartition("/")[2])
        return real(place)

    monkeypatch.setattr(storage, "read", read)
    kept, left = (
        load_splits(bank, manifest, "train", ("clean",), streaming=streaming)["clean"]
        for streaming in (False, True)
    )
    assert np.array_equal(left.images_NHWC[np.arange(60)], kept.images_NHWC)
    assert len(fetched) == 6
    fetched.clear()

    def stream():
        return load_splits(bank, manifest, "train", ("clean",), streaming=True)["clean"]

    stream()
    assert fetched == []
    record = next(r for r in manifest.shards if r.name == "train-000001.tar")
    copy = cache / "shards" / f"{record.sha256}.tar"
    whole = copy.read_bytes()
    flipped = whole[:9999] + bytes([whole[9999] ^ 1]) + whole[10000:]
    for spoilt in (flipped, whole[:5000]):
        copy.write_bytes(spoilt)
        assert np.array_equal(stream().images_NHWC[np.arange(60)], kept.images_NHWC)
        assert copy.read_bytes() == whole
    assert fetched == [record.name] * 2

    copy.write_bytes(flipped)
    storage.write(f"{bank}/{record.name}", flipped)
    with pytest.raises(ValueError, match=f"shard {bank}/{record.name}: blake3"):
        stream()
    storage.delete(f"{bank}/{record.name}")
    with pytest.raises(ValueError, match=f"shard {bank}/{record.name} is missing"):
        stream()


def shard(first: int, count: int) -> bytes:
    """`count` samples in colours of their own, each with 70 kB between its image and the next."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(first, first + count):
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (i, 0, 0)).save(picture, "png")
            members = {"png": picture.getvalue(), "cls": b"%d" % (i % 2), "raw": bytes(70_000)}
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{i:03d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_shards_of_others_are_read_from_s3(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    roots = [bucket + "/others", str(tmp_path / "others")]
    for root in roots:
        for name, first, count in (("train/0", 0, 5), ("train/1", 5, 5), ("val/0", 10, 4)):
            storage.write(f"{root}/{name}.tar", shard(first, count))
        storage.write(f"{root}/classnames.txt", b"even\nodd\n")
    ranged = f"wds:{roots[0]}/{{split}}/{{0..1}}.tar"
    remote, local, by_range = (
        open_dataset(spec) for spec in (*(f"wds:{root}/{{split}}/*.tar" for root in roots), ranged)
    )
    assert remote.classes == ("even", "odd")
    assert remote.identity == local.identity == by_range.identity
    assert remote.keys("test") == tuple(f"test/0/{i:03d}" for i in range(10, 14))
    block = remote.read("train", 3, 8)
    assert block.images_NHWC[:, 0, 0, 0].tolist() == [3, 4, 5, 6, 7]
    assert np.array_equal(block.images_NHWC, local.read("train", 3, 8).images_NHWC)

    def again(place: str) -> None:
        raise AssertionError(f"{place} was passed over a second time")

    monkeypatch.setattr(webdataset, "index_shard", again)
    assert open_dataset(ranged).identity == remote.identity
    monkeypatch.undo()
    storage.delete(f"{roots[0]}/train/0.tar")
    with pytest.raises(ValueError, match=r"shard s3://sweep/others/train/0\.tar is missing"):
        open_dataset(ranged)


def test_errors_of_the_store_are_one_line_with_a_remedy(bucket):
    with pytest.raises(FileNotFoundError, match="s3://nobody/has/this: "):
        storage.read("s3://nobody/has/this")
    with pytest.raises(OSError, match=r"s3://nobody/x: .*bucket.*; check the bucket") as caught:
        storage.write("s3://nobody/x", b"data")
    assert "\n" not in str(caught.value)
