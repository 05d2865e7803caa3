"""A lock on a folder, so that two processes never write into it at once."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import filelock

from shards.support import storage


@contextlib.contextmanager
def exclusive(folder: str, what: str) -> Iterator[None]:
    """Hold `folder`, described as `what` in errors, for this process alone.

    The lock is the kernel's: it is released when the process ends, even if it is killed. An object
    store has no such lock, and none is taken there; what runs write to it lies in folders named by
    a hash of their content, so that different runs do not meet.

    Raises: ValueError, without waiting, naming the process that holds the lock, or when `folder`
    cannot be written.
    """
    if not storage.is_local(folder):
        yield
        return
    path = storage.local_path(folder) / ".lock"
    lock = filelock.FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        holder = path.read_text().strip()
        raise ValueError(
            f"{what} {folder}: in use by {holder or 'another process'}; wait for it to end, or "
            "choose another folder"
        ) from None
    except OSError as error:
        raise ValueError(f"{what} {folder}: not writable ({error.strerror})") from None
    try:
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()
