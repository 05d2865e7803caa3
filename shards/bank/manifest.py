"""What is on disk: member names, dtypes, the manifest, and what is refused.

A bank is a folder: `manifest.json` and one tar per block of about 1,000 samples,
`train-000000.tar`, `test-000000.tar`, ... Each tar holds one group of columnar members:

    000000.image.npy        uint8   (n, H, W, 3)
    000000.label.npy        int64   (n,)
    000000.params.npy       int64   (n, V, P)   stored draws of each view; unused columns are 0
    000000.embedding.0.npy  float16 (n, V, D)   unit vectors; 0 is the teacher's index
    000000.norm.0.npy       float32 (n, V)      their norms before normalisation
    000000.embedding.1.npy  ...                 a second teacher's, and so on
    000000.key.json         list of n strings

The V views of a split are the views of its arms one after the other; the manifest says which
slice belongs to which arm. The manifest is written last and readers trust nothing else: a tar
is opened only after its sha256 agrees. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from shards.bank.robustness import TeacherRobustness
from shards.measures.corruption import Figures
from shards.support.schema import StrictModel
from shards.teachers.preprocess import Preprocess

FORMAT = "shards/2"
MANIFEST = "manifest.json"
PLAN = "plan.json"
MEMBER = re.compile(
    r"(\d{6})\.(image|label|params|embedding\.\d+|norm\.\d+)\.npy|(\d{6})\.key\.json"
)
DTYPES = {"image": "|u1", "label": "<i8", "params": "<i8", "embedding": "<f2", "norm": "<f4"}
RANKS = {"image": 4, "label": 1, "params": 3, "embedding": 3, "norm": 2}
HEADER = 4096  # bytes that hold any .npy header of ours
Array = NDArray[np.generic]


class DatasetRecord(StrictModel):
    """A data set as a bank holds it.

    `decoder`: version of the picture decoder; None, and then left out of the JSON, where images
    came as arrays, and in banks built before decoders had versions.
    """

    spec: str
    identity: str
    image_size: int
    classes: tuple[str, ...]
    train_samples: int | None
    test_samples: int | None
    counts: dict[str, int]
    decoder: int | None = None

    @model_serializer(mode="wrap")
    def _without_no_decoder(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return {name: v for name, v in fields.items() if name != "decoder" or v is not None}


class TeacherRecord(StrictModel):
    spec: str
    weights_sha256: str
    dim: int
    parameters: int
    preprocess: Preprocess
    precision: Literal["fp32", "bf16", "fp16"]


class ArmRecord(StrictModel):
    """One arm of a split: its views are `start` to `stop` of the split's view axis."""

    arm: str
    columns: tuple[str, ...]
    options: dict[str, str | float | int | bool]
    start: int
    stop: int


class Plan(StrictModel):
    """What determines a bank's bytes. `identity` names it."""

    format: str = FORMAT
    dataset: DatasetRecord
    teachers: tuple[TeacherRecord, ...]
    arms: dict[str, tuple[ArmRecord, ...]]
    templates: tuple[str, ...]
    seed: int
    shard_samples: int = Field(ge=1)
    batch: int = Field(ge=1)
    device: Literal["cpu", "cuda"]

    @property
    def identity(self) -> str:
        """sha256 of the canonical JSON: two banks with one identity hold the same samples."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def views(self, split: str) -> int:
        """Length of a split's view axis."""
        return self.arms[split][-1].stop

    def teacher_index(self, spec: str) -> int:
        """Which embedding column is `spec`'s. Raises: ValueError listing the teachers there."""
        specs = [teacher.spec for teacher in self.teachers]
        if spec not in specs:
            raise ValueError(f"teacher `{spec}` is not in these shards, which have: {specs}")
        return specs.index(spec)


class ShardRecord(StrictModel):
    name: str = Field(pattern=r"^(train|test)-\d{6}\.tar$")
    split: str = Field(pattern=r"^(train|test)$")
    samples: int = Field(ge=1)
    bytes: int = Field(ge=0)
    sha256: str
    keys_sha256: str | None = None  # of the keys in order; older banks have none


class Packed(StrictModel):
    """A float32 array in JSON: little-endian bytes in base64."""

    shape: tuple[int, ...]
    float32: str


class Manifest(StrictModel):
    """What a finished bank is. `class_embeddings`: of each teacher, None without a text tower."""

    plan: Plan
    identity: str
    shards: tuple[ShardRecord, ...]
    class_embeddings: tuple[Packed | None, ...]
    created: dict[str, str]
    checksum: str = ""
    robustness: TeacherRobustness | None = None

    def to_json(self, *besides: str, indent: int | None = None) -> str:
        """JSON without some fields, and without what older banks lack: their checksums hold."""
        left_out: dict[str, Any] = dict.fromkeys(besides, True)
        if not self.robustness:
            left_out["robustness"] = True
        if not any(shard.keys_sha256 for shard in self.shards):
            left_out["shards"] = {"__all__": {"keys_sha256"}}
        return self.model_dump_json(exclude=left_out, indent=indent)

    def teacher_figures(self, draws: int, exactly: bool = False) -> tuple[dict[str, Figures], ...]:
        """Of each teacher, the stored robustness figures {arm: {figure: value}} that suffice.

        Figures are averages over `robustness.draws` draws of each arm. Who reads them needs
        `draws` draws or more; who adds other arms to them (`exactly`) needs that very number,
        because one number holds for the whole table. Empty where they do not suffice.
        """
        stored = self.robustness
        if stored is None or stored.draws < draws or (exactly and stored.draws != draws):
            return tuple({} for _ in self.plan.teachers)
        return stored.teachers

    def digest(self) -> str:
        """sha256 of everything but `checksum`, which stores it."""
        return hashlib.sha256(self.to_json("checksum").encode()).hexdigest()

    def sealed(self) -> Manifest:
        return self.model_copy(update={"checksum": self.digest()})


