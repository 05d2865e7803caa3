"""The columnar members of a shard: written into a tar, found in one, and parsed without pickle.

    000000.image.npy        uint8   (n, H, W, 3)
    000000.label.npy        int64   (n,)
    000000.params.npy       int64   (n, V, P)   drawn parameters of each view; unused columns are 0
    000000.embedding.0.npy  float16 (n, V, D)   unit vectors of teacher 0
    000000.norm.0.npy       float32 (n, V)      their norms before normalisation
    000000.embedding.1.npy  ...                 those of teacher 1, and so on
    000000.key.json         list of n strings

A shard may come from anywhere, so nothing in it is trusted: members outside this list are refused,
and a header is compared with the bytes that are present before anything is allocated.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MEMBER = re.compile(
    r"(\d{6})\.(image|label|params|embedding\.\d+|norm\.\d+)\.npy|(\d{6})\.key\.json"
)
DTYPES = {"image": "|u1", "label": "<i8", "params": "<i8", "embedding": "<f2", "norm": "<f4"}
RANKS = {"image": 4, "label": 1, "params": 3, "embedding": 3, "norm": 2}
HEADER = 4096  # bytes; more than any .npy header of these columns takes
Array = NDArray[Any]


@dataclass(frozen=True)
class Member:
    """Where a column's bytes lie in a tar; `column` is None for the keys."""

    column: str | None
    name: str
    start: int
    stop: int


def column_kind(column: str) -> str:
    """`embedding.0` -> `embedding`: the key of DTYPES and RANKS."""
    return column.split(".", maxsplit=1)[0]


def pack(index: int, arrays: Mapping[str, Array], keys: tuple[str, ...]) -> bytes:
    """Columns -> the bytes of a tar: equal columns give equal bytes (mtime 0, no owner).

    Raises: ValueError naming member and row for a number that an integer column cannot hold.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, array in arrays.items():
            part, member = io.BytesIO(), f"{index:06d}.{name}.npy"
            stored = _as_stored(array, np.dtype(DTYPES[column_kind(name)]), member)
            npy.write_array(part, stored, version=(1, 0))
            add_member(tar, member, part.getvalue())
        add_member(tar, f"{index:06d}.key.json", json.dumps(list(keys)).encode())
    return buffer.getvalue()


def _as_stored(array: Array, dtype: np.dtype[Any], member: str) -> Array:
    """The array in its column's dtype; floats are rounded to it."""
    with np.errstate(invalid="ignore"):  # of a NaN as an integer, which is refused below
        stored = np.ascontiguousarray(array, dtype=dtype)
    if dtype.kind != "f" and not np.can_cast(array.dtype, dtype):
        lost = np.argwhere(stored != array)
        if len(lost):
            raise ValueError(
                f"{member}: row {lost[0][0]} has {array[tuple(lost[0])]} ({array.dtype}), which "
                f"{dtype} cannot hold"
            )
    return stored


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file whose header depends on name and size alone."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    tar.addfile(info, io.BytesIO(data))


def members(stream: IO[bytes], size: int, where: str) -> Iterator[Member]:
    """The members of a tar of `size` bytes, in order. Only the tar's headers are read.

    Raises: ValueError, beginning with `where`, for a member outside the allow-list, a link, a size
    beyond the end of the file, a column that occurs twice, and what is not a tar.
    """
    seen: set[str | None] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                match = MEMBER.fullmatch(info.name)
                if not info.isreg() or match is None:
                    raise ValueError(f"{where}: member {info.name[:80]!r} is refused")
                stop = info.offset_data + info.size
                if info.size < 0 or stop > size:
                    raise ValueError(
                        f"{where}: member `{info.name}` claims {info.size:,} bytes; the file "
                        f"has {size:,}"
                    )
                if match[2] in seen:
                    raise ValueError(f"{where}: member `{info.name}` occurs twice")
                seen.add(match[2])
                yield Member(match[2], info.name, info.offset_data, stop)
    except tarfile.TarError as error:
        raise ValueError(f"{where}: not a readable tar ({error})") from None


def unpack(data: bytes, where: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Bytes of a tar -> ({column: array}, keys). Arrays are read-only views of `data`.

    Raises: those of `members`; ValueError for a header that claims more than is present, and for
    columns of unequal length.
    """
    arrays: dict[str, Array] = {}
    keys: tuple[str, ...] | None = None
    for member in members(io.BytesIO(data), len(data), where):
        body = memoryview(data)[member.start : member.stop]
        if member.column is None:
            keys = parse_keys(bytes(body), f"{where}: {member.name}")
        else:
            arrays[member.column] = parse_npy(body, member.column, f"{where}: {member.name}")
    if keys is None:
        raise ValueError(f"{where}: no member `NNNNNN.key.json`; this is not a shard of a bank")
    for name, array in arrays.items():
        if array.shape[0] != len(keys):
            raise ValueError(f"{where}: {name} has {array.shape[0]} rows for {len(keys)} keys")
    return arrays, keys


def keys_sha256(keys: tuple[str, ...]) -> str:
    """sha256 of the keys in order, as the manifest stores it."""
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def parse_keys(body: bytes, where: str) -> tuple[str, ...]:
    """The key member. Raises: ValueError unless it is a JSON list of strings."""
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    keys = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError(f"{where}: not a JSON list of strings")
    return tuple(cast("list[str]", keys))


def parse_npy(body: memoryview, column: str, where: str) -> Array:
    """An .npy member -> array, a view of `body`. Raises: those of `parse_header`."""
    shape, dtype, start = parse_header(bytes(body[:HEADER]), len(body), column, where)
    return np.frombuffer(body, dtype=dtype, offset=start).reshape(shape)


def parse_header(
    head: bytes, size: int, column: str, where: str
) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """The first bytes of an .npy member of `size` bytes -> (shape, dtype, offset of its data).

    Raises: ValueError unless dtype, number of dimensions and size are the column's. Object arrays,
    which NumPy would unpickle, are refused by their dtype.
    """
    stream = io.BytesIO(head)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("not .npy version 1.0")
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
    except Exception as error:  # on damaged headers NumPy's parser raises almost any type
        raise ValueError(f"{where}: not a readable .npy header ({error})") from None
    kind = column_kind(column)
    if dtype != np.dtype(DTYPES[kind]) or len(shape) != RANKS[kind] or fortran or min(shape) < 0:
        order = " in Fortran order" if fortran else ""
        raise ValueError(
            f"{where}: {dtype} of shape {shape}{order}, expected {np.dtype(DTYPES[kind])} with "
            f"{RANKS[kind]} dimensions in C order"
        )
    start = stream.tell()
    if math.prod(shape) * dtype.itemsize != size - start:
        raise ValueError(f"{where}: header claims shape {shape}, the member has {size:,} bytes")
    return shape, dtype, start
