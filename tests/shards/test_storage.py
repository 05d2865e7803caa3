from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards import faults, storage

HERE = Path(__file__).parents[2]


def python(code: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_written_is_read_and_listed(tmp_path: Path) -> None:
    place = storage.join(str(tmp_path), "a", "b.bin")
    assert not storage.exists(place)
    storage.write(place, b"one")
    storage.write(place, b"two")
    assert storage.read(place) == b"two"
    assert storage.read(f"file://{place}") == b"two"
    assert storage.names(storage.join(str(tmp_path), "a")) == ["b.bin"]
    storage.delete(place)
    assert not storage.exists(place)
    assert storage.names(str(tmp_path / "nowhere")) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    place = str(tmp_path / "f")
    storage.write_folder(place, {"a": b"1", "b": b"2"})
    storage.write_folder(place, {"c": b"3"})
    assert storage.names(place) == ["c"]
    assert os.listdir(tmp_path) == ["f"]


LIMITED = """
import resource, signal, sys
from shards import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    if sys.argv[2] == "file":
        storage.write(sys.argv[1], bytes(20_000))
    else:
        storage.write_folder(sys.argv[1], {"a": bytes(100), "b": bytes(20_000)})
except OSError as error:
    print(error)
"""


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_leaves_the_old_and_nothing_else(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "x"
    if kind == "file":
        storage.write(str(place), b"old")
    else:
        storage.write_folder(str(place), {"a": b"old"})
    out, error = python(LIMITED, str(place), kind).communicate()
    assert not error
    assert "20,000 bytes needed" in out or "20,100 bytes needed" in out
    assert "bytes free" in out
    assert str(place) in out
    assert os.listdir(tmp_path) == ["x"]
    assert (place if kind == "file" else place / "a").read_bytes() == b"old"


KILLED = """
import os, sys
from shards import storage
calls = 0
def dying(function):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), 9)
        return function(*arguments, **named)
    return call
os.fsync = dying(os.fsync)
os.rename = dying(os.rename)
storage.write(sys.argv[1], b"new" * 1000)
"""


@pytest.mark.faults
@pytest.mark.parametrize(("call", "left"), [(1, b"old"), (2, b"old"), (3, b"new" * 1000)])
def test_a_kill_leaves_the_old_or_the_new_file_whole(call, left, tmp_path: Path) -> None:
    """Killed before the file's fsync, before the rename, and before the folder's fsync."""
    place = tmp_path / "x"
    place.write_bytes(b"old")
    process = python(KILLED, str(place), str(call))
    process.communicate()
    assert process.returncode == -9
    assert place.read_bytes() == left


@pytest.mark.parametrize(
    "location", ["pipe:touch x", "pipe://x", "ftp://host/x", "http://host/x", "memory://x", "x://"]
)
def test_other_schemes_are_refused_everywhere(location: str, refused) -> None:
    for call in (storage.read, storage.exists, storage.names, storage.delete):
        refused(lambda call=call: call(location), location, "refused", "s3://")
    refused(lambda: storage.write(location, b""), "refused")
    refused(lambda: storage.exclusive(location, "bank").__enter__(), "refused")


@pytest.mark.parametrize(
    ("location", "scheme"),
    [("a/b", "file"), ("/a:b/c", "file"), ("file:///a", "file"), ("s3://b/k", "s3")],
)
def test_scheme_of(location: str, scheme: str) -> None:
    assert storage.scheme_of(location) == scheme


HOLD = """
import sys
from shards import storage
with storage.exclusive(sys.argv[1], "bank"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_leaves_at_once_naming_the_holder(tmp_path: Path, refused) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    assert first.stdout.readline() == "held\n"
    start = time.monotonic()
    lock = storage.exclusive(str(tmp_path), "bank")
    refused(lock.__enter__, f"process {first.pid} on", "another folder")
    assert time.monotonic() - start < 2
    first.kill()
    first.communicate()
    with storage.exclusive(str(tmp_path), "bank"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, refused) -> None:
    (tmp_path / "file").write_text("")
    lock = storage.exclusive(str(tmp_path / "file" / "bank"), "bank")
    refused(lock.__enter__, "not writable", "Not a directory")


def test_ranges_come_in_the_order_asked(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(range(100)))
    ranges = [(50, 53), (0, 2), (99, 100), (7, 7)]
    assert storage.read_ranges(str(file), ranges) == [bytes(range(a, b)) for a, b in ranges]
    assert storage.read_ranges(str(file), []) == []
    with pytest.raises(OSError, match="ends before byte 101"):
        storage.read_ranges(str(file), [(99, 101)])


def test_near_ranges_share_a_request() -> None:
    gap, most = storage.MERGE_GAP, storage.MERGE_MAX
    assert storage._merged([(gap + 10, gap + 20), (0, 10)]) == [(0, gap + 20)]
    assert storage._merged([(gap + 11, gap + 20), (0, 10)]) == [(0, 10), (gap + 11, gap + 20)]
    assert storage._merged([(0, most), (most, most + 1)]) == [(0, most), (most, most + 1)]
    assert storage._merged([(0, 90), (10, 20), (80, 95)]) == [(0, 95)]


def test_globs_and_states(tmp_path: Path) -> None:
    for name in ("b/2.tar", "a/1.tar", "a/1.txt"):
        storage.write(str(tmp_path / name), b"x")
    found = [str(tmp_path / "a/1.tar"), str(tmp_path / "b/2.tar")]
    assert storage.glob(f"{tmp_path}/*/*.tar") == found
    assert storage.glob(f"file://{tmp_path}/**/*.tar") == found
    assert storage.glob(f"{tmp_path}/*.zip") == []
    before = storage.state(found[0])
    storage.write(found[0], b"y")
    assert storage.state(found[0]) != before


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", slept.append)
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
    assert pauses == list(faults.PAUSES[:times])
    assert sum(faults.PAUSES) < 3


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
    import aiohttp
    from botocore.exceptions import ClientError, NoCredentialsError, ProfileNotFound
    from google.auth.exceptions import DefaultCredentialsError, RefreshError

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
    monkeypatch.setattr(storage, "_remote", lambda location: (client, "bucket/key"))
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
from shards.command import command
from shards import storage
@command
def main(argv):
    storage.read("s3://bucket/key")
    return 0
main()
"""


def test_without_credentials_a_command_prints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    process = python(CREDENTIALS)
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.startswith("error: s3://bucket/key: Unable to locate credentials; check")
    assert error.count("\n") == 1
