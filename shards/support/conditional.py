"""Writes that take place only where nobody else has written, on a disk or an object store.

On a disk a file is created under its name by link(2), which fails where the name is taken. On
object stores the request carries the condition: If-None-Match, and on S3 If-Match. Google's client
(gcsfs) has no condition for replacing an object, so there `replace` compares and then writes.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from shards.support import storage
from shards.support.clients import file_system
from shards.support.retry import retried

ONE_REQUEST = 4 << 30  # bytes; s3fs then sends them by one request, which can carry a condition
REFUSED = ("PreconditionFailed", "pre-conditions", "conditionNotMet")


class ChangedError(RuntimeError):
    """Another process has written the file since its version was read."""


def create(location: str, data: bytes) -> None:
    """Write a new file, whole or not at all.

    data: on an object store it must be unlike what any other process would write there, for an
    object that holds it already is taken for this one's.
    Raises: FileExistsError where there is one; OSError, as `storage.write`.
    """
    if not storage.is_local(location):
        _conditional_put(location, data, mode="create")
        return
    path = storage.local_path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        storage.write(str(temporary), data)
        os.link(temporary, path)
        storage.sync_folder(path.parent)
    except OSError as error:
        raise storage.explain_full_disk(error, path, len(data)) from None
    finally:
        temporary.unlink(missing_ok=True)


def version(location: str) -> str | None:
    """The entity tag of an object, None where there is none. Raises: OSError."""
    try:
        found = storage.state(location)
    except FileNotFoundError:
        return None
    return str(found[1]) if found else ""


def replace(location: str, data: bytes, old: str | None) -> None:
    """Write an object whose `version` is still `old`; None: there is none yet.

    Raises: ChangedError where it is not, unless the object holds `data` already: then another
    process has written the same, or this one has, and the reply was lost. OSError.
    """
    try:
        if old is None:
            _conditional_put(location, data, mode="create")
        elif storage.scheme_of(location) == "s3" and old:
            _conditional_put(location, data, IfMatch=old, chunksize=ONE_REQUEST)
        elif version(location) != old:
            raise FileExistsError(location)
        else:
            storage.write(location, data)
    except FileExistsError:
        raise ChangedError(f"{location}: written by another process meanwhile") from None


def _conditional_put(location: str, data: bytes, **condition: Any) -> None:
    """Write an object under a condition.

    Raises: FileExistsError where it is not met, unless the object holds `data` already; OSError.
    """

    def attempt() -> bool:
        fs, path = file_system(location)
        try:
            fs.pipe_file(path, data, **condition)
        except FileExistsError:
            return False
        except OSError as error:
            # s3fs raises FileExistsError for If-None-Match alone.
            if any(word in f"{error} {error.__cause__}" for word in REFUSED):
                return False
            raise
        return True

    if retried(location, attempt):
        return
    # The reply to a request that was carried out may have been lost: then the next one is refused
    # because of it. It need not be ours that is next: aiohttp sends a request again by itself where
    # a connection that it had kept open is cut.
    with contextlib.suppress(FileNotFoundError):
        if storage.read(location) == data:
            return
    raise FileExistsError(location)
