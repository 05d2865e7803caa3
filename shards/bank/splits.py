"""One split of a bank for training: whole in memory, or with its large columns left on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.bank.manifest import ArmRecord, Manifest, ShardRecord, arm_record
from shards.bank.members import DTYPES, column_kind
from shards.bank.reader import (
    AHEAD,
    UniqueKeys,
    check_data,
    claim_of,
    column_shapes,
    load_file,
    load_shard,
    read_shard,
)
from shards.bank.stream import ColumnPart, FileHandles, StreamedColumn, find_columns
from shards.support import cache, storage
from shards.support.file_cache import Reader
from shards.support.threads import prefetch, single_core_pool

Column = np.ndarray | StreamedColumn


@dataclass(frozen=True)
class Split:
    """One split of one arm and one teacher, resident in memory or (`Column`) left on disk.

    images uint8 (N, H, W, 3), labels int64 (N,), params int64 (N, V, P), embeddings float16
    (N, V, D) unit vectors, norms float32 (N, V).
    """

    keys: tuple[str, ...]
    images_NHWC: Column
    labels_N: np.ndarray
    params_NVP: Column
    embedding_NVD: Column
    norm_NV: np.ndarray


def take(splits: dict[str, Split], rows_N: np.ndarray) -> dict[str, Split]:
    """The samples `rows_N` of each split. A column that arms share stays shared."""
    taken: dict[int, Column] = {}

    def of(column: Column) -> Column:
        if id(column) not in taken:
            streamed = isinstance(column, StreamedColumn)
            taken[id(column)] = column.take(rows_N) if streamed else column[rows_N]
        return taken[id(column)]

    return {
        name: Split(
            tuple(split.keys[row] for row in rows_N),
            of(split.images_NHWC),
            split.labels_N[rows_N],
            of(split.params_NVP),
            of(split.embedding_NVD),
            split.norm_NV[rows_N],
        )
        for name, split in splits.items()
    }


def split_bytes(manifest: Manifest, split: str, arms: Iterable[str], teacher: int = 0) -> int:
    """Bytes that `load_splits` would hold in memory."""
    plan = manifest.plan
    each = plan.dataset.image_size**2 * 3 + 8  # of a sample: a uint8 RGB image, an int64 label
    for arm in arms:
        record = arm_record(manifest, split, arm)
        # A view is a float16 embedding, a float32 norm and int64 parameters.
        view = 2 * plan.teachers[teacher].dim + 4 + 8 * len(record.columns)
        each += (record.stop - record.start) * view
    return plan.dataset.counts[split] * each


def load_splits(
    location: str,
    manifest: Manifest,
    split: str,
    arms: tuple[str, ...],
    teacher: int = 0,
    streaming: bool = False,
) -> dict[str, Split]:
    """Read a split in one pass: {arm: Split}; the arms share the image column.

    `streaming` leaves images, drawn parameters and embeddings on disk: see `shards.bank.stream`.

    Raises: ValueError for an arm that the bank lacks and for a damaged shard; OSError.
    """
    arm_records = {arm: arm_record(manifest, split, arm) for arm in arms}
    if streaming:
        return _streamed(location, manifest, split, arm_records, teacher)
    unique = UniqueKeys(location, manifest, split)
    firsts = np.cumsum([0, *(record.samples for record in unique.records)])
    wanted = _wanted(arm_records, teacher)
    columns = _allocate(manifest, split, int(firsts[-1]), wanted)

    def fill(at: tuple[ShardRecord, int]) -> tuple[str, ...]:
        record, first = at
        shard = load_shard(location, manifest, record)
        for name, (column, part) in wanted.items():
            columns[name][first : first + record.samples] = shard.arrays[column][part]
        return shard.keys

    tasks = list(zip(unique.records, firsts.tolist()[:-1], strict=True))
    with single_core_pool(AHEAD) as pool:
        filled = prefetch(pool, fill, tasks, AHEAD)
        for record, keys in zip(unique.records, filled, strict=True):
            unique.add(record, keys)
    keys = unique.finish()
    return {
        arm: Split(
            keys,
            columns["image"],
            columns["label"],
            columns[f"{arm}/params"],
            columns[f"{arm}/embedding"],
            columns[f"{arm}/norm"],
        )
        for arm in arms
    }


def _wanted(arm_records: dict[str, ArmRecord], teacher: int) -> dict[str, tuple[str, Any]]:
    """{name of an array in memory: (column of the shards, index of the wanted part of it)}."""
    wanted: dict[str, tuple[str, Any]] = {n: (n, np.s_[:]) for n in ("image", "label")}
    for arm, record in arm_records.items():
        views = slice(record.start, record.stop)
        wanted[f"{arm}/params"] = ("params", np.s_[:, views, : len(record.columns)])
        wanted[f"{arm}/embedding"] = (f"embedding.{teacher}", np.s_[:, views])
        wanted[f"{arm}/norm"] = (f"norm.{teacher}", np.s_[:, views])
    return wanted


def _allocate(
    manifest: Manifest, split: str, count: int, wanted: dict[str, tuple[str, Any]]
) -> dict[str, np.ndarray]:
    """Uninitialised arrays for `count` samples of what `_wanted` names."""
    shapes = column_shapes(manifest.plan, split, count)
    arrays: dict[str, np.ndarray] = {}
    for name, (column, part) in wanted.items():
        # An array of one broadcast element takes no memory; slicing it gives the part's shape.
        whole = np.broadcast_to(np.zeros((), DTYPES[column_kind(column)]), shapes[column])
        arrays[name] = np.empty(whole[part].shape, whole.dtype)
    return arrays


def _streamed(
    location: str, manifest: Manifest, split: str, arm_records: dict[str, ArmRecord], teacher: int
) -> dict[str, Split]:
    """Labels, keys and norms in memory; the other columns on disk."""
    unique = UniqueKeys(location, manifest, split)
    small: dict[str, list[np.ndarray]] = {"label": [], "norm": []}
    found: dict[str, list[ColumnPart]] = {}
    firsts, count = [], 0
    copies = None
    if not storage.is_local(location):
        sizes = {_copy_name(record): record.bytes for record in unique.records}
        copies = Reader(cache.cache_folder() / "shards", sizes)
    for record in unique.records:
        file = _checked_file(location, manifest, record, copies)
        parts_by_column, keys = find_columns(file)
        unique.add(record, keys)
        small["label"].append(parts_by_column["label"].whole(record.samples))
        small["norm"].append(parts_by_column[f"norm.{teacher}"].whole(record.samples))
        for name, part in parts_by_column.items():
            found.setdefault(name, []).append(part)
        firsts.append(count)
        count += record.samples
    keys, files = unique.finish(), FileHandles(copies)

    def column(name: str) -> StreamedColumn:
        return StreamedColumn.from_parts(found[name], np.array(firsts), count, files)

    norm_NV = np.concatenate(small["norm"])
    return {
        arm: Split(
            keys,
            column("image"),
            np.concatenate(small["label"]),
            column("params").select(record.start, record.stop, len(record.columns)),
            column(f"embedding.{teacher}").select(record.start, record.stop),
            norm_NV[:, record.start : record.stop],
        )
        for arm, record in arm_records.items()
    }


def _copy_name(record: ShardRecord) -> str:
    return f"{record.sha256}.tar"


def _checked_file(
    location: str, manifest: Manifest, record: ShardRecord, copies: Reader | None
) -> Path:
    """A verified shard as a local file: the shard itself, or a copy in this machine's cache.

    A copy that does not verify is downloaded again. Raises: ValueError naming the shard's location.
    """
    path = storage.join(location, record.name)
    if copies is None:
        _verify(path, manifest, record)
        return storage.local_path(path)

    def is_good(copy: Path) -> bool:
        with contextlib.suppress(ValueError, OSError):
            _verify(str(copy), manifest, record)
            return True
        return False

    def fetch() -> bytes:
        data = read_shard(path)
        check_data(data, path, manifest, record)
        return data

    return copies.get(_copy_name(record), is_good, fetch)


def _verify(path: str, manifest: Manifest, record: ShardRecord) -> None:
    state = cache.verification_state(path, claim_of(manifest, record))
    if not cache.is_verified(path, state):
        load_file(path, manifest, record)
