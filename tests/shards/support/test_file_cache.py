"""Copies of remote files: made once, bounded, and never taken from under a reader."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards.support import file_cache
from shards.support.file_cache import Reader

HERE = Path(__file__).parents[3]
SIZE = 1000


def name(number: int) -> str:
    return f"{number:064x}.tar"


def use(folder: Path, *numbers: int) -> Reader:
    reader = Reader(folder, {name(number): SIZE for number in numbers})
    for number in numbers:
        reader.get(name(number), lambda path: True, lambda: bytes(SIZE))
    return reader


def copies(folder: Path) -> list[int]:
    return sorted(int(p.stem, 16) for p in folder.glob("*.tar") if len(p.stem) == 64)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with room for three copies."""
    monkeypatch.setenv(file_cache.LIMIT_VARIABLE, str(3 * SIZE / 1e9))
    return tmp_path / "shards"


def test_the_least_recently_used_goes_first(folder: Path) -> None:
    for number in (1, 2, 3):
        use(folder, number)
        os.utime(folder / "locks" / f"{name(number)}.lock", (number, number))
    use(folder, 1)
    gc.collect()
    outside = folder.parent / name(9)
    for path in (outside, folder / "note.txt", folder / "x.txt.tar"):
        path.write_bytes(bytes(SIZE))
    (folder / name(8)).symlink_to(outside)
    use(folder, 4)
    assert [number for number in copies(folder) if number < 8] == [1, 3, 4]
    use(folder, 5)
    assert [number for number in copies(folder) if number < 8] == [1, 4, 5]
    assert outside.exists()
    assert (folder / "note.txt").exists()
    assert (folder / "x.txt.tar").exists()


READER = """
import sys
from pathlib import Path
from tests.shards.support.test_file_cache import use
reader = use(Path(sys.argv[1]), 1, 2)
print("reads", flush=True)
sys.stdin.readline()
"""


def test_what_a_living_reader_uses_stays(folder: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", READER, str(folder)],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout
    assert child.stdin
    assert child.stdout.readline() == b"reads\n"
    use(folder, 3)
    mine = use(folder, 4)
    assert copies(folder) == [1, 2, 4]
    with pytest.raises(OSError, match="3,000 allowed, of which 3,000 are in use") as caught:
        use(folder, 5)
    assert "\n" not in str(caught.value)
    child.kill()
    child.communicate()
    use(folder, 5)
    assert set(copies(folder)) > {4, 5}
    assert len(list((folder / "readers").glob("*.json"))) <= 3
    del mine


def test_what_can_never_fit_is_refused_before_anything_is_fetched(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"4,000 bytes needed .* 3,000 allowed; set DISTIL_CACHE_G"
    ):
        Reader(folder, {name(number): SIZE for number in range(4)})


def test_a_wrong_limit_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("much", "-1", "nan"):
        monkeypatch.setenv(file_cache.LIMIT_VARIABLE, text)
        with pytest.raises(ValueError, match=f"DISTIL_CACHE_GB: `{text}` is not"):
            use(folder, 1)


def test_without_a_limit_it_is_a_share_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(file_cache.LIMIT_VARIABLE, raising=False)
    use(tmp_path, 1)
    stats = os.statvfs(tmp_path)
    free = stats.f_bavail * stats.f_frsize
    assert file_cache.limit_of(tmp_path) == pytest.approx(0.8 * free, rel=0.1)


def test_readers_of_one_file_fetch_it_once(folder: Path) -> None:
    fetched: list[int] = []

    def fetch() -> bytes:
        fetched.append(1)
        time.sleep(0.3)
        return bytes(SIZE)

    def read(_: int) -> Path:
        return Reader(folder, {name(1): SIZE}).get(name(1), lambda path: True, fetch)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(read, range(4))) == {folder / name(1)}
    assert len(fetched) == 1


def test_a_spoilt_copy_and_what_a_killed_process_left_are_replaced(folder: Path) -> None:
    use(folder, 1)
    (folder / name(1)).write_bytes(b"cut")
    for number in (1, 2):
        (folder / f".{name(number)}.999.tmp").write_bytes(b"half")
    reader = Reader(folder, {name(1): SIZE})
    reader.get(name(1), lambda path: path.stat().st_size == SIZE, lambda: bytes(SIZE))
    assert (folder / name(1)).stat().st_size == SIZE
    assert list(folder.glob(".*.tmp")) == []
