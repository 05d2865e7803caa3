"""Reads that meet a fault: tried again where it may pass, one clear line where it stays."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits
from shards.bank.stream import FileHandles, find_columns
from shards.support import objects, retry, storage

HERE = Path(__file__).parents[3]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def failing(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> list[Exception]:
    """Reads of local files raise what is in `errors`, one after the other, then succeed."""
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if errors:
            raise errors.pop(0)
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    return errors


PASSING = [
    OSError(errno.EIO, "Input/output error"),
    ConnectionResetError("peer left"),
    TimeoutError("late"),
    OSError(errno.ESTALE, "Stale file handle"),
]


@pytest.mark.faults
@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("times", [1, 3])
def test_a_passing_read_error_is_tried_again(
    error: Exception, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses
) -> None:
    (tmp_path / "x").write_bytes(b"data")
    failing(monkeypatch, [error] * times)
    assert storage.read(str(tmp_path / "x")) == b"data"
    assert pauses == list(retry.PAUSES[:times])
    assert sum(retry.PAUSES) < 3


@pytest.mark.faults
@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_a_lasting_read_error_names_the_place(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses
) -> None:
    left = failing(monkeypatch, [error] * 9)
    with pytest.raises(OSError, match="4 attempts failed") as caught:
        storage.read(str(tmp_path / "x"))
    assert str(tmp_path / "x") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "check the disk" in str(caught.value)
    assert len(left) == 5
    assert len(pauses) == 3


@pytest.mark.faults
@pytest.mark.parametrize(
    "kind", [FileNotFoundError, PermissionError, IsADirectoryError, ValueError]
)
def test_other_errors_are_not_tried_again(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses
) -> None:
    failing(monkeypatch, [kind("no")])
    with pytest.raises(kind, match="no"):
        storage.read(str(tmp_path / "x"))
    assert pauses == []


@pytest.fixture
def broken(copy: Path, monkeypatch: pytest.MonkeyPatch):
    """A shard whose every read is a real EIO of the kernel's, `times` times, then well again."""
    file, kept = copy / "train-000001.tar", copy.parent / "kept.tar"
    file.rename(kept)
    slept: list[float] = []

    def mend(seconds: float, after: int) -> None:
        slept.append(seconds)
        if len(slept) == after:
            file.unlink()
            file.symlink_to(kept)

    def break_it(times: int) -> list[float]:
        monkeypatch.setattr(time, "sleep", lambda seconds: mend(seconds, times))
        file.unlink(missing_ok=True)
        file.symlink_to("/proc/self/mem")  # nothing is mapped at its start
        with file.open("rb") as stream, pytest.raises(OSError, match="Input/output") as caught:
            os.pread(stream.fileno(), 1, 0)
        assert caught.value.errno == errno.EIO
        return slept

    file.symlink_to(kept)
    return file, break_it


@pytest.mark.faults
def test_streamed_reads_are_tried_again_and_at_the_end_name_the_shard(copy: Path, broken) -> None:
    file, break_it = broken
    manifest, rows = load_manifest(str(copy)), np.array([30, 2, 49])
    kept, left = (
        load_splits(str(copy), manifest, "train", ("clean",), streaming=streaming)["clean"]
        for streaming in (False, True)
    )
    (places, keys), images = find_columns(file), left.images_NHWC

    def read_rows() -> list:
        return replace(images, files=FileHandles())[rows].tolist()

    reads = {
        "rows": read_rows,
        "column": lambda: places["label"].whole(25).tolist(),
        "headers": lambda: find_columns(file)[1],
    }
    wanted = {
        "rows": kept.images_NHWC[rows].tolist(),
        "column": kept.labels_N[25:50].tolist(),
        "headers": keys,
    }
    for (name, read), times in itertools.product(reads.items(), (3, 9)):
        slept = break_it(times)
        if times > len(retry.PAUSES):
            with pytest.raises(OSError, match="4 attempts failed") as caught:
                read()
            assert str(file) in str(caught.value)
            assert "\n" not in str(caught.value)
        else:
            assert read() == wanted[name]
        assert slept == list(retry.PAUSES)
        slept.clear()


class Client:
    """An object store's file system whose every call raises."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def invalidate_cache(self) -> None: ...

    def __getattr__(self, name: str):
        def call(*_: object, **__: object) -> None:
            self.calls += 1
            raise self.error

        return call


def store_errors() -> list:
    try:
        import aiohttp
        from botocore.exceptions import ClientError, NoCredentialsError, ProfileNotFound
        from google.auth.exceptions import DefaultCredentialsError, RefreshError
    except ImportError:
        missing = pytest.mark.skip(reason="the extras `aws` and `gcp` are not installed")
        return [pytest.param("s3", OSError(), "", 0, marks=missing)]

    denied = {"Error": {"Code": "403", "Message": "Forbidden"}}
    return [
        ("s3", NoCredentialsError(), "AWS_ACCESS_KEY_ID", 1),
        ("s3", ProfileNotFound(profile="x"), "AWS_PROFILE", 1),
        ("s3", ClientError(denied, "GetObject"), "AWS_ENDPOINT_URL", 1),
        ("s3", PermissionError("Access Denied"), "AWS_ACCESS_KEY_ID", 1),
        ("s3", ConnectionResetError("peer left"), "4 attempts failed", 4),
        ("gs", DefaultCredentialsError("no\ncredentials"), "GOOGLE_APPLICATION_CREDENTIALS", 1),
        ("gs", RefreshError("expired"), "gcloud auth application-default login", 1),
        ("https", aiohttp.ServerDisconnectedError(), "4 attempts failed", 4),
        ("https", aiohttp.InvalidURL("https://x"), "check the address", 1),
    ]


@pytest.mark.faults
@pytest.mark.parametrize(("scheme", "error", "remedy", "calls"), store_errors(), ids=str)
@pytest.mark.parametrize("action", ["read", "exists", "names", "glob", "state"])
def test_errors_of_clients_become_one_line(
    action: str, scheme: str, error: Exception, remedy: str, calls: int, monkeypatch, pauses
) -> None:
    client = Client(error)
    monkeypatch.setattr(objects, "file_system", lambda location: (client, "bucket/key"))
    place = f"{scheme}://bucket/key"
    with pytest.raises(OSError, match=place) as caught:
        getattr(storage, action)(place)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PermissionError) == isinstance(error, PermissionError)
    assert client.calls == calls
    for write in (lambda: storage.write(place, b""), lambda: storage.delete(place)):
        with pytest.raises(OSError, match=place):
            write()


CREDENTIALS = """
from shards.support.command import command
from shards.support import storage
@command
def main(argv):
    storage.read("s3://bucket/key")
    return 0
main()
"""


def test_without_credentials_a_command_prints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="the extra `aws` is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    command = [sys.executable, "-c", CREDENTIALS]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    error = done.stderr
    assert done.returncode == 2
    assert error.startswith("error: s3://bucket/key: Unable to locate credentials; check")
    assert error.count("\n") == 1
