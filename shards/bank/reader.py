"""Reading a bank: its verified manifest, and shards that are parsed after their checksum agrees."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from pydantic import ValidationError

from shards.bank.checksums import check_checksums
from shards.bank.manifest import FORMAT, MANIFEST, Manifest, Plan, ShardRecord
from shards.bank.members import keys_sha256, unpack
from shards.support import cache, storage
from shards.support.threads import prefetch, single_core_pool

AHEAD = 3  # shards read at once: their latency and checksums overlap with the caller's work
PIECE = 1 << 18  # numbers converted to float32 at once: 1 MiB, which stays in a core's cache


@dataclass(frozen=True)
class Shard:
    """One verified shard, as columns."""

    record: ShardRecord
    arrays: dict[str, np.ndarray]
    keys: tuple[str, ...]


def load_manifest(location: str) -> Manifest:
    """The manifest of a bank. Raises: ValueError when it is missing or damaged."""
    path = storage.join(location, MANIFEST)
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing: the build did not finish (run the same command again), or "
            "this is not a bank"
        ) from None
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: str) -> Manifest:
    """JSON -> Manifest. Raises: ValueError naming `path` and the field."""
    # The format comes first: fields of another format would only give misleading errors.
    found = re.search(rb'"format":\s*"(shards/\d+)"', data)
    if found and found[1].decode() != FORMAT:
        raise ValueError(
            f"{path}: format {found[1].decode()}, this code reads {FORMAT}; delete these shards "
            "and build them again"
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise ValueError(f"{path}: {field}: {first['msg']}; build these shards again") from None
    if manifest.checksum != manifest.digest() or manifest.identity != manifest.plan.identity:
        raise ValueError(
            f"{path}: its checksum is {manifest.checksum[:12]}..., its content gives "
            f"{manifest.digest()[:12]}...; it was edited or damaged, build again"
        )
    return manifest


def load_shard(location: str, manifest: Manifest, record: ShardRecord) -> Shard:
    """Read and parse a shard; verify its size, checksum, columns and values.

    Verification is skipped for a file that this machine has verified before and that has not
    changed since (see `shards.support.cache`). Raises: ValueError naming the shard; OSError.
    """
    return load_file(storage.join(location, record.name), manifest, record)


def check_shard(location: str, manifest: Manifest, record: ShardRecord) -> Shard:
    """`load_shard`, always verifying, with every checksum that the manifest has."""
    return load_file(storage.join(location, record.name), manifest, record, trust=False)


def claim_of(manifest: Manifest, record: ShardRecord) -> str:
    """What a verified shard is verified to be. The manifest belongs to it: columns depend on it."""
    return f"{record.sha256} of {manifest.identity}"


def load_file(path: str, manifest: Manifest, record: ShardRecord, trust: bool = True) -> Shard:
    """The shard in the file `path`, verified unless `trust` and verified before."""
    state = cache.verification_state(path, claim_of(manifest, record))
    data = read_shard(path)
    if trust and cache.is_verified(path, state):
        return Shard(record, *unpack(data, path))
    shard = check_data(data, path, manifest, record, every_checksum=not trust)
    cache.mark_verified(path, state)
    return shard


def read_shard(path: str) -> bytes:
    """The bytes of a shard. Raises: ValueError when it is missing; OSError."""
    try:
        return storage.read(path)
    except FileNotFoundError:
        raise ValueError(
            f"shard {path} is missing; run `python -m shards.build` with the same options again"
        ) from None


def check_data(
    data: bytes, path: str, manifest: Manifest, record: ShardRecord, every_checksum: bool = False
) -> Shard:
    """Parse a shard's bytes. Raises: ValueError unless they are those that the manifest lists."""
    if len(data) != record.bytes:
        raise ValueError(
            f"shard {path}: {len(data):,} bytes, the manifest says {record.bytes:,}; delete it "
            "and build again"
        )
    check_checksums(data, path, record, every_checksum)
    arrays, keys = unpack(data, path)
    _check_columns(path, manifest, record, arrays, keys)
    return Shard(record, arrays, keys)


def column_shapes(plan: Plan, split: str, rows: int) -> dict[str, tuple[int, ...]]:
    """Shape of each column for `rows` samples of a split."""
    views, side = plan.views(split), plan.dataset.image_size
    width = max(len(arm.columns) for arm in plan.arms[split])
    shapes = {"image": (rows, side, side, 3), "label": (rows,), "params": (rows, views, width)}
    for i, teacher in enumerate(plan.teachers):
        shapes[f"embedding.{i}"] = (rows, views, teacher.dim)
        shapes[f"norm.{i}"] = (rows, views)
    return shapes


