"""Columns left on disk, and what a machine remembers to have checked."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.bank import reader
from shards.bank.manifest import Manifest
from shards.bank.reader import check_shard, load_manifest, load_shard
from shards.bank.splits import Split, load_splits, split_bytes
from shards.bank.stream import FileHandles, StreamedColumn
from shards.support import cache

ARMS = ("clean", "crop_flip:4", "noise:0.1")
COLUMNS = ("images_NHWC", "params_NVP", "embedding_NVD")


@pytest.fixture(scope="module")
def manifest(bank: Path) -> Manifest:
    return load_manifest(str(bank))


@pytest.fixture(scope="module")
def both(bank: Path, manifest: Manifest) -> tuple[dict[str, Split], dict[str, Split]]:
    kept, left = (
        load_splits(str(bank), manifest, "train", ARMS, streaming=streaming)
        for streaming in (False, True)
    )
    return kept, left


@pytest.mark.parametrize("arm", ARMS)
def test_streamed_rows_are_those_in_memory(arm: str, both) -> None:
    kept, left = both[0][arm], both[1][arm]
    assert left.keys == kept.keys
    assert np.array_equal(left.labels_N, kept.labels_N)
    assert np.array_equal(left.norm_NV, kept.norm_NV)
    index = np.array([59, 0, 24, 25, 26, 0, 49, 50])  # over all shards, one twice
    for name in COLUMNS:
        whole, column = getattr(kept, name), getattr(left, name)
        assert isinstance(column, StreamedColumn)
        assert column.shape == whole.shape
        assert len(column) == 60
        for at in (index, slice(20, 30), slice(None)):
            assert np.array_equal(column[at], whole[at])
        assert column[index].dtype == whole.dtype


@pytest.mark.parametrize("arm", ARMS[1:])
def test_streamed_views_are_those_in_memory(arm: str, both) -> None:
    kept, left = both[0][arm], both[1][arm]
    index, view = np.array([59, 3, 25, 3]), np.array([0, 1, 1, 0])
    for name in COLUMNS[1:]:
        whole, column = getattr(kept, name), getattr(left, name)
        assert np.array_equal(column[index, view], whole[index, view])
        assert np.array_equal(column[:, 1], whole[:, 1])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Six files of 64 equal bytes, file i of i, where at most three may be open."""
    monkeypatch.setattr("shards.bank.stream.OPEN_FILES", 3)
    paths = [tmp_path / str(i) for i in range(6)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i] * 64))
    return paths


def read(handles: FileHandles, path: Path) -> bytes:
    found = bytearray(64)
    handles.read(path, memoryview(found), 0)
    return bytes(found)


def test_few_files_are_open_at_once(files: list[Path]) -> None:
    before, handles = open_files(), FileHandles()
    for i in (0, 1, 2, 3, 4, 5, 0, 5):
        assert read(handles, files[i]) == bytes([i] * 64)
        assert open_files() <= before + 3
    del handles
    assert open_files() == before


def test_threads_that_read_at_once_get_the_bytes_of_their_files(files: list[Path]) -> None:
    """The arms of a split share their files, and training and observing a rank read at once."""
    before, handles = open_files(), FileHandles()
    started = threading.Barrier(2)

    def wrong(handles: FileHandles, seed: int) -> int:
        order = np.random.default_rng(seed).integers(0, len(files), 10_000).tolist()
        started.wait()
        return sum(read(handles, files[i]) != bytes([i] * 64) for i in order)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change places between any two steps
    try:
        with ThreadPoolExecutor(2) as pool:
            running, most = [pool.submit(wrong, handles, seed) for seed in (0, 1)], 0
            while not all(future.done() for future in running):
                most = max(most, open_files())
                time.sleep(0.001)
            assert [future.result() for future in running] == [0, 0]
    finally:
        sys.setswitchinterval(interval)
    assert before < most <= before + 3
    del handles
    assert open_files() == before