def arm_record(manifest: Manifest, split: str, arm: str) -> ArmRecord:
    """Where `arm` lies in `split`. Raises: ValueError listing what the bank has."""
    for record in manifest.plan.arms[split]:
        if record.arm == arm:
            return record
    have = ", ".join(record.arm for record in manifest.plan.arms[split])
    raise ValueError(f"arm `{arm}` is not in these shards' {split} split, which has: {have}")


def pack(index: int, arrays: dict[str, Array], keys: tuple[str, ...]) -> bytes:
    """Columns -> the bytes of a tar, the same for the same columns (mtime 0, no owner)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, array in arrays.items():
            part = io.BytesIO()
            expected = np.dtype(DTYPES[name.split(".")[0]])
            npy.write_array(part, np.ascontiguousarray(array, dtype=expected), version=(1, 0))
            _add(tar, f"{index:06d}.{name}.npy", part.getvalue())
        _add(tar, f"{index:06d}.key.json", json.dumps(list(keys)).encode())
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    tar.addfile(info, io.BytesIO(data))


@dataclass(frozen=True)
class Member:
    """Where a column's bytes lie in a tar; `column` is None for the keys."""

    column: str | None
    name: str
    start: int
    stop: int


def members(stream: IO[bytes], size: int, place: str) -> Iterator[Member]:
    """The members of a tar of `size` bytes, in order; nothing but headers is read.

    Raises: ValueError for a member outside the allow-list, a link, a size beyond the file, a
    member that is there twice.
    """
    seen: set[str | None] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                match = MEMBER.fullmatch(info.name)
                if not info.isreg() or match is None:
                    raise ValueError(f"{place}: member {info.name[:80]!r} is refused")
                stop = info.offset_data + info.size
                if info.size < 0 or stop > size:
                    raise ValueError(
                        f"{place}: member `{info.name}` claims {info.size:,} bytes; the file "
                        f"has {size:,}"
                    )
                if match[2] in seen:
                    raise ValueError(f"{place}: member `{info.name}` is there twice")
                seen.add(match[2])
                yield Member(match[2], info.name, info.offset_data, stop)
    except tarfile.TarError as error:
        raise ValueError(f"{place}: not a readable tar ({error})") from None


def unpack(data: bytes, place: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Bytes of a tar -> ({column: array}, keys). Arrays are views into `data`, read-only.

    Raises: those of `members`; ValueError for a header that claims more than is there, columns
    of unequal length.
    """
    arrays: dict[str, Array] = {}
    keys: tuple[str, ...] | None = None
    for member in members(io.BytesIO(data), len(data), place):
        body = memoryview(data)[member.start : member.stop]
        if member.column is None:
            keys = parse_keys(bytes(body), f"{place}: {member.name}")
        else:
            arrays[member.column] = parse_npy(body, member.column, f"{place}: {member.name}")
    if keys is None:
        raise ValueError(f"{place}: no member `NNNNNN.key.json`; not one of our shards")
    for name, array in arrays.items():
        if array.shape[0] != len(keys):
            raise ValueError(f"{place}: {name} has {array.shape[0]} rows for {len(keys)} keys")
    return arrays, keys


def keys_sha256(keys: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def parse_keys(body: bytes, place: str) -> tuple[str, ...]:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(k, str) for k in value):  # pyright: ignore[reportUnknownVariableType]
        raise ValueError(f"{place}: not a JSON list of strings")
    return tuple(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def parse_npy(body: memoryview, column: str, place: str) -> Array:
    """An .npy member -> array, a view of `body`, checked before allocation."""
    shape, dtype, start = parse_header(bytes(body[:HEADER]), len(body), column, place)
    return np.frombuffer(body, dtype=dtype, offset=start).reshape(shape)


def parse_header(
    head: bytes, size: int, column: str, place: str
) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """The first bytes of an .npy member of `size` bytes -> (shape, dtype, where its data start).

    Raises: ValueError where dtype, rank or size are not the column's.
    """
    stream = io.BytesIO(head)
    try:
        if npy.read_magic(stream) != (1, 0):
            raise ValueError("not .npy version 1.0")
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
    except Exception as error:  # a broken header makes NumPy's parser raise nearly anything
        raise ValueError(f"{place}: not a readable .npy header ({error})") from None
    kind = column.split(".", maxsplit=1)[0]
    if dtype != np.dtype(DTYPES[kind]) or len(shape) != RANKS[kind] or fortran or min(shape) < 0:
        order = " in Fortran order" if fortran else ""
        raise ValueError(
            f"{place}: {dtype} of shape {shape}{order}, expected {np.dtype(DTYPES[kind])} with "
            f"{RANKS[kind]} dimensions in C order"
        )
    start = stream.tell()
    if math.prod(shape) * dtype.itemsize != size - start:
        raise ValueError(f"{place}: header claims shape {shape}, the member has {size:,} bytes")
    return shape, dtype, start
