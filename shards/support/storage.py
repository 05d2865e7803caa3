"""Files that are either whole or not there, on a local disk or an object store (fsspec).

A location is a path or a URL of an allowed scheme. Local writes go to a temporary sibling, are
fsynced, renamed, and the folder is fsynced; an object store's put is atomic by itself. Reads are
tried again a few times where the error may pass: see `shards.support.retry`.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from glob import glob as local_glob
from pathlib import Path
from typing import IO, Any

from shards.support.retry import described_errors, retried

REMOTE = ("s3", "gs", "https")
MERGE_GAP = 1 << 16  # bytes between two ranges that are cheaper to read than a second request
MERGE_MAX = 1 << 25
READ_AHEAD = 1 << 23


def scheme_of(location: str) -> str:
    """`file` for a path; otherwise an allowed scheme. Raises: ValueError for any other."""
    head, colon, rest = location.partition(":")
    if colon and (rest.startswith("//") or head == "pipe"):
        if head not in (*REMOTE, "file"):
            raise ValueError(
                f"location `{location}`: scheme `{head}:` is refused; use a path, s3://, gs:// "
                "or https://"
            )
        return head
    return "file"


def is_local(location: str) -> bool:
    return scheme_of(location) == "file"


def local_path(location: str) -> Path:
    """The Path of a local location (`file://` prefix allowed)."""
    return Path(location.removeprefix("file://"))


def join(location: str, *parts: str) -> str:
    return "/".join([location.rstrip("/"), *parts])


def _remote(location: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        extra = {"s3": "aws", "gs": "gcp"}.get(scheme_of(location), "aws")
        raise ValueError(
            f"location `{location}`: {error}; install it with pip install '.[{extra}]'"
        ) from None
    return fs, path


def read(location: str) -> bytes:
    """The whole content. Raises: FileNotFoundError, OSError."""

    def attempt() -> bytes:
        if is_local(location):
            return local_path(location).read_bytes()
        fs, path = _remote(location)
        return fs.cat_file(path)

    return retried(location, attempt)


def read_ranges(location: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of each [start, stop), in the order asked; neighbours share a remote request.

    Raises: FileNotFoundError, OSError, also where the file ends before a range does.
    """

    def attempt() -> list[bytes]:
        if is_local(location):
            with local_path(location).open("rb") as stream:
                return [os.pread(stream.fileno(), b - a, a) for a, b in ranges]
        fs, path = _remote(location)
        spans = _merged(ranges)
        starts, stops = zip(*spans, strict=True)
        blocks = fs.cat_ranges([path] * len(spans), list(starts), list(stops), on_error="raise")
        found = []
        for a, b in ranges:
            at = bisect.bisect_right(starts, a) - 1
            found.append(blocks[at][a - starts[at] : b - starts[at]])
        return found

    parts = retried(location, attempt) if ranges else []
    for (a, b), part in zip(ranges, parts, strict=True):
        if len(part) != b - a:
            raise OSError(f"{location}: ends before byte {b:,}; it was cut or replaced meanwhile")
    return parts


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for a, b in sorted(ranges):
        if spans and a - spans[-1][1] <= MERGE_GAP and b - spans[-1][0] <= MERGE_MAX:
            spans[-1] = (spans[-1][0], max(b, spans[-1][1]))
        else:
            spans.append((a, b))
    return spans


def open_stream(location: str) -> IO[bytes]:
    """A seekable stream for one pass. Put the pass into `shards.support.retry.retried`."""
    if is_local(location):
        return local_path(location).open("rb")
    fs, path = _remote(location)
    return fs.open(path, "rb", block_size=READ_AHEAD, cache_type="readahead")


def state(location: str) -> list[str | int] | None:
    """What changes whenever the bytes do, without reading them; None where nothing tells.

    Locally size, times of change and inode; remotely size and the store's entity tag.
    """
    if is_local(location):
        found = os.stat(location.removeprefix("file://"))
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    fs, path = _remote(location)
    info = retried(location, lambda: fs.info(path))
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    return [info["size"], str(tag)] if tag else None


def exists(location: str) -> bool:
    if is_local(location):
        return local_path(location).exists()
    fs, path = _remote(location)
    fs.invalidate_cache()
    return retried(location, lambda: fs.exists(path))


def names(location: str) -> list[str]:
    """Sorted names inside a folder; empty when there is no such folder."""
    if is_local(location):
        path = local_path(location)
        return sorted(p.name for p in path.iterdir()) if path.is_dir() else []
    fs, path = _remote(location)
    fs.invalidate_cache()
    if not retried(location, lambda: fs.exists(path)):
        return []
    found = retried(location, lambda: fs.ls(path, detail=False))
    return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in found)


def glob(pattern: str) -> list[str]:
    """Sorted locations that match `*`, `?`, `[...]` and `**`."""
    if is_local(pattern):
        return sorted(local_glob(str(local_path(pattern)), recursive=True))
    fs, path = _remote(pattern)
    fs.invalidate_cache()
    return sorted(fs.unstrip_protocol(p) for p in retried(pattern, lambda: fs.glob(path)))


def write(location: str, data: bytes) -> None:
    """Publish `data` at `location`, whole or not at all.

    Raises: OSError with bytes needed and bytes free when the disk is full; nothing stays behind.
    """
    if not is_local(location):
        fs, path = _remote(location)
        try:
            with described_errors(location):
                fs.pipe_file(path, data)
        except NotImplementedError:
            raise ValueError(
                f"location `{location}`: https:// can only be read; write to a path, s3:// or gs://"
            ) from None
        return
    path = local_path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise full_disk(error, path, len(data)) from None


def write_folder(location: str, files: dict[str, bytes]) -> None:
    """Publish a folder whole: a temporary sibling renamed, or remotely the last file last."""
    if not is_local(location):
        for name, data in files.items():
            write(join(location, name), data)
        return
    path = local_path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside = partial.with_suffix(".old")
    for leftover in (partial, aside):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir()
        for name, data in files.items():
            with (partial / name).open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        sync_folder(partial)
        if path.exists():
            path.rename(aside)
        partial.rename(path)
        sync_folder(path.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise full_disk(error, path, sum(map(len, files.values()))) from None


def full_disk(error: OSError, path: Path, needed: int) -> OSError:
    """`error` itself, or, when space ran out, one that says how much is needed and free."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    free = shutil.disk_usage(path.parent).free
    return OSError(
        error.errno,
        f"no space to write {path}: {needed:,} bytes needed, {free:,} bytes free; make room, then "
        "run the same command again",
    )


def write_json(location: str, value: Any) -> None:
    write(location, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def delete(location: str) -> None:
    """Remove a file or a whole folder, if there."""
    if not is_local(location):
        fs, path = _remote(location)
        with described_errors(location):
            if fs.exists(path):
                fs.rm(path, recursive=True)
    elif local_path(location).is_dir():
        shutil.rmtree(local_path(location))
    else:
        local_path(location).unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: str, what: str) -> Iterator[None]:
    """Hold `folder` for one process. Raises: ValueError naming the holder, at once.

    A local lock (flock): it ends with its process, however that ends. On an object store there
    is no lock to take; there, runs are kept apart by their content-hashed names.
    """
    if not is_local(folder):
        yield
        return
    path = local_path(folder) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
    except OSError as error:
        raise ValueError(f"{what} {folder}: not writable ({error.strerror})") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            raise ValueError(
                f"{what} {folder}: in use by {holder}; wait for it to end, or choose another folder"
            ) from None
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield
