"""Banks, read: a verified manifest, and shards whose sha256 agreed before they were opened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shards import storage
from shards.format import MANIFEST, Manifest, ShardRecord, arm_record, parse_manifest, unpack


@dataclass(frozen=True)
class Shard:
    """One verified shard, as columns."""

    record: ShardRecord
    arrays: dict[str, np.ndarray]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """One split of one arm and one teacher, resident in memory.

    images uint8 (N, H, W, 3), labels int64 (N,), params int64 (N, V, P), embeddings float16
    (N, V, D) unit vectors, norms float32 (N, V).
    """

    keys: tuple[str, ...]
    images_NHWC: np.ndarray
    labels_N: np.ndarray
    params_NVP: np.ndarray
    embedding_NVD: np.ndarray
    norm_NV: np.ndarray


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
    """Read, compare bytes and sha256, open, and check every value that training would meet."""
    place = storage.join(location, record.name)
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
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise ValueError(
            f"shard {place}: sha256 {found[:16]}..., the manifest says {record.sha256[:16]}...; "
            "delete it and build again"
        )
    arrays, keys = unpack(data, place)
    _check(place, manifest, record, arrays, keys)
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
        length_NV = np.linalg.norm(arrays[f"embedding.{i}"].astype(np.float32), axis=-1)
        norm_NV = arrays[f"norm.{i}"]
        bad = ~(np.abs(length_NV - 1) < 5e-3) | ~((norm_NV > 0) & (norm_NV < np.inf))
        if bad.any():
            row = int(np.argwhere(bad)[0, 0])
            raise ValueError(
                f"shard {place}: sample `{keys[row]}` has an embedding that is not a finite unit "
                "vector with a positive norm; build again"
            )


def iter_shards(location: str, manifest: Manifest, split: str) -> Iterator[Shard]:
    """The shards of a split in order. Errors: ValueError also for a key that comes twice."""
    seen: dict[str, str] = {}
    for record in manifest.shards:
        if record.split != split:
            continue
        shard = load_shard(location, manifest, record)
        for key in shard.keys:
            if key in seen:
                raise ValueError(
                    f"key `{key}` is in shard {seen[key]} and in shard {record.name}; build again"
                )
            seen[key] = record.name
        yield shard
    expected = manifest.plan.dataset.counts[split]
    if len(seen) != expected:
        raise ValueError(
            f"{location}: {len(seen):,} {split} samples in all shards, expected {expected:,}"
        )


def load_splits(
    location: str, manifest: Manifest, split: str, arms: tuple[str, ...], teacher: int = 0
) -> dict[str, Split]:
    """One pass over a split's shards: {arm: Split}, the image column shared between the arms."""
    places = {arm: arm_record(manifest, split, arm) for arm in arms}
    count = manifest.plan.dataset.counts[split]
    columns: dict[str, np.ndarray] = {}
    keys: list[str] = []
    for shard in iter_shards(location, manifest, split):
        at = len(keys)
        for name, array in _wanted(shard, places, teacher):
            if name not in columns:
                columns[name] = np.empty((count, *array.shape[1:]), dtype=array.dtype)
            columns[name][at : at + len(array)] = array
        keys += shard.keys
    return {
        arm: Split(
            tuple(keys),
            columns["image"],
            columns["label"],
            columns[f"{arm}/params"],
            columns[f"{arm}/embedding"],
            columns[f"{arm}/norm"],
        )
        for arm in arms
    }


def _wanted(shard: Shard, places: dict, teacher: int) -> Iterator[tuple[str, np.ndarray]]:
    yield "image", shard.arrays["image"]
    yield "label", shard.arrays["label"]
    for arm, place in places.items():
        at = slice(place.start, place.stop)
        yield f"{arm}/params", shard.arrays["params"][:, at, : len(place.columns)]
        yield f"{arm}/embedding", shard.arrays[f"embedding.{teacher}"][:, at]
        yield f"{arm}/norm", shard.arrays[f"norm.{teacher}"][:, at]
