"""`folder:DIR`: an ordinary image folder, any format Pillow reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from shards.datasets.base import SPLITS
from shards.datasets.encoded import PictureDataset
from shards.support import storage
from shards.support.cache import tree_digest


class FolderDataset(PictureDataset):
    """`DIR/train/<class>/*` and `DIR/test/<class>/*`, any format Pillow reads.

    Order: by class name, then file name. The identity is a sha256 of every name and every byte.
    """

    def __init__(self, argument: str, image_size: int | None) -> None:
        if not argument:
            raise ValueError("dataset `folder`: a folder is missing; write folder:DIR")
        self.root = Path(argument)
        self.spec = f"folder:{argument}"
        for split in SPLITS:
            if not (self.root / split).is_dir():
                raise ValueError(
                    f"dataset {self.spec}: no folder `{self.root / split}`; expected "
                    "train/<class>/ and test/<class>/ with images in them"
                )
        names = {s: sorted(d.name for d in (self.root / s).iterdir() if d.is_dir()) for s in SPLITS}
        if not names["train"] or names["train"] != names["test"]:
            odd = sorted(set(names["train"]) ^ set(names["test"])) or ["none at all"]
            raise ValueError(
                f"dataset {self.spec}: train and test must hold the same classes; "
                f"only in one of them: {', '.join(odd[:5])}"
            )
        self.classes = tuple(names["train"])
        self._files: dict[str, list[Path]] = {}
        self._labels, self._keys = {}, {}
        for split in SPLITS:
            self._list(split)
        self._settle(image_size)
        names = [key for split in SPLITS for key in self._keys[split]]
        digest = tree_digest(self.root, names)
        text = repr((self.classes, self.image_size, digest, self.decoder))
        self.identity = hashlib.sha256(text.encode()).hexdigest()

    def _list(self, split: str) -> None:
        from PIL import Image

        known = set(Image.registered_extensions())
        files: list[Path] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            folder = self.root / split / name
            found = sorted(f for f in folder.iterdir() if f.suffix.lower() in known)
            if not found:
                raise ValueError(f"dataset {self.spec}: no image in `{folder}`")
            files += found
            labels += [label] * len(found)
        self._files[split] = files
        self._labels[split] = np.array(labels, dtype=np.int64)
        self._keys[split] = tuple(f"{split}/{file.parent.name}/{file.name}" for file in files)

    def _encoded(self, split: str, index_B: np.ndarray) -> list[tuple[bytes, str]]:
        files = [str(self._files[split][i]) for i in index_B]
        return [(storage.read(file), file) for file in files]
