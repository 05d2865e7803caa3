"""What files contain: read through once on a machine, then known while they stay the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from shards.support import storage
from shards.support.progress import Progress
from shards.support.retry import patiently
from shards.support.verified import cache_folder

MANY = 20_000  # files from which on hashing takes long enough to be shown


def remembered(what: str, state: object, make: Callable[[], Any]) -> Any:
    """`make()`, or what it gave on this machine when `state` was the same.

    `what` names one note in the cache; state and value are JSON. A state of None says that nothing
    tells whether the value still holds: then, and without a usable cache, it is made again.
    """
    if state is None:
        return make()
    state = json.loads(json.dumps(state))
    name = hashlib.sha256(what.encode()).hexdigest()
    place = cache_folder() / "contents" / name[:2] / f"{name}.json"
    try:
        note = json.loads(place.read_bytes())
        if note["state"] == state:
            return note["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    value = make()
    partial_file = place.with_name(f"{name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial_file.write_text(json.dumps({"what": what, "state": state, "value": value}))
        partial_file.rename(place)
    except OSError:
        partial_file.unlink(missing_ok=True)
    return value


def tree_digest(root: Path, names: Iterable[str]) -> str:
    """sha256 over the names (relative to `root`, in order) and the bytes of files.

    Every byte counts. Digests are noted folder by folder with each file's size, times of change
    and inode, so that a second call only looks at those (`os.stat`), and a changed file costs its
    own folder again. Raises: OSError.
    """
    names = list(names)
    digest, done = hashlib.sha256(), 0
    many = len(names) >= MANY
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        Progress(f"hash {root}", len(names)) if many else nullcontext() as bar,
    ):
        for folder, group in groupby(names, os.path.dirname):
            inside = list(group)
            files = [f"{root}/{name}" for name in inside]
            listing = list(zip(inside, map(storage.state, files), strict=True))
            state = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
            what = f"files {(root / folder).resolve()}"
            value = remembered(what, state, partial(_hash_all, files, pool))
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

    return patiently(file, attempt)
