"""Columns that stay on disk: rows are read when they are indexed, so memory is bounded.

A bank that does not fit in memory is read in the same sample order as one that does, so results are
the same. That is possible because a row is a range of bytes in an uncompressed tar whose offset
follows from the member's header: any row costs one read, in any order.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shards.bank.members import HEADER, members, parse_header, parse_keys
from shards.support.retry import retried

OPEN_FILES = 64  # well below the usual limit of 1,024 descriptors in a process


@dataclass(frozen=True)
class ColumnPart:
    """One column in one shard: data of rows of shape `row` from byte `start` of `file` on."""

    file: Path
    start: int
    row: tuple[int, ...]
    dtype: np.dtype

    def whole(self, rows: int) -> np.ndarray:
        """The first `rows` rows: (rows, *row). Raises: OSError."""
        out = np.empty((rows, *self.row), dtype=self.dtype)
        FileHandles().read(self.file, out.reshape(-1).view(np.uint8).data, self.start)
        return out


class FileHandles:
    """Open file descriptors by path; beyond OPEN_FILES the least recently used is closed.

    Threads may read at once. A descriptor that is read from is lent: it is not in the table, so no
    other thread closes it, upon which its number could be that of another file.

    keep: what has to live as long as files are opened, such as the reader of a cache.
    """

    def __init__(self, keep: object = None) -> None:
        self._keep = keep
        self._lock = threading.Lock()  # never held while a file is opened or read
        self._idle: OrderedDict[Path, int] = OrderedDict()
        self._lent = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # A descriptor's number means nothing in another process, and a copy must not close it.
        return FileHandles, (self._keep,)

    def read(self, file: Path, into: memoryview, start: int) -> None:
        """Fill `into` with the bytes from `start` on. Raises: OSError naming the file.

        A transient error is retried with a newly opened file: the descriptor of a network mount
        that went away stays stale for good.
        """

        def attempt() -> None:
            handle = self._take(file)
            try:
                handle = os.open(file, os.O_RDONLY) if handle is None else handle
                done = 0
                while done < len(into):
                    got = os.preadv(handle, [into[done:]], start + done)
                    if not got:
                        raise OSError(f"shard {file}: truncated while it was read; start again")
                    done += got
            except BaseException:
                self._drop(file, handle)
                raise
            self._put_back(file, handle)

        retried(str(file), attempt)

    def _take(self, file: Path) -> int | None:
        """Lend the descriptor of `file`; None where it has to be opened, for which there is room.

        As many as there are threads are lent at most, and these alone may exceed OPEN_FILES.
        """
        with self._lock:
            handle = self._idle.pop(file, None)
            self._lent += 1
            while self._idle and len(self._idle) + self._lent > OPEN_FILES:
                os.close(self._idle.popitem(last=False)[1])
        return handle

    def _put_back(self, file: Path, handle: int) -> None:
        with self._lock:
            self._lent -= 1
            other = self._idle.pop(file, None)  # of a thread that read the same file meanwhile
            self._idle[file] = handle
        if other is not None:
            os.close(other)

    def _drop(self, file: Path, handle: int | None) -> None:
        """Close what is open of a file that could not be read, but for what others are lent."""
        with self._lock:
            self._lent -= 1
            other = self._idle.pop(file, None)
        for each in (handle, other):
            if each is not None:
                os.close(each)

    def __del__(self) -> None:
        for handle in self._idle.values():
            os.close(handle)


@dataclass(frozen=True)
class StreamedColumn:
    """A column (N, ...) whose rows are read from shards.

    `column[index_B]` gives rows and `column[index_B, view_B]` one view of each, as indexing a NumPy
    array would. Parts of it can be hidden: `views` is the visible slice of the second axis, `width`
    the visible length of the last one (both None for columns without views), and `rows` the visible
    samples (None: all).
    """

    files: FileHandles
    parts: tuple[ColumnPart, ...]
    firsts: np.ndarray  # sample number of each shard's first row, ascending
    count: int
    row: tuple[int, ...]
    dtype: np.dtype
    views: slice | None = None
    width: int | None = None
    rows: np.ndarray | None = None

    @classmethod
    def from_parts(
        cls, parts: list[ColumnPart], firsts: np.ndarray, count: int, files: FileHandles
    ) -> StreamedColumn:
        """All rows of a column whose shards hold `parts`, the first row of each being `firsts`."""
        return cls(files, tuple(parts), firsts, count, parts[0].row, parts[0].dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the visible part."""
        if self.views is None:
            return (self.count, *self.row)
        tail = self.row[1:] if self.width is None else (*self.row[1:-1], self.width)
        return (self.count, self.views.stop - self.views.start, *tail)

    def __len__(self) -> int:
        return self.count

    def select(self, start: int, stop: int, width: int | None = None) -> StreamedColumn:
        """The same column with views `start` to `stop` and the first `width` entries of each."""
        return replace(self, views=slice(start, stop), width=width)

    def take(self, rows: np.ndarray) -> StreamedColumn:
        """The samples `rows` of this column, renumbered from 0."""
        shown = rows if self.rows is None else self.rows[rows]
        return replace(self, count=len(rows), rows=shown)

    def __getitem__(self, at: Any) -> np.ndarray:
        index, view = (*at, None)[:2] if isinstance(at, tuple) else (at, None)
        index_B = index if isinstance(index, np.ndarray) else np.arange(self.count)[index]
        index_B = index_B if self.rows is None else self.rows[index_B]
        if view is None:
            out = self._read(index_B, 0, self.row)
            if self.views is not None:
                out = out[:, self.views]
        else:
            view_B = np.broadcast_to(np.asarray(view), index_B.shape)
            assert self.views is not None
            out = self._read(index_B, view_B + self.views.start, self.row[1:])
        return out if self.width is None else out[..., : self.width]

    def _read(
        self, index_B: np.ndarray, part_B: np.ndarray | int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """Part `part_B` (counted in parts of `shape`) of rows `index_B`: (B, *shape).

        Reads in the order on disk, which spares a hard disk or a network mount random seeks.
        """
        out = np.empty((len(index_B), *shape), dtype=self.dtype)
        each = int(np.prod(shape)) * self.dtype.itemsize
        step = int(np.prod(self.row)) * self.dtype.itemsize
        shard_B = np.searchsorted(self.firsts, index_B, side="right") - 1
        offset_B = (index_B - self.firsts[shard_B]) * step + np.asarray(part_B) * each
        flat = out.reshape(len(index_B), -1).view(np.uint8)
        for i in np.lexsort((offset_B, shard_B)):
            part = self.parts[shard_B[i]]
            self.files.read(part.file, flat[i].data, part.start + int(offset_B[i]))
        return out


def find_columns(file: Path) -> tuple[dict[str, ColumnPart], tuple[str, ...]]:
    """The columns of a verified shard and its keys. Only headers and keys are read.

    Raises: OSError naming the file.
    """
    return retried(str(file), lambda: _find_columns(file))


def _find_columns(file: Path) -> tuple[dict[str, ColumnPart], tuple[str, ...]]:
    found: dict[str, ColumnPart] = {}
    keys: tuple[str, ...] = ()
    with file.open("rb") as stream:
        handle = stream.fileno()
        for member in members(stream, os.fstat(handle).st_size, f"shard {file}"):
            length, where = member.stop - member.start, f"shard {file}: {member.name}"
            if member.column is None:
                keys = parse_keys(os.pread(handle, length, member.start), where)
                continue
            head = os.pread(handle, min(HEADER, length), member.start)
            shape, dtype, skip = parse_header(head, length, member.column, where)
            found[member.column] = ColumnPart(file, member.start + skip, shape[1:], dtype)
    return found, keys
