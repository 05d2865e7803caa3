"""`wds:PATTERN`: ordinary WebDataset shards, from any source.

    wds:DIR/{split}-{000000..000009}.tar      wds:s3://bucket/{split}/*.tar

`{split}` becomes train and test (where no test shard exists: val, then validation); brace ranges
and globs expand. A sample is consecutive members of one name before the first dot: an image
(.jpg, .jpeg, .png or .webp) and a label, .cls (ASCII integer) or .json (integer field label, cls or
class). The first of these counts; samples in which they differ are counted in one line on stderr.
Class names are the lines of classnames.txt or classes.txt beside the shards or in the folder above;
without one they are the numbers 0 to the largest label, of which no text prompts are made. Other
members of a sample are not read, members that belong to no sample are counted in one line on
stderr, and pickles are refused.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path

import numpy as np

from shards.datasets.base import SPLITS
from shards.datasets.encoded import PictureDataset
from shards.datasets.left_out import LeftOut, check_utf8
from shards.datasets.tar_index import ShardIndex, index_shard
from shards.support import storage
from shards.support.cache import cached
from shards.support.progress import Progress
from shards.support.registry import CONTROL

SPELLINGS = {"train": ("train",), "test": ("test", "val", "validation")}
NAMES = ("classnames.txt", "classes.txt")
MAX_SHARDS = 100_000
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
MANY = 8  # with so many shards or more, the first pass shows its progress


class WebDatasets(PictureDataset):
    """Shards that are indexed by one pass over their bytes, then read by ranges, local or remote.

    Keys are `<split>/<shard's file name without .tar>/<sample's name>`. The identity is a sha256
    of keys, labels and encoded images, byte for byte; it depends neither on where the shards are
    stored nor on the times in their headers. The index of a shard is cached on this machine until
    the shard's size or times of change (remotely: its entity tag) differ.
    """

    def __init__(self, argument: str, image_size: int | None) -> None:
        self.spec = f"wds:{argument}"
        if "{split}" not in argument:
            raise ValueError(
                f"dataset {self.spec}: no {{split}} in the pattern; write it where the names of "
                "train and test shards differ, e.g. wds:DIR/{split}-{000000..000009}.tar"
            )
        self.left_out = LeftOut()
        self._shards = {split: _find(self.spec, argument, split) for split in SPLITS}
        self._keys, self._labels, self._spans = {}, {}, {}
        digest = hashlib.sha256()
        for split, locations in self._shards.items():
            stems = _stems(self.spec, locations)
            indices = _index_all(self.spec, locations)
            for index in indices:
                self.left_out.merge(index.left_out)
            for stem, index in zip(stems, indices, strict=True):
                digest.update(f"{split}/{stem} {index.sha256}\n".encode())
            self._collect(split, stems, indices)
        self.classes = self._class_names()
        digest.update(repr((self.classes, image_size, self.decoder)).encode())
        self.identity = digest.hexdigest()
        self._settle(image_size)

    def _collect(self, split: str, stems: list[str], indices: list[ShardIndex]) -> None:
        self._keys[split] = tuple(
            f"{split}/{stem}/{key}"
            for stem, index in zip(stems, indices, strict=True)
            for key in index.keys
        )
        self._labels[split] = np.concatenate([np.array(i.labels, np.int64) for i in indices])
        shard_N = np.repeat(np.arange(len(indices)), [len(i.keys) for i in indices])
        spans_N2 = np.concatenate([np.array(i.spans, np.int64) for i in indices])
        self._spans[split] = np.column_stack([shard_N, spans_N2])

    def _class_names(self) -> tuple[str, ...]:
        location, names = _listed_names(self._shards["train"][0])
        largest = max(int(self._labels[split].max()) for split in SPLITS)
        if location is None:
            return tuple(str(label) for label in range(largest + 1))
        if largest >= len(names):
            split = next(s for s in SPLITS if self._labels[s].max() == largest)
            row = int(self._labels[split].argmax())
            raise ValueError(
                f"{self._describe(split, row)}: label {largest} is outside 0 to {len(names) - 1}, "
                f"the lines of {location}"
            )
        return names

    def _describe(self, split: str, row: int) -> str:
        shard = self._shards[split][self._spans[split][row, 0]]
        return f"{shard}: sample `{self._keys[split][row].split('/', 2)[2]}`"

    def _encoded(self, split: str, index_B: np.ndarray) -> list[tuple[bytes, str]]:
        found: dict[int, bytes] = {}
        spans_B3 = self._spans[split][index_B]
        for shard in np.unique(spans_B3[:, 0]):
            rows = np.flatnonzero(spans_B3[:, 0] == shard)
            ranges = [(int(start), int(stop)) for _, start, stop in spans_B3[rows]]
            parts = storage.read_ranges(self._shards[split][shard], ranges)
            found.update(zip(rows.tolist(), parts, strict=True))
        return [(found[i], self._describe(split, int(row))) for i, row in enumerate(index_B)]


def _find(spec: str, pattern: str, split: str) -> list[str]:
    """The shards of a split. A range's test shards may end early; nothing else may be missing."""
    for word in SPELLINGS[split]:
        found, missing, holes = _expand(spec, pattern.replace("{split}", word))
        gone = missing if split == "train" else holes
        if found and gone:
            raise ValueError(
                f"dataset {spec}: shard {gone[0]} is missing; restore it or narrow the range"
            )
        if found:
            return found
    tried = " nor ".join(f"`{pattern.replace('{split}', word)}`" for word in SPELLINGS[split])
    raise ValueError(f"dataset {spec}: no {split} shard; nothing matches {tried}")


