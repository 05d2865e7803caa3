"""Banks, read: a verified manifest, and shards whose sha256 agreed before they were opened."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from shards import storage, verified
from shards.format import (
    MANIFEST,
    Manifest,
    ShardRecord,
    parse_manifest,
    unpack,
)

AHEAD = 3  # shards read at once


@dataclass(frozen=True)
class Shard:
    """One verified shard, as columns."""

    record: ShardRecord
    arrays: dict[str, np.ndarray]
    keys: tuple[str, ...]


def load_manifest(location: str) -> Manifest:
    """The manifest of a bank. Errors: ValueError when there is none or it is not whole."""
    place = storage.join(location, MANIFEST)
    try:
        data = storage.read(place)
    except FileNotFoundError:
        raise ValueError(
            f"{place} is missing: the build did not finish (run the same command again) or "
            "this is not a folder of shards"
        ) from None
    return parse_manifest(data, place)


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
    state = verified.state_of(place, claim_of(manifest, record))
    try:
        data = storage.read(place)
    except FileNotFoundError:
        raise ValueError(
            f"shard {place} is missing; run `python -m shards.build` with the same options again"
        ) from None
    if len(data) != record.bytes:
        raise ValueError(
            f"shard {place}: {len(data):,} bytes, the manifest says {record.bytes:,}; delete it "
            "and build again"
        )
    if trust and verified.is_noted(place, state):
        return Shard(record, *unpack(data, place))
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise ValueError(
            f"shard {place}: sha256 {found[:16]}..., the manifest says {record.sha256[:16]}...; "
            "delete it and build again"
        )
    arrays, keys = unpack(data, place)
    _check(place, manifest, record, arrays, keys)
    verified.note(place, state)
    return Shard(record, arrays, keys)


def _check(
    place: str,
    manifest: Manifest,
    record: ShardRecord,
    arrays: dict[str, np.ndarray],
    keys: tuple[str, ...],
) -> None:
    plan = manifest.plan
    views = plan.arms[record.split][-1].stop
    side = plan.dataset.image_size
    n = record.samples
    width = max(len(arm.columns) for arm in plan.arms[record.split])
    shapes = {"image": (n, side, side, 3), "label": (n,), "params": (n, views, width)}
    for i, teacher in enumerate(plan.teachers):
        shapes[f"embedding.{i}"] = (n, views, teacher.dim)
        shapes[f"norm.{i}"] = (n, views)
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"shard {place}: column {name} is missing")
        if arrays[name].shape != shape:
            raise ValueError(f"shard {place}: {name} is {arrays[name].shape}, expected {shape}")
    if len(keys) != n:
        raise ValueError(f"shard {place}: {len(keys)} keys, expected {n}")
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
    """Norms of float16 vectors, float32 (N, V); ten times as fast as NumPy's conversion."""
    starts = range(0, len(embedding_NVD), 64)  # what a core's cache holds
    parts = [torch.from_numpy(embedding_NVD[i : i + 64].copy()).float() for i in starts]
    return torch.cat([torch.linalg.vector_norm(part, dim=-1) for part in parts]).numpy()


def iter_shards(location: str, manifest: Manifest, split: str) -> Iterator[Shard]:
    """The shards of a split in order. Errors: ValueError also for a key that comes twice."""
    unique = UniqueKeys(location, manifest, split)
    for shard in _ahead(lambda record: load_shard(location, manifest, record), unique.records):
        unique.add(shard.record, shard.keys)
        yield shard
    unique.finish()


def _ahead(load: Callable[[ShardRecord], Shard], records: list[ShardRecord]) -> Iterator[Shard]:
    """In order, a few at a time: an object store's latency and sha256 both run beside the rest."""
    with ThreadPoolExecutor(AHEAD) as pool:
        flying: deque[Future[Shard]] = deque()
        try:
            for record in records:
                flying.append(pool.submit(load, record))
                if len(flying) > AHEAD:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


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
        """All keys in order. Errors: ValueError where some are missing."""
        if len(self._seen) != self._expected:
            raise ValueError(self._where.format(len(self._seen), self._expected))
        return tuple(self._seen)
