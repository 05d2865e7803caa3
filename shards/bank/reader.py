"""Banks, read: a verified manifest, and shards whose sha256 agreed before they were opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from pydantic import ValidationError

from shards.bank.manifest import FORMAT, MANIFEST, Manifest, Plan, ShardRecord
from shards.bank.members import keys_sha256, unpack
from shards.support import cache, storage
from shards.support.threads import prefetch, single_core_pool

AHEAD = 3  # shards read at once: their latency and sha256 overlap with the caller's work
PIECE = 1 << 18  # numbers whose norms are taken at once


@dataclass(frozen=True)
class Shard:
    """One verified shard, as columns."""

    record: ShardRecord
    arrays: dict[str, np.ndarray]
    keys: tuple[str, ...]


def load_manifest(location: str) -> Manifest:
    """The manifest of a bank. Raises: ValueError when there is none or it is not whole."""
    place = storage.join(location, MANIFEST)
    try:
        data = storage.read(place)
    except FileNotFoundError:
        raise ValueError(
            f"{place} is missing: the build did not finish (run the same command again) or "
            "this is not a folder of shards"
        ) from None
    return parse_manifest(data, place)


def parse_manifest(data: bytes, place: str) -> Manifest:
    """JSON -> Manifest. Raises: ValueError naming the place and the field."""
    told = re.search(rb'"format":\s*"(shards/\d+)"', data)
    if told and told[1].decode() != FORMAT:
        raise ValueError(
            f"{place}: format {told[1].decode()}, this code reads {FORMAT}; delete these shards "
            "and build them again"
        )
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise ValueError(f"{place}: {field}: {first['msg']}; build these shards again") from None
    if manifest.checksum != manifest.digest() or manifest.identity != manifest.plan.identity:
        raise ValueError(
            f"{place}: its checksum is {manifest.checksum[:12]}..., its content gives "
            f"{manifest.digest()[:12]}...; it was edited or damaged, build again"
        )
    return manifest


def load_shard(location: str, manifest: Manifest, record: ShardRecord) -> Shard:
    """Read, compare bytes and sha256, open, and check every value that training would meet.

    What this machine has checked before, and nobody has touched since, is only opened.
    """
    return load_file(storage.join(location, record.name), manifest, record)


def check_shard(location: str, manifest: Manifest, record: ShardRecord) -> Shard:
    """`load_shard`, however often it was checked before."""
    return load_file(storage.join(location, record.name), manifest, record, trust=False)


def claim_of(manifest: Manifest, record: ShardRecord) -> str:
    return f"{record.sha256} of {manifest.identity}"


def load_file(place: str, manifest: Manifest, record: ShardRecord, trust: bool = True) -> Shard:
    state = cache.verification_state(place, claim_of(manifest, record))
    data = read_shard(place)
    if trust and cache.is_verified(place, state):
        return Shard(record, *unpack(data, place))
    shard = check_data(data, place, manifest, record)
    cache.mark_verified(place, state)
    return shard


def read_shard(place: str) -> bytes:
    try:
        return storage.read(place)
    except FileNotFoundError:
        raise ValueError(
            f"shard {place} is missing; run `python -m shards.build` with the same options again"
        ) from None


def check_data(data: bytes, place: str, manifest: Manifest, record: ShardRecord) -> Shard:
    """The columns of a shard's bytes. Raises: ValueError unless they are those of the manifest."""
    if len(data) != record.bytes:
        raise ValueError(
            f"shard {place}: {len(data):,} bytes, the manifest says {record.bytes:,}; delete it "
            "and build again"
        )
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise ValueError(
            f"shard {place}: sha256 {found[:16]}..., the manifest says {record.sha256[:16]}...; "
            "delete it and build again"
        )
    arrays, keys = unpack(data, place)
    _check(place, manifest, record, arrays, keys)
    return Shard(record, arrays, keys)


def column_shapes(plan: Plan, split: str, rows: int) -> dict[str, tuple[int, ...]]:
    """The columns of `rows` samples of a split."""
    views, side = plan.views(split), plan.dataset.image_size
    width = max(len(arm.columns) for arm in plan.arms[split])
    shapes = {"image": (rows, side, side, 3), "label": (rows,), "params": (rows, views, width)}
    for i, teacher in enumerate(plan.teachers):
        shapes[f"embedding.{i}"] = (rows, views, teacher.dim)
        shapes[f"norm.{i}"] = (rows, views)
    return shapes


def _check(
    place: str,
    manifest: Manifest,
    record: ShardRecord,
    arrays: dict[str, np.ndarray],
    keys: tuple[str, ...],
) -> None:
    plan, n = manifest.plan, record.samples
    for name, shape in column_shapes(plan, record.split, n).items():
        if name not in arrays:
            raise ValueError(f"shard {place}: column {name} is missing")
        if arrays[name].shape != shape:
            raise ValueError(f"shard {place}: {name} is {arrays[name].shape}, expected {shape}")
    if len(keys) != n:
        raise ValueError(f"shard {place}: {len(keys)} keys, expected {n}")
    if record.keys_sha256 not in (None, keys_sha256(keys)):
        raise ValueError(
            f"shard {place}: its keys, from `{keys[0]}` to `{keys[-1]}`, are not those that were "
            "built; delete it and build again"
        )
    classes = len(plan.dataset.classes)
    if arrays["label"].min() < 0 or arrays["label"].max() >= classes:
        raise ValueError(f"shard {place}: a label is outside 0 to {classes - 1}")
    for i in range(len(plan.teachers)):
        length_NV = _lengths(arrays[f"embedding.{i}"])
        norm_NV = arrays[f"norm.{i}"]
        bad = ~(np.abs(length_NV - 1) < 5e-3) | ~((norm_NV > 0) & (norm_NV < np.inf))
        if bad.any():
            row = int(np.argwhere(bad)[0, 0])
            raise ValueError(
                f"shard {place}: sample `{keys[row]}` has an embedding that is not a finite unit "
                "vector with a positive norm; build again"
            )


def _lengths(embedding_NVD: np.ndarray) -> np.ndarray:
    """Norms of float16 vectors, float32 (N, V), a piece at a time in memory that is used again.

    torch converts ten times as fast as NumPy does.
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
    """The shards of a split in order. Raises: ValueError also for a key that comes twice."""
    unique = UniqueKeys(location, manifest, split)
    with single_core_pool(AHEAD) as pool:
        load = partial(load_shard, location, manifest)
        for shard in prefetch(pool, load, unique.records, AHEAD):
            unique.add(shard.record, shard.keys)
            yield shard
    unique.finish()


class UniqueKeys:
    """Counts the samples of a split, shard by shard, and refuses a key that comes twice."""

    def __init__(self, location: str, manifest: Manifest, split: str) -> None:
        self.records = [record for record in manifest.shards if record.split == split]
        self._where = f"{location}: {{:,}} {split} samples in all shards, expected {{:,}}"
        self._expected = manifest.plan.dataset.counts[split]
        self._seen: dict[str, str] = {}

    def add(self, record: ShardRecord, keys: tuple[str, ...]) -> None:
        for key in keys:
            if key in self._seen:
                raise ValueError(
                    f"key `{key}` is in shard {self._seen[key]} and in shard {record.name}; "
                    "build again"
                )
            self._seen[key] = record.name

    def finish(self) -> tuple[str, ...]:
        """All keys in order. Raises: ValueError where some are missing."""
        if len(self._seen) != self._expected:
            raise ValueError(self._where.format(len(self._seen), self._expected))
        return tuple(self._seen)
