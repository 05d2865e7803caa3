"""What this machine keeps to avoid repeated work: derived values, digests, and checked files.

Everything lies in `cache_folder()` and may be deleted at any time: it is computed again. An entry
counts only while the file it was derived from has the same state (size, times of change and inode;
on an object store size and entity tag), so a file that was replaced is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from shards.support import storage
from shards.support.progress import Progress
from shards.support.retry import retried

SHOW_PROGRESS_FROM = 20_000  # files; hashing fewer takes a few seconds at most
# File times are coarse (up to 2 s on FAT, 1 s on some NFS servers), and a file server's clock
# differs from ours. A file changed within this many nanoseconds could change again and keep the
# same time, so its state proves nothing yet (git calls such an entry "racy").
RACY = 2_000_000_000
State = list[str | int]


def cache_folder() -> Path:
    """$DISTIL_CACHE, or `distilsweep` in $XDG_CACHE_HOME or ~/.cache."""
    ours, shared = os.environ.get("DISTIL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(ours) if ours else Path(shared or Path.home() / ".cache") / "distilsweep"


def cached(name: str, state: object, make: Callable[[], Any]) -> Any:
    """`make()`, or the value it returned on this machine for the same `name` and `state`.

    State and value are JSON. A state of None means that nothing shows whether an earlier value
    still holds: then, and without a usable cache, `make` is called every time.
    """
    if state is None:
        return make()
    state = json.loads(json.dumps(state))  # tuples become lists, as in the file compared with
    digest = hashlib.sha256(name.encode()).hexdigest()
    path = cache_folder() / "contents" / digest[:2] / f"{digest}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        entry = json.loads(path.read_bytes())
        if entry["state"] == state:
            return entry["value"]
    value = make()
    with contextlib.suppress(OSError):  # a read-only or full cache costs time, nothing else
        entry = {"name": name, "state": state, "value": value}
        storage.write(str(path), json.dumps(entry).encode())
    return value


def tree_digest(root: Path, names: Iterable[str]) -> str:
    """sha256 over the names (relative to `root`, in order) and the bytes of files.

    Every byte counts. The digest of each folder is cached with the state of its files, so that a
    second call only calls `os.stat`, and a changed file costs reading its own folder again.
    Raises: OSError.
    """
    names = list(names)
    digest, done = hashlib.sha256(), 0
    long = len(names) >= SHOW_PROGRESS_FROM
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        Progress(f"hash {root}", len(names)) if long else nullcontext() as bar,
    ):
        for folder, group in groupby(names, os.path.dirname):
            inside = list(group)
            files = [f"{root}/{name}" for name in inside]
            listing = list(zip(inside, map(storage.state, files), strict=True))
            state = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
            entry = f"files {(root / folder).resolve()}"
            value = cached(entry, state, partial(_hash_all, files, pool))
            digest.update(f"{folder}\n{value}\n".encode())
            done += len(files)
            if bar:
                bar.update(done)
    return digest.hexdigest()


def _hash_all(files: list[str], pool: ThreadPoolExecutor) -> str:
    digest = hashlib.sha256()
    for file, found in zip(files, pool.map(_hash, files), strict=True):
        digest.update(f"{os.path.basename(file)}\n{found}\n".encode())
    return digest.hexdigest()


def _hash(file: str) -> str:
    def attempt() -> str:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return retried(file, attempt)


def verification_state(location: str, claim: str) -> State | None:
    """The state in which a file would be verified, with what it is verified to be (`claim`).

    Take it before the check: a change during the check then does not go unnoticed. None for what
    is not a local file.
    """
    if not storage.is_local(location):
        return None
    try:
        found = storage.state(location)
    except OSError:
        return None
    return [claim, *found] if found else None


def is_verified(location: str, state: State | None) -> bool:
    """Whether this machine has checked `location` in exactly this state before."""
    if state is None:
        return False
    try:
        return _record(location).read_text() == json.dumps(state)
    except OSError:
        return False


def mark_verified(location: str, state: State | None) -> None:
    """Record that `location` was checked in `state`.

    Does nothing where the state is too new to prove anything (`RACY`) or the cache cannot be
    written: the file is then checked again next time.
    """
    if state is None or time.time_ns() - max(map(int, state[2:4])) < RACY:
        return
    with contextlib.suppress(OSError):
        storage.write(str(_record(location)), json.dumps(state).encode())


def _record(location: str) -> Path:
    resolved = storage.local_path(location).resolve()
    name = hashlib.sha256(str(resolved).encode()).hexdigest()
    return cache_folder() / "verified" / f"{name}.json"
