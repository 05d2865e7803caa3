"""Index of the samples in a WebDataset tar from any source. Nothing is extracted or unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple, Self

from shards.datasets.left_out import Entry, LeftOut, readable
from shards.support import storage
from shards.support.retry import retried

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
FIELDS = ("label", "cls", "class")
PICKLES = ("pkl", "pickle", "pth", "pt", "pyd")
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")  # as webdataset: to the first dot of the file name
CONTRADICTED = f"samples with several labels, of which .cls, then {', '.join(FIELDS)} is used"
META = re.compile(r"__[^/]*__(/.*)?")  # as webdataset: files and top folders that hold no samples
INTEGER = re.compile(rb"\s*-?\d{1,18}\s*")
MAX_LABEL = 999_999
MAX_LABEL_BYTES = 1 << 20
EXTENSIONS = (b"L", b"K", b"x", b"g", b"X")  # GNU's and PAX's headers whose bodies tarfile reads
MAX_EXTENSION_BYTES = 1 << 20


class ShardIndex(NamedTuple):
    """The samples of one tar, in order; `spans` are where the encoded images lie.

    `sha256` is that of keys, labels and encoded images. `left_out` counts members of no sample.
    """

    sha256: str
    keys: list[str]
    labels: list[int]
    spans: list[tuple[int, int]]
    left_out: list[Entry]


class _Info(tarfile.TarInfo):
    """A tar header whose defects are errors.

    `tarfile` takes a header that it cannot parse for the end of the archive, so that a damaged
    archive looks like a shorter one. It also reads the body of an extension header (a long name,
    say) whatever size the header claims.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type in EXTENSIONS and not 0 <= info.size <= MAX_EXTENSION_BYTES:
            raise tarfile.ReadError(
                f"a header of type {info.type.decode()!r} claims {info.size:,} bytes, more than "
                f"{MAX_EXTENSION_BYTES:,}"
            )
        return info

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except (tarfile.HeaderError, ValueError) as error:  # ValueError: of a sparse file's map
            raise tarfile.ReadError(f"{error} at byte {archive.offset:,}") from None  # pyright: ignore[reportAttributeAccessIssue]


