"""Copies of remote files on this machine, shared by its processes and bounded in size.

    FOLDER/NAME               a copy; the caller checks it before every use
    FOLDER/locks/NAME.lock    held while a copy is checked or made; its time is that of the last use
    FOLDER/readers/ID.json    the names that one reader uses; ID.lock is held while it lives
    FOLDER/.lock              held while room is made and a copy is written

Where room is needed, copies are evicted, the least recently used first, and never one that a living
reader uses: it opens and closes its files all the time, so a deleted one would be missing. The
kernel releases the lock of a reader that is killed. Nothing but copies is evicted, and nothing
outside FOLDER.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import filelock

from shards.support import storage

LIMIT_VARIABLE = "DISTIL_CACHE_GB"
# Without a limit given: this share of what the disk would have free without the copies.
SHARE = 0.8
NAME = re.compile(r"[0-9a-f]{64}\.tar")
LEFTOVER = re.compile(r"\.([0-9a-f]{64}\.tar)\.\d+\.tmp")  # of a process that was killed
POLL_SECONDS = 0.2  # between two attempts to get a lock that another process holds


def limit_of(folder: Path) -> int:
    """Bytes that the copies in `folder` may take. Raises: ValueError for a wrong setting."""
    text = os.environ.get(LIMIT_VARIABLE)
    if text is None:
        taken = sum(path.stat().st_size for path in _copies(folder))
        return int(SHARE * (taken + shutil.disk_usage(folder).free))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ValueError(f"{LIMIT_VARIABLE}: `{text}` is not a number of gigabytes, 0 or more")
    return int(limit * 1e9)


class Reader:
    """Uses the copies `sizes`, {name: bytes}, in `folder`; as long as it lives they are kept.

    Raises: ValueError where they can never fit; OSError.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        self._folder, self._sizes = folder, dict(sizes)
        for part in ("locks", "readers"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        needed, limit = sum(sizes.values()), limit_of(folder)
        if needed > limit:
            raise ValueError(
                f"{folder}: {needed:,} bytes needed for copies of the shards, {limit:,} allowed; "
                f"set {LIMIT_VARIABLE} to more, or DISTIL_CACHE to a folder on a larger disk, or "
                "read with --reading resident"
            )
        self._id = secrets.token_hex(8)
        place = folder / "readers" / self._id
        self._lock = filelock.FileLock(place.with_suffix(".lock"))
        with self._whole():
            self._lock.acquire()
            storage.write(f"{place}.json", json.dumps(sorted(sizes)).encode())

    def get(self, name: str, is_good: Callable[[Path], bool], fetch: Callable[[], bytes]) -> Path:
        """The copy `name`: one that `is_good`, or what `fetch` returns.

        Of several processes that ask for a copy, one fetches it and the others wait for it.
        Raises: OSError where there is no room; as `fetch`.
        """
        path, lock = self._folder / name, self._folder / "locks" / f"{name}.lock"
        with filelock.FileLock(lock, poll_interval=POLL_SECONDS):
            os.utime(lock)
            if path.exists() and is_good(path):
                return path
            data = fetch()
            with self._whole():
                path.unlink(missing_ok=True)
                self._make_room(name)
                storage.write(str(path), data)
        return path

    def _whole(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self._folder / ".lock", poll_interval=POLL_SECONDS)

    def _make_room(self, name: str) -> None:
        """Evict until the copy `name` fits. Raises: OSError where others use too much."""
        self._delete_leftovers(name)
        kept, limit = self._in_use(), limit_of(self._folder)
        sizes = {path: path.stat().st_size for path in _copies(self._folder)}
        for path in sorted((p for p in sizes if p.name not in kept), key=self._last_use):
            if sum(sizes.values()) + self._sizes[name] <= limit:
                return
            path.unlink()
            del sizes[path]
        taken = sum(sizes.values())
        if taken + self._sizes[name] > limit:
            raise OSError(
                f"{self._folder}: {self._sizes[name]:,} bytes needed for a shard, {limit:,} "
                f"allowed, of which {taken:,} are in use; set {LIMIT_VARIABLE} to more, or run "
                "fewer trials at once"
            )

    def _last_use(self, path: Path) -> float:
        try:
            return (self._folder / "locks" / f"{path.name}.lock").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _in_use(self) -> set[str]:
        """Names that living readers use. What dead ones have left is deleted."""
        names = set(self._sizes)
        for file in (self._folder / "readers").glob("*.json"):
            lock = file.with_suffix(".lock")
            if file.stem == self._id:
                continue
            if _is_held(lock):
                names.update(json.loads(file.read_bytes()))
            else:
                file.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
        return names

    def _delete_leftovers(self, name: str) -> None:
        for file in self._folder.glob(".*.tmp"):
            found = LEFTOVER.fullmatch(file.name)
            lock = self._folder / "locks" / f"{found[1]}.lock" if found else None
            # The lock of `name` itself is held here, so nobody else is writing it.
            if found and lock and (found[1] == name or not _is_held(lock)):
                file.unlink(missing_ok=True)


def _copies(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if NAME.fullmatch(path.name))
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _is_held(path: Path) -> bool:
    """Whether a process, this one included, holds the lock in the file `path`."""
    lock = filelock.FileLock(path, timeout=0)
    with contextlib.suppress(filelock.Timeout):
        lock.acquire()
        lock.release()
        return False
    return True
