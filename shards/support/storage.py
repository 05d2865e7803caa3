"""Files that are either complete or absent, on a local disk or an object store (fsspec).

A location is a path or a URL of an allowed scheme. A local write goes to a temporary file beside
its target, is fsynced and renamed, and then the folder is fsynced; a put to an object store is
atomic by itself. Every operation on an object store, and every read of a disk, is tried again while
its error may pass: see `shards.support.retry`.
"""

from __future__ import annotations

import errno
import glob as local_glob
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from shards.support import objects
from shards.support.clients import file_system
from shards.support.command import one_line, without_password
from shards.support.retry import retried

REMOTE = ("s3", "gs", "https")
READ_AHEAD = 1 << 23
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def scheme_of(location: str) -> str:
    """`file` for a path; otherwise an allowed scheme. Raises: ValueError for any other."""
    head, colon, rest = location.partition(":")
    # `pipe:COMMAND` is refused by name: webdataset would run it as a shell command.
    if colon and (rest.startswith("//") or head == "pipe"):
        if head not in (*REMOTE, "file"):
            raise ValueError(
                f"location `{one_line(without_password(location))}`: scheme `{one_line(head)}:` is "
                "refused; use a path, s3://, gs:// or https://"
            )
        return head
    return "file"


def may_answer_later(store: str, error: Exception) -> bool:
    """Whether work on `store` that ended with this error may succeed when it is begun again.

    So it is where an object store did not answer, and not where it refused or a file is missing.
    """
    lasting = isinstance(error, FileNotFoundError | PermissionError)
    return isinstance(error, OSError) and not lasting and not is_local(store)


def is_local(location: str) -> bool:
    """Whether `location` is a path. Raises: ValueError for a scheme that is not allowed."""
    return scheme_of(location) == "file"


def local_path(location: str) -> Path:
    """The Path of a local location (`file://` prefix allowed)."""
    return Path(location.removeprefix("file://"))


def local_only(option: str, location: str) -> Path:
    """The Path that `option` gives. Raises: ValueError for a URL, naming the option."""
    if not is_local(location):
        raise ValueError(f"{option} {without_password(location)}: a URL; expected a path")
    return local_path(location)


def join(location: str, *parts: str) -> str:
    """`location` and the names below it, with single slashes."""
    return "/".join([location.rstrip("/"), *parts])


def read(location: str) -> bytes:
    """The whole content. Raises: FileNotFoundError, OSError."""
    if not is_local(location):
        return objects.read(location)
    return retried(location, lambda: local_path(location).read_bytes())


def read_ranges(location: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range [start, stop), in the order given.

    Ranges that lie close together share one request to an object store.

    Raises: FileNotFoundError; OSError, also where the file ends before a range does.
    """
    if not ranges:
        return []

    def attempt() -> list[bytes]:
        with local_path(location).open("rb") as stream:
            return [os.pread(stream.fileno(), b - a, a) for a, b in ranges]

    local = is_local(location)
    parts = retried(location, attempt) if local else objects.read_ranges(location, ranges)
    for (a, b), part in zip(ranges, parts, strict=True):
        if len(part) != b - a:
            raise OSError(f"{location}: ends before byte {b:,}; it was truncated or replaced")
    return parts


def open_stream(location: str) -> IO[bytes]:
    """A seekable stream for one pass. Do the whole pass inside `shards.support.retry.retried`."""
    if is_local(location):
        return local_path(location).open("rb")
    fs, path = file_system(location)
    return fs.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead")


def state(location: str) -> list[str | int] | None:
    """A value that changes whenever the bytes do, found without reading them.

    Locally size, times of modification and inode change, and inode; remotely size and the entity
    tag. None where a store gives no tag.
    """
    if is_local(location):
        found = local_path(location).stat()
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    return objects.state(location)


def exists(location: str) -> bool:
    """Whether there is a file or folder. Raises: OSError where the store does not answer."""
    if is_local(location):
        return local_path(location).exists()
    return objects.exists(location)


def names(location: str) -> list[str]:
    """Sorted names inside a folder; empty when there is no such folder."""
    if is_local(location):
        path = local_path(location)
        return sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    return objects.names(location)


def below(location: str) -> list[str]:
    """Sorted paths, relative to `location`, of all files below it, by one listing.

    An object store lists a thousand files a request, however many folders they are in.
    """
    if is_local(location):
        root = local_path(location)
        found = (Path(folder, name) for folder, _, files in os.walk(root) for name in files)
        return sorted(str(path.relative_to(root)) for path in found)
    return objects.below(location)


def glob(pattern: str) -> list[str]:
    """Sorted locations that match `*`, `?`, `[...]` and `**`."""
    if is_local(pattern):
        return sorted(local_glob.glob(str(local_path(pattern)), recursive=True))
    return objects.glob(pattern)


def write(location: str, data: bytes, staging: Path | None = None) -> None:
    """Write `data` to `location` atomically: a reader finds the old file or the new one.

    staging: an existing folder on the same local disk, in which the temporary file is made instead
    of beside the target. Not used for URLs.

    Raises: OSError, with bytes needed and bytes free when the disk is full. The old file is then
    untouched and nothing else is left behind.
    """
    if not is_local(location):
        objects.write(location, data)
        return
    path = local_path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, staging)
    try:
        _write_synced(temporary, data)
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain_full_disk(error, path, len(data)) from None


def write_folder(location: str, files: dict[str, bytes], staging: Path | None = None) -> None:
    """Write a folder, replacing an old one: a temporary sibling is filled and renamed.

    An object store has no rename: there the files are put in order, so give the one that marks the
    folder as complete, such as a manifest, last.

    staging: as of `write`. The old folder is moved into it as well. Raises: as `write`.
    """
    if not is_local(location):
        for name, data in files.items():
            write(join(location, name), data)
        return
    path = local_path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, staging)
    # rename(2) does not replace a folder that holds files, so the old one is first moved aside.
    old = temporary.with_suffix(".old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, data in files.items():
            _write_synced(temporary / name, data)
        sync_folder(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise explain_full_disk(error, path, sum(map(len, files.values()))) from None


def _temporary(path: Path, staging: Path | None) -> Path:
    return (staging or path.parent) / f".{path.name}.{os.getpid()}.tmp"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(location: str, value: Any) -> None:
    """Write JSON with sorted keys. Raises: as `write`."""
    write(location, encoded_json(value))


def encoded_json(value: Any) -> bytes:
    """The bytes that `write_json` writes."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def explain_full_disk(error: OSError, path: Path, needed: int | None = None) -> OSError:
    """`error` itself, or, when space ran out, one with the bytes needed and the bytes free.

    needed: None where it is not known.
    """
    if error.errno not in NO_SPACE:
        return error
    sizes = f"{shutil.disk_usage(path.parent).free:,} bytes free"
    if needed is not None:
        sizes = f"{needed:,} bytes needed, {sizes}"
    return OSError(
        error.errno,
        f"no space to write {path}: {sizes}; make room, then run the same command again",
    )


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable: they survive a power failure from now on."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete(location: str) -> None:
    """Remove a file, or a folder with everything in it; nothing happens where there is none."""
    if not is_local(location):
        objects.delete(location)
    elif local_path(location).is_dir():
        shutil.rmtree(local_path(location))
    else:
        local_path(location).unlink(missing_ok=True)
