"""`hf:NAME`: a data set of images from the Hugging Face hub, or a local folder `datasets` reads.

    hf:ylecun/mnist      hf:uoft-cs/cifar100:fine_label      hf:/data/parquet

The image column is the one of feature type Image. The label column is the one ClassLabel, or,
where there is none, the one integer column. Where several columns qualify, name them:
`hf:NAME:COLUMN[:COLUMN]`. Labels are 0 to MAX_LABEL. Integer labels have no class names, so no text
prompts are made of them. Splits that are not used are named in one line on stderr.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from shards.datasets.encoded import PictureDataset
from shards.datasets.left_out import LeftOut
from shards.datasets.tar_index import MAX_LABEL
from shards.support import storage
from shards.support.cache import cached

TEST_SPLITS = ("test", "validation", "valid", "val")


class HubDataset(PictureDataset):
    """Splits train and test, or validation where no test split has labels.

    Keys are `<split>/<row>`. The identity is a sha256 of every encoded image and label, which is
    cached on this machine until the Arrow files of `datasets` change. From version 4.0 on,
    `datasets` runs no code that a data set brings; nothing is unpickled.
    """

    def __init__(self, argument: str, image_size: int | None) -> None:
        self.spec = f"hf:{argument}"
        name, *requested = argument.split(":")
        if not name:
            raise ValueError("dataset `hf`: a name is missing; write hf:NAME, e.g. hf:ylecun/mnist")
        if importlib.util.find_spec("datasets") is None:
            raise ValueError(
                f"dataset {self.spec}: needs the library `datasets`; install it with "
                "pip install '.[hf]'"
            )
        found = _load(self.spec, name)
        image, label = _columns(self.spec, next(iter(found.values())).features, requested)
        rows = _splits(self.spec, found, label)
        self.left_out = LeftOut()
        for split, table in found.items():
            if not any(table is used for used in rows.values()):
                self.left_out.add(f"rows of split {split} left out", "row 0", len(table))
        self._labels = {
            split: _labels(self.spec, split, table, label) for split, table in rows.items()
        }
        self.classes = self._class_names(rows["train"].features[label])
        self._rows = {split: _undecoded(table, image) for split, table in rows.items()}
        self._keys = {
            split: tuple(f"{split}/{row:06d}" for row in range(len(table)))
            for split, table in rows.items()
        }
        digest = hashlib.sha256(repr((self.classes, image_size, self.decoder)).encode())
        for split, table in self._rows.items():
            digest.update(self._labels[split].astype("<i8").tobytes())
            digest.update(self._content(split, table).encode())
        self.identity = digest.hexdigest()
        self._settle(image_size)

    def _class_names(self, feature: Any) -> tuple[str, ...]:
        largest = max(int(labels_N.max()) for labels_N in self._labels.values())
        known = tuple(getattr(feature, "names", None) or ())
        names = known or tuple(str(label) for label in range(largest + 1))
        for split, labels_N in self._labels.items():
            bad = np.flatnonzero((labels_N < 0) | (labels_N >= len(names)))
            if len(bad):
                raise ValueError(
                    f"dataset {self.spec}: {split} row {bad[0]}: label {labels_N[bad[0]]} is "
                    f"outside 0 to {len(names) - 1}"
                )
        return names

    def _content(self, split: str, table: Any) -> str:
        """sha256 of the encoded images in order; cached where the Arrow files contain them."""

        def make() -> str:
            digest = hashlib.sha256()
            for row, cell in enumerate(_cells(table)):
                data, _ = self._bytes(split, row, cell)
                digest.update(f"{len(data)}\n".encode() + data)
            return digest.hexdigest()

        files = [str(entry["filename"]) for entry in table.cache_files]
        if not files or _has_paths(table):
            return make()
        what = f"hub {self.spec} {split} {table.column_names} {files}"
        return cached(what, [storage.state(file) for file in files], make)

    def _bytes(self, split: str, row: int, cell: dict[str, Any] | None) -> tuple[bytes, str]:
        path = f"dataset {self.spec}: {split} row {row}"
        if cell and cell["bytes"] is not None:
            return cell["bytes"], path
        if cell and cell["path"]:
            return storage.read(cell["path"]), cell["path"]
        raise ValueError(f"{path}: has no image")

    def _encoded(self, split: str, index_B: np.ndarray) -> list[tuple[bytes, str]]:
        table = self._rows[split]
        cells = table[index_B.tolist()][table.column_names[0]]
        return [self._bytes(split, int(i), c) for i, c in zip(index_B, cells, strict=True)]


def _load(spec: str, name: str) -> dict[str, Any]:
    import datasets

    try:
        found: Any = datasets.load_dataset(name)
    except Exception as error:  # the library, its readers and its HTTP client each raise their own
        detail = " ".join(str(error.__cause__ or error).split())[:200]
        raise ValueError(
            f"dataset {spec}: cannot be loaded ({detail}); check the name and the network; "
            "HF_HUB_OFFLINE=1 uses an earlier download"
        ) from None
    return dict(found)


def _columns(spec: str, features: Any, requested: list[str]) -> tuple[str, str]:
    """The image and the label column. Raises: ValueError naming the candidates."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    whole = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and kind.dtype.startswith(("int", "uint"))
    ]
    for name in requested:
        if name not in images + classes + whole:
            raise ValueError(
                f"dataset {spec}: column `{name}` is neither image nor label; the columns are: "
                f"{', '.join(images + classes + whole) or 'none'}"
            )
    return (
        _one(spec, "images", [n for n in requested if n in images] or images),
        _one(spec, "labels", [n for n in requested if n not in images] or classes or whole),
    )


def _one(spec: str, what: str, names: list[str]) -> str:
    if not names:
        raise ValueError(f"dataset {spec}: no column of {what}")
    if len(names) > 1:
        raise ValueError(
            f"dataset {spec}: columns {', '.join(names)} all hold {what}; name one, e.g. "
            f"{':'.join(spec.split(':')[:2])}:{names[0]}"
        )
    return names[0]


def _splits(spec: str, found: dict[str, Any], label: str) -> dict[str, Any]:
    tests = (name for name in TEST_SPLITS if name in found)
    labelled = next((s for s in tests if (_labels(spec, s, found[s], label) != -1).any()), None)
    if "train" not in found or labelled is None:
        raise ValueError(
            f"dataset {spec}: has splits {', '.join(found)}; expected train, and test or "
            "validation with labels"
        )
    return {"train": found["train"], "test": found[labelled]}


def _labels(spec: str, split: str, table: Any, column: str) -> np.ndarray:
    """int64 (N,); -1 where a label is missing. Raises: ValueError for one above MAX_LABEL."""
    values = table.select_columns([column]).with_format("arrow")[:].column(column)
    labels_N = values.fill_null(0).to_numpy()  # unlike -1, every integer type has 0
    large = np.flatnonzero(labels_N > MAX_LABEL)
    if len(large):
        raise ValueError(
            f"dataset {spec}: {split} row {large[0]}: label {labels_N[large[0]]} of column "
            f"`{column}` is outside 0 to {MAX_LABEL:,}"
        )
    return np.where(values.is_null().to_numpy(), -1, labels_N.astype(np.int64))


def _undecoded(table: Any, column: str) -> Any:
    """The table with its image column alone, as {bytes, path}."""
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _cells(table: Any) -> Iterator[dict[str, Any] | None]:
    for batch in table.with_format("arrow").iter(256):
        yield from batch.column(0).to_pylist()


def _has_paths(table: Any) -> bool:
    column = table.with_format("arrow")[:].column(0)
    return any(chunk.field("bytes").null_count for chunk in column.chunks)
