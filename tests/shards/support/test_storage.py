from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shards.support import lock, objects, storage

HERE = Path(__file__).parents[3]


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
from shards.support import lock, storage
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
from shards.support import lock, storage
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
    refused(lambda: lock.exclusive(location, "bank").__enter__(), "refused")


@pytest.mark.parametrize(
    ("location", "scheme"),
    [("a/b", "file"), ("/a:b/c", "file"), ("file:///a", "file"), ("s3://b/k", "s3")],
)
def test_schemes_of_locations(location: str, scheme: str) -> None:
    assert storage.scheme_of(location) == scheme


HOLD = """
import sys
from shards.support import lock, storage
with lock.exclusive(sys.argv[1], "bank"):
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
    second = lock.exclusive(str(tmp_path), "bank")
    refused(second.__enter__, f"process {first.pid} on", "another folder")
    assert time.monotonic() - start < 2
    first.kill()
    first.communicate()
    with lock.exclusive(str(tmp_path), "bank"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, refused) -> None:
    (tmp_path / "file").write_text("")
    second = lock.exclusive(str(tmp_path / "file" / "bank"), "bank")
    refused(second.__enter__, "not writable", "Not a directory")


def test_ranges_come_in_the_order_asked(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(bytes(range(100)))
    ranges = [(50, 53), (0, 2), (99, 100), (7, 7)]
    assert storage.read_ranges(str(file), ranges) == [bytes(range(a, b)) for a, b in ranges]
    assert storage.read_ranges(str(file), []) == []
    with pytest.raises(OSError, match="ends before byte 101"):
        storage.read_ranges(str(file), [(99, 101)])


def test_near_ranges_share_a_request() -> None:
    gap, most = objects.MERGE_GAP, objects.MERGE_MAX
    merged = objects.merged_ranges
    assert merged([(gap + 10, gap + 20), (0, 10)]) == ([0], [gap + 20])
    assert merged([(gap + 11, gap + 20), (0, 10)]) == ([0, gap + 11], [10, gap + 20])
    assert merged([(0, most), (most, most + 1)]) == ([0, most], [most, most + 1])
    assert merged([(0, 90), (10, 20), (80, 95)]) == ([0], [95])


def test_glob_lists_files_and_state_changes_with_them(tmp_path: Path) -> None:
    for name in ("b/2.tar", "a/1.tar", "a/1.txt"):
        storage.write(str(tmp_path / name), b"x")
    found = [str(tmp_path / "a/1.tar"), str(tmp_path / "b/2.tar")]
    assert storage.glob(f"{tmp_path}/*/*.tar") == found
    assert storage.glob(f"file://{tmp_path}/**/*.tar") == found
    assert storage.glob(f"{tmp_path}/*.zip") == []
    before = storage.state(found[0])
    storage.write(found[0], b"y")
    assert storage.state(found[0]) != before