class _Sample:
    """The members of one sample, by suffix, collected while the tar is read."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.members: dict[str, tarfile.TarInfo] = {}

    def image(self, path: str) -> tarfile.TarInfo:
        found = [suffix for suffix in IMAGES if suffix in self.members]
        if len(found) != 1:
            what = "no image" if not found else f"{len(found)} images"
            raise ValueError(
                f"{path}: sample `{self.key}` has {what}; expected one of .{', .'.join(IMAGES)}"
            )
        return self.members[found[0]]

    def labels(self, stream: IO[bytes], path: str) -> list[int]:
        """The integers that may be the label, the one to take first: .cls before .json."""
        found: list[int] = []
        for suffix in LABELS:
            if suffix in self.members:
                info = self.members[suffix]
                here = f"{path}: member `{info.name}`"
                if info.size > MAX_LABEL_BYTES:
                    raise ValueError(f"{here}: a label of {info.size:,} bytes; refused")
                stream.seek(info.offset_data)
                data = stream.read(info.size)
                values = _integers(suffix, data)
                if not found:  # what stands beside a label need not be one
                    _check_label(suffix, data, values, here)
                found += values
        if not found:
            raise ValueError(
                f"{path}: sample `{self.key}` has no label; expected .cls (an integer) or .json"
            )
        return found


def index_shard(location: str) -> ShardIndex:
    """One pass over a tar. Raises: OSError; ValueError naming shard and member.

    Refused: what is no whole uncompressed tar, links and devices, names that are absolute or have
    `..`, pickles, a sample whose members are not together or that comes twice, that has no image or
    several, no label, or a label that is no integer of 0 to 999,999.
    """

    def attempt() -> ShardIndex:
        with storage.open_stream(location) as stream:
            return _index(stream, location)

    return retried(location, attempt)


def _index(stream: IO[bytes], path: str) -> ShardIndex:
    digest = hashlib.sha256()
    index, left_out = ShardIndex("", [], [], [], []), LeftOut()
    seen: set[str] = set()
    for sample in _samples(stream, path, left_out):
        if sample.key in seen:
            raise ValueError(
                f"{path}: sample `{sample.key}` comes again after others; a key must be unique "
                "and its members together"
            )
        seen.add(sample.key)
        (label, *others), info = sample.labels(stream, path), sample.image(path)
        if set(others) - {label}:
            left_out.add(CONTRADICTED, f"{path.rpartition('/')[2]}: {sample.key}")
        stream.seek(info.offset_data)
        image = stream.read(info.size)
        digest.update(f"{sample.key}\n{label} {len(image)}\n".encode() + image)
        index.keys.append(sample.key)
        index.labels.append(label)
        index.spans.append((info.offset_data, info.offset_data + info.size))
    if not index.keys:
        raise ValueError(f"{path}: holds no sample; expected an image and a label of one name")
    return index._replace(sha256=digest.hexdigest(), left_out=left_out.entries)


def _samples(stream: IO[bytes], path: str, left_out: LeftOut) -> Iterator[_Sample]:
    size = stream.seek(0, 2)
    stream.seek(0)
    sample = _Sample("")
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Info) as tar:
            for info in tar:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                parsed = _checked(info, size, path)
                if parsed is None:
                    if info.isreg():
                        file = path.rpartition("/")[2]
                        kind = "members that belong to no sample left out"
                        left_out.add(kind, f"{file}: {info.name}")
                    continue
                key, suffix = parsed
                if key != sample.key:
                    if sample.members:
                        yield sample
                    sample = _Sample(key)
                if suffix in sample.members:
                    raise ValueError(f"{path}: member `{info.name}` occurs twice")
                sample.members[suffix] = info
    except (tarfile.TarError, RecursionError) as error:  # of a thousand such headers in a row
        raise ValueError(
            f"{path}: not a whole, uncompressed tar ({error}); copy or make it again"
        ) from None
    if sample.members:
        yield sample


def _checked(info: tarfile.TarInfo, size: int, path: str) -> tuple[str, str] | None:
    """(key, suffix) of a member; None for what belongs to no sample. Raises: ValueError."""
    here = f"{path}: member '{readable(info.name[:80])}'"
    if info.isdir():
        return None
    if not info.isreg() or info.issparse():
        kind = "a link" if info.islnk() or info.issym() else "no plain file"
        raise ValueError(f"{here} is {kind}; refused")
    if info.name.startswith("/") or ".." in info.name.split("/") or not info.name.isprintable():
        raise ValueError(
            f"{here}: absolute names, `..`, control characters and names that are not UTF-8 are "
            "refused"
        )
    if info.size < 0 or info.offset_data + info.size > size:
        raise ValueError(f"{here} claims {info.size:,} bytes; the file has {size:,}, was it cut?")
    match = NAME.fullmatch(info.name.removeprefix("./"))
    if match is None or META.fullmatch(info.name):
        return None
    suffix = match[2].lower()
    if suffix.rpartition(".")[2] in PICKLES:
        raise ValueError(f"{here} is a pickle; refused: write the shards without such members")
    return match[1], suffix


def _integers(suffix: str, data: bytes) -> list[int]:
    """The integers in a label's file: of JSON those of the fields that may hold the label."""
    if suffix == "cls":
        return [int(data)] if INTEGER.fullmatch(data) else []
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(data)
        fields = found if isinstance(found, dict) else {}
        return [fields[name] for name in FIELDS if type(fields.get(name)) is int]
    return []


def _check_label(suffix: str, data: bytes, values: list[int], path: str) -> None:
    if not values:
        right = "an ASCII integer" if suffix == "cls" else f"an integer field {', '.join(FIELDS)}"
        raise ValueError(f"{path}: {data[:40]!r} is no label; expected {right}")
    if not 0 <= values[0] <= MAX_LABEL:
        raise ValueError(f"{path}: label {values[0]} is outside 0 to {MAX_LABEL:,}")
