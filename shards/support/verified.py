"""Which local shards this machine has already checked, so that the next trial need not.

Notes are kept apart from the data, one small file a shard, in $DISTIL_CACHE (default: distilsweep
in $XDG_CACHE_HOME or ~/.cache). One counts for as long as the shard's size, times of change and
inode are what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

from shards.support import storage

RACY = 2_000_000_000  # nanoseconds: file times are coarse, and clocks of file servers differ


def cache_folder() -> Path:
    """Where this machine keeps what can be made again."""
    own, shared = os.environ.get("DISTIL_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(shared or Path.home() / ".cache") / "distilsweep"


def _note(file: Path) -> Path:
    name = hashlib.sha256(str(file.resolve()).encode()).hexdigest()
    return cache_folder() / "verified" / f"{name}.json"


State = list[str | int]


def state_of(location: str, claim: str) -> State | None:
    """What a note would have to say; None for what is not a local file."""
    if not storage.is_local(location):
        return None
    try:
        found = storage.state(location)
    except OSError:
        return None
    return [claim, *found] if found else None


def is_noted(location: str, state: State | None) -> bool:
    """Whether `location` was checked in just this state."""
    if state is None:
        return False
    try:
        text = _note(storage.local_path(location)).read_text()
    except OSError:
        return False
    return text == json.dumps(state)


def note(location: str, state: State | None) -> None:
    """Remember a state, taken before the check; without a writable cache, check again next time.

    What was changed just now is not remembered: a further change could bear the same time.
    """
    if state is None or time.time_ns() - max(map(int, state[2:4])) < RACY:
        return
    place = _note(storage.local_path(location))
    partial = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(state))
        partial.rename(place)
    except OSError:
        partial.unlink(missing_ok=True)