def test_a_copy_in_another_process_opens_its_files_itself(files: list[Path]) -> None:
    handles = FileHandles()
    read(handles, files[0])
    copied = pickle.loads(pickle.dumps(handles))
    before = open_files()
    assert read(copied, files[0]) == bytes(64)
    assert open_files() == before + 1
    del copied
    assert read(handles, files[0]) == bytes(64)


@pytest.mark.faults
def test_a_shard_cut_while_it_is_streamed_is_noticed(copy: Path, manifest: Manifest) -> None:
    split = load_splits(str(copy), manifest, "train", ("clean",), streaming=True)["clean"]
    os.truncate(copy / "train-000002.tar", 5000)
    with pytest.raises(OSError, match=r"train-000002\.tar: truncated"):
        split.images_NHWC[np.array([55])]


@pytest.mark.faults
@pytest.mark.parametrize("streaming", [False, True])
def test_damage_is_found_before_a_sample_is_used(streaming, copy, manifest, refused) -> None:
    file = copy / "train-000001.tar"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)
    refused(
        lambda: load_splits(str(copy), manifest, "train", ("clean",), streaming=streaming),
        file.name,
        "the manifest says",
    )


def test_bytes_in_memory_are_counted_exactly(bank: Path, manifest: Manifest, both) -> None:
    counted = split_bytes(manifest, "train", ARMS)
    split = both[0]["clean"]
    held = split.images_NHWC.nbytes + split.labels_N.nbytes
    for arm in ARMS:
        each = both[0][arm]
        held += each.params_NVP.nbytes + each.embedding_NVD.nbytes + each.norm_NV.nbytes
    assert counted == held


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Sizes of the shards whose checksum is compared, with an empty cache."""
    monkeypatch.setenv("DISTIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "RACY", 0)
    seen: list[int] = []
    real = reader.check_checksums

    def count(data: bytes, *arguments: Any) -> None:
        seen.append(len(data))
        real(data, *arguments)

    monkeypatch.setattr(reader, "check_checksums", count)
    return seen


def test_a_shard_is_hashed_once_and_again_when_it_was_touched(copy, manifest, hashes) -> None:
    record, file = manifest.shards[0], copy / manifest.shards[0].name
    first = load_shard(str(copy), manifest, record)
    assert hashes == [record.bytes]
    again = load_shard(str(copy), manifest, record)
    assert hashes == [record.bytes]
    assert first.keys == again.keys
    check_shard(str(copy), manifest, record)  # `verify` trusts nothing
    assert hashes == [record.bytes] * 2
    file.write_bytes(file.read_bytes())
    load_shard(str(copy), manifest, record)
    assert len(hashes) == 3
    times = file.stat()
    data = bytearray(file.read_bytes())
    data[-2000] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # a time that was put back
    with pytest.raises(ValueError, match="the manifest says"):
        load_shard(str(copy), manifest, record)


def test_what_was_changed_just_now_is_not_believed(copy, manifest, hashes, monkeypatch) -> None:
    monkeypatch.setattr(cache, "RACY", 60_000_000_000)
    for _ in range(2):
        load_shard(str(copy), manifest, manifest.shards[0])
    assert len(hashes) == 2


def test_what_was_checked_for_one_plan_is_not_for_another(copy, manifest, hashes) -> None:
    record = manifest.shards[0]
    load_shard(str(copy), manifest, record)
    other = manifest.model_copy(update={"identity": "0" * 64})
    load_shard(str(copy), other, record)
    assert len(hashes) == 2


def test_without_a_cache_to_write_to_it_works_and_checks_again(
    copy, manifest, hashes, monkeypatch
) -> None:
    monkeypatch.setenv("DISTIL_CACHE", "/proc/nowhere")
    for _ in range(2):
        load_shard(str(copy), manifest, manifest.shards[0])
    assert len(hashes) == 2


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTIL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.cache_folder() == Path("/x/distilsweep")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "distilsweep"
    monkeypatch.setenv("DISTIL_CACHE", "/y")
    assert cache.cache_folder() == Path("/y")
