"""`wds:PATTERN`: ordinary WebDataset shards, made by others.

    wds:DIR/{split}-{000000..000009}.tar      wds:s3://bucket/{split}/*.tar

`{split}` becomes train and test (where no test shard exists: val, then validation); brace ranges
and globs expand. A sample is consecutive members of one name before the first dot: an image
(.jpg, .jpeg, .png or .webp) and a label, .cls (ASCII integer) or .json (integer field label, cls or
class). Class names are the lines of classnames.txt or classes.txt beside the shards or in the
folder above; without one they are the numbers 0 to the largest label. Other members are left alone,
pickles refused.
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
from shards.datasets.tar_index import ShardIndex, index_shard
from shards.support import storage
from shards.support.cache import cached
from shards.support.progress import Progress

SPELLINGS = {"train": ("train",), "test": ("test", "val", "validation")}
NAMES = ("classnames.txt", "classes.txt")
MAX_SHARDS = 100_000
RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
MANY = 8  # shards from which on the first pass is shown


class WebDatasets(PictureDataset):
    """Shards indexed once by a pass over their bytes, then read by ranges, local or remote.

    Keys are `<split>/<shard's file name without .tar>/<sample's name>`. The identity is a sha256
    of keys, labels and encoded images, byte for byte; it does not depend on where shards lie nor
    on times in their headers. A shard's index is kept in the machine's cache for as long as its
    size and times of change (remotely: its entity tag) are what they were.
    """

    def __init__(self, argument: str, image_size: int | None) -> None:
        self.spec = f"wds:{argument}"
        if "{split}" not in argument:
            raise ValueError(
                f"dataset {self.spec}: no {{split}} in the pattern; write it where shards of train "
                "and test differ, e.g. wds:DIR/{split}-{000000..000009}.tar"
            )
        self._shards = {split: _find(self.spec, argument, split) for split in SPLITS}
        self._keys, self._labels, self._spans = {}, {}, {}
        digest = hashlib.sha256()
        for split, places in self._shards.items():
            stems = _stems(self.spec, places)
            indices = _index_all(self.spec, places)
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
        place, names = _listed_names(self._shards["train"][0])
        largest = max(int(self._labels[split].max()) for split in SPLITS)
        if place is None:
            return tuple(str(label) for label in range(largest + 1))
        if largest >= len(names):
            split = next(s for s in SPLITS if self._labels[s].max() == largest)
            row = int(self._labels[split].argmax())
            raise ValueError(
                f"{self._place(split, row)}: label {largest} is outside 0 to {len(names) - 1}, "
                f"the lines of {place}"
            )
        return names

    def _place(self, split: str, row: int) -> str:
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
        return [(found[i], self._place(split, int(row))) for i, row in enumerate(index_B)]


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
    raise ValueError(f"dataset {spec}: no {split} shard; nothing is at {tried}")


def _expand(spec: str, pattern: str) -> tuple[list[str], list[str], list[str]]:
    """In order: shards that are there, those that are not, and those of them before the last."""
    import braceexpand

    widest = max((abs(int(b) - int(a)) for a, b in RANGE.findall(pattern)), default=0)
    try:  # braceexpand holds each range in memory, but not their product
        places = (
            []
            if widest > MAX_SHARDS
            else [*islice(braceexpand.braceexpand(pattern), MAX_SHARDS + 1)]
        )
    except ValueError as error:
        raise ValueError(f"dataset {spec}: {error}; write ranges as {{000..009}}") from None
    if max(widest, len(places)) > MAX_SHARDS:
        raise ValueError(f"dataset {spec}: more than {MAX_SHARDS:,} shards; narrow the range")
    found, missing, holes = [], [], []
    listing = _Listing()
    for place in places:
        is_glob = any(mark in place for mark in "*?[")
        here = [place] if listing.has(place) else storage.glob(place) if is_glob else []
        if here:
            found += here
            holes = list(missing)
        elif not is_glob:
            missing.append(place)
    return found, missing, holes


class _Listing:
    """Which files exist; in a bucket a folder is listed once instead of asking for each."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str]] = {}

    def has(self, place: str) -> bool:
        if storage.scheme_of(place) not in ("s3", "gs"):
            return storage.exists(place)
        folder, _, name = place.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = set(storage.names(folder))
        return name in self._folders[folder]


def _stems(spec: str, places: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    for place in places:
        stem = place.rpartition("/")[2].removesuffix(".tar")
        if stem in seen:
            raise ValueError(
                f"dataset {spec}: shards {seen[stem]} and {place} have one name, which keys are "
                "made of; rename one"
            )
        seen[stem] = place
    return list(seen)


def _index_all(spec: str, places: list[str]) -> list[ShardIndex]:
    found: list[ShardIndex] = []
    many = len(places) >= MANY
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        Progress(f"index {spec}", len(places)) if many else nullcontext() as bar,
    ):
        for index in pool.map(_index, places):
            found.append(index)
            if bar:
                bar.update(len(found))
    return found


def _index(place: str) -> ShardIndex:
    name = str(storage.local_path(place).resolve()) if storage.is_local(place) else place
    state = storage.state(place)
    return ShardIndex(*cached(f"webdataset {name}", state, lambda: index_shard(place)))


def _listed_names(shard: str) -> tuple[str | None, tuple[str, ...]]:
    """The first list of class names beside a shard or in the folder above, and where it is."""
    for folder in _folders_above(shard):
        for name in NAMES:
            place = storage.join(folder, name)
            if storage.exists(place):
                return place, _parse_names(storage.read(place), place)
    return None, ()


def _folders_above(shard: str) -> Iterable[str]:
    if storage.is_local(shard):
        return map(str, list(Path(os.path.abspath(storage.local_path(shard))).parents)[:2])
    scheme, _, path = shard.partition("://")
    parts = path.split("/")[:-1]
    return [f"{scheme}://{'/'.join(parts[: len(parts) - up])}" for up in (0, 1) if parts[up:]]


def _parse_names(data: bytes, place: str) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in data.decode().rstrip().splitlines())
    except UnicodeDecodeError:
        raise ValueError(f"{place}: not UTF-8; expected one class name a line") from None
    if not all(names):
        raise ValueError(f"{place}: line {names.index('') + 1} is empty; expected a class name")
    if not names:
        raise ValueError(f"{place}: is empty; expected one class name a line")
    return names