def _check_columns(
    path: str,
    manifest: Manifest,
    record: ShardRecord,
    arrays: dict[str, np.ndarray],
    keys: tuple[str, ...],
) -> None:
    plan, n = manifest.plan, record.samples
    for name, shape in column_shapes(plan, record.split, n).items():
        if name not in arrays:
            raise ValueError(f"shard {path}: column {name} is missing")
        if arrays[name].shape != shape:
            raise ValueError(f"shard {path}: {name} is {arrays[name].shape}, expected {shape}")
    if len(keys) != n:
        raise ValueError(f"shard {path}: {len(keys)} keys, expected {n}")
    if record.keys_sha256 not in (None, keys_sha256(keys)):
        raise ValueError(
            f"shard {path}: its keys, from `{keys[0]}` to `{keys[-1]}`, are not those that were "
            "built; delete it and build again"
        )
    classes = len(plan.dataset.classes)
    if arrays["label"].min() < 0 or arrays["label"].max() >= classes:
        raise ValueError(f"shard {path}: a label is outside 0 to {classes - 1}")
    for i in range(len(plan.teachers)):
        length_NV = _lengths(arrays[f"embedding.{i}"])
        norm_NV = arrays[f"norm.{i}"]
        # float16 keeps 11 bits, so a stored unit vector's norm is within 5e-4 of 1; ten times that
        # still finds any damage. The comparisons are negated so that NaN counts as bad.
        bad = ~(np.abs(length_NV - 1) < 5e-3) | ~((norm_NV > 0) & (norm_NV < np.inf))
        if bad.any():
            row = int(np.argwhere(bad)[0, 0])
            raise ValueError(
                f"shard {path}: sample `{keys[row]}` has an embedding that is not a finite unit "
                "vector with a positive norm; build again"
            )


def _lengths(embedding_NVD: np.ndarray) -> np.ndarray:
    """Norms of float16 vectors, float32 (N, V).

    Works through pieces that fit a core's cache, in buffers that are reused: a whole float32 copy
    would double the memory of a shard. torch converts ten times as fast as NumPy does.
    """
    flat_MD = embedding_NVD.reshape(-1, embedding_NVD.shape[-1])
    step = max(1, PIECE // flat_MD.shape[1])
    halves = np.empty((step, flat_MD.shape[1]), np.float16)
    floats, length_M = torch.empty(halves.shape), torch.empty(len(flat_MD))
    for start in range(0, len(flat_MD), step):
        rows = slice(0, min(step, len(flat_MD) - start))
        halves[rows] = flat_MD[start : start + step]
        floats[rows] = torch.from_numpy(halves[rows])
        torch.linalg.vector_norm(floats[rows], dim=-1, out=length_M[start : start + step])
    return length_M.view(embedding_NVD.shape[:2]).numpy()


def iter_shards(location: str, manifest: Manifest, split: str) -> Iterator[Shard]:
    """The shards of a split in order. Raises: as `load_shard`; ValueError for a repeated key."""
    unique = UniqueKeys(location, manifest, split)
    with single_core_pool(AHEAD) as pool:
        load = partial(load_shard, location, manifest)
        for shard in prefetch(pool, load, unique.records, AHEAD):
            unique.add(shard.record, shard.keys)
            yield shard
    unique.finish()


class UniqueKeys:
    """Collects the keys of a split, shard by shard; refuses a repeated key and a missing one."""

    def __init__(self, location: str, manifest: Manifest, split: str) -> None:
        self.records = [record for record in manifest.shards if record.split == split]
        self._miscount = f"{location}: {{:,}} {split} samples in all shards, expected {{:,}}"
        self._expected = manifest.plan.dataset.counts[split]
        self._seen: dict[str, str] = {}

    def add(self, record: ShardRecord, keys: tuple[str, ...]) -> None:
        """Raises: ValueError for a key that an earlier shard has, or this one twice."""
        for key in keys:
            if key in self._seen:
                raise ValueError(
                    f"key `{key}` is in shard {self._seen[key]} and in shard {record.name}; "
                    "build again"
                )
            self._seen[key] = record.name

    def finish(self) -> tuple[str, ...]:
        """All keys in order. Raises: ValueError unless there are as many as the manifest counts."""
        if len(self._seen) != self._expected:
            raise ValueError(self._miscount.format(len(self._seen), self._expected))
        return tuple(self._seen)