def _expand(spec: str, pattern: str) -> tuple[list[str], list[str], list[str]]:
    """(existing shards, missing ones, those missing before the last existing one), in order."""
    import braceexpand

    widest = max((abs(int(b) - int(a)) for a, b in RANGE.findall(pattern)), default=0)
    try:  # braceexpand holds each range in memory, but not their product
        locations = (
            []
            if widest > MAX_SHARDS
            else [*islice(braceexpand.braceexpand(pattern), MAX_SHARDS + 1)]
        )
    except ValueError as error:
        raise ValueError(f"dataset {spec}: {error}; write ranges as {{000..009}}") from None
    if max(widest, len(locations)) > MAX_SHARDS:
        raise ValueError(f"dataset {spec}: more than {MAX_SHARDS:,} shards; narrow the range")
    found, missing, holes = [], [], []
    listing = _Listing()
    for location in locations:
        is_glob = any(mark in location for mark in "*?[")
        existing = (
            [location] if listing.has(location) else storage.glob(location) if is_glob else []
        )
        if existing:
            found += existing
            holes = list(missing)
        elif not is_glob:
            missing.append(location)
    return found, missing, holes


class _Listing:
    """Which files exist. A bucket's folder is listed once, instead of one request a file."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str]] = {}

    def has(self, location: str) -> bool:
        if storage.scheme_of(location) not in ("s3", "gs"):
            return storage.exists(location)
        folder, _, name = location.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = set(storage.names(folder))
        return name in self._folders[folder]


def _stems(spec: str, locations: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    for location in locations:
        check_utf8(spec, location)
        stem = location.rpartition("/")[2].removesuffix(".tar")
        if stem in seen:
            raise ValueError(
                f"dataset {spec}: shards {seen[stem]} and {location} have one name, but keys "
                "are made of it; rename one"
            )
        seen[stem] = location
    return list(seen)


def _index_all(spec: str, locations: list[str]) -> list[ShardIndex]:
    found: list[ShardIndex] = []
    many = len(locations) >= MANY
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        Progress(f"index {spec}", len(locations)) if many else nullcontext() as bar,
    ):
        for index in pool.map(_index, locations):
            found.append(index)
            if bar:
                bar.update(len(found))
    return found


def _index(location: str) -> ShardIndex:
    name = str(storage.local_path(location).resolve()) if storage.is_local(location) else location
    state = storage.state(location)
    return ShardIndex(*cached(f"webdataset index 4 {name}", state, lambda: index_shard(location)))


def _listed_names(shard: str) -> tuple[str | None, tuple[str, ...]]:
    """(location, class names) of the first list beside a shard or in the folder above it."""
    for folder in _folders_above(shard):
        for name in NAMES:
            location = storage.join(folder, name)
            if storage.exists(location):
                return location, _parse_names(storage.read(location), location)
    return None, ()


def _folders_above(shard: str) -> Iterable[str]:
    if storage.is_local(shard):
        return map(str, list(Path(os.path.abspath(storage.local_path(shard))).parents)[:2])
    scheme, _, path = shard.partition("://")
    parts = path.split("/")[:-1]
    return [f"{scheme}://{'/'.join(parts[: len(parts) - up])}" for up in (0, 1) if parts[up:]]


def _parse_names(data: bytes, location: str) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8-sig").rstrip()  # editors on Windows put a mark at the start
    except UnicodeDecodeError:
        raise ValueError(f"{location}: not UTF-8; expected one class name a line") from None
    # Not `splitlines`, for which further characters end a line: the labels behind would shift.
    names = tuple(line.strip() for line in re.split("\r\n|\r|\n", text))
    odd = next((number for number, name in enumerate(names, 1) if CONTROL.search(name)), None)
    if odd:
        raise ValueError(f"{location}: line {odd} has control characters; expected a class name")
    if names == ("",):
        raise ValueError(f"{location}: is empty; expected one class name a line")
    if not all(names):
        raise ValueError(f"{location}: line {names.index('') + 1} is empty; expected a class name")
    return names
