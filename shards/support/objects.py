"""Operations on an object store, of which `shards.support.storage` makes use for URLs.

Each is tried again while its error may pass (`shards.support.retry`), and each attempt asks for the
client anew, because one with expired credentials is replaced in between.
"""

from __future__ import annotations

import bisect
import contextlib
from typing import Any

from fsspec.utils import merge_offset_ranges

from shards.support.clients import file_system
from shards.support.retry import retried
from shards.support.store_errors import codes_of

# Two byte ranges with a gap of at most MERGE_GAP between them are read by one request: a request
# takes some 20 ms, in which a gigabit link moves far more than the gap. MERGE_MAX bounds what one
# request holds in memory.
MERGE_GAP = 1 << 16
MERGE_MAX = 1 << 25


def read(url: str) -> bytes:
    """The whole content. Raises: FileNotFoundError, OSError."""

    def attempt() -> bytes:
        fs, path = file_system(url)
        return fs.cat_file(path)

    return retried(url, attempt)


def read_ranges(url: str, ranges: list[tuple[int, int]]) -> list[bytes]:
    """The bytes of each range; fewer where the object ends before. Raises: as `read`."""

    def attempt() -> list[bytes]:
        fs, path = file_system(url)
        starts, stops = merged_ranges(ranges)
        blocks = fs.cat_ranges([path] * len(starts), starts, stops, on_error="raise")
        parts = []
        for a, b in ranges:
            i = bisect.bisect_right(starts, a) - 1  # the last block that begins at or before `a`
            parts.append(blocks[i][a - starts[i] : b - starts[i]])
        return parts

    return retried(url, attempt)


def merged_ranges(ranges: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Starts and stops of the requests that cover disjoint `ranges`, in ascending order."""
    starts, stops = (list(ends) for ends in zip(*ranges, strict=True))
    same_file = [""] * len(ranges)
    _, starts, stops = merge_offset_ranges(same_file, starts, stops, MERGE_GAP, MERGE_MAX)
    return starts, [stop for stop in stops if stop is not None]


def state(url: str) -> list[str | int] | None:
    """Size and entity tag; None where the store gives no tag. Raises: as `read`."""

    def attempt() -> dict[str, Any]:
        fs, path = file_system(url)
        return fs.info(path)

    info = retried(url, attempt)
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    return [info["size"], str(tag)] if tag else None


def exists(url: str) -> bool:
    """Whether there is an object, or one below. Raises: OSError."""

    def attempt() -> bool:
        fs, path = file_system(url)
        if not url.startswith("https:"):
            return fs.exists(path)
        try:
            return fs.exists(path, strict=True)  # otherwise False, too, where nothing answers
        except Exception as error:
            status, _ = codes_of(error)
            if 400 <= status < 500 and status not in (408, 429):
                return False
            raise

    return retried(url, attempt)


def names(url: str) -> list[str]:
    """Sorted names inside a folder; empty where there is none. Raises: OSError."""

    def attempt() -> list[str]:
        fs, path = file_system(url)
        return fs.ls(path, detail=False)

    try:
        found = retried(url, attempt)
    except FileNotFoundError:
        return []
    return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in found)


def below(url: str) -> list[str]:
    """Sorted paths, relative to `url`, of all objects below it. Raises: OSError."""

    def attempt() -> list[str]:
        fs, path = file_system(url)
        prefix = path.rstrip("/") + "/"
        return sorted(str(p).removeprefix(prefix) for p in fs.find(path))

    return retried(url, attempt)


def glob(pattern: str) -> list[str]:
    """Sorted URLs that match. Raises: OSError."""

    def attempt() -> list[str]:
        fs, path = file_system(pattern)
        return sorted(fs.unstrip_protocol(p) for p in fs.glob(path))

    return retried(pattern, attempt)


def write(url: str, data: bytes) -> None:
    """Write an object. Where the reply to a put is lost, the next one writes the same again.

    Raises: ValueError for https://; OSError.
    """

    def attempt() -> None:
        fs, path = file_system(url)
        fs.pipe_file(path, data)

    try:
        retried(url, attempt)
    except NotImplementedError:
        raise ValueError(
            f"location `{url}`: https:// can only be read; write to a path, s3:// or gs://"
        ) from None


def delete(url: str) -> None:
    """Remove an object and all below it; nothing happens where there is none. Raises: OSError."""

    def attempt() -> None:
        # One request each: s3fs ignores what a bulk request could not delete.
        fs, path = file_system(url)
        for found in fs.find(path):
            with contextlib.suppress(FileNotFoundError):  # by an attempt whose reply was lost
                fs.rm_file(found)

    retried(url, attempt)
