"""`folder:DIR`: an ordinary image folder, any format Pillow reads."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.datasets.base import SPLITS
from shards.datasets.encoded import PictureDataset
from shards.datasets.left_out import LeftOut, check_utf8, readable
from shards.support import storage
from shards.support.cache import tree_digest


class FolderDataset(PictureDataset):
    """`DIR/train/<class>/**` and `DIR/test/<class>/**`, any format Pillow reads.

    Files in deeper folders belong to their class, in the order of torchvision's ImageFolder: by
    class, then folder, then file name. Keys are paths relative to DIR. Hidden files and folders,
    files without an extension, and formats that Pillow cannot read are left out and counted in one
    line on stderr. The identity is a sha256 of every name and every byte.
    """

    def __init__(self, argument: str, image_size: int | None) -> None:
        if not argument:
            raise ValueError("dataset `folder`: a folder is missing; write folder:DIR")
        self.root = Path(argument)
        self.spec = f"folder:{argument}"
        self.left_out = LeftOut()
        check_utf8(self.spec, argument)
        self.classes = self._find_classes()
        self._labels, self._keys = {}, {}
        for split in SPLITS:
            self._list(split)
        self._settle(image_size)
        names = [key for split in SPLITS for key in self._keys[split]]
        digest = tree_digest(self.root, names)
        text = repr((self.classes, self.image_size, digest, self.decoder))
        self.identity = hashlib.sha256(text.encode()).hexdigest()

    def _find_classes(self) -> tuple[str, ...]:
        names: dict[str, list[str]] = {}
        for split in SPLITS:
            folder = self.root / split
            if not folder.is_dir():
                raise ValueError(
                    f"dataset {self.spec}: no folder `{folder}`; expected train/<class>/ and "
                    "test/<class>/ with images in them"
                )
            names[split] = []
            for entry in sorted(folder.iterdir()):
                path = f"{split}/{entry.name}"
                if entry.name.startswith("."):
                    self._leave_out_hidden(path, entry.is_dir())
                elif entry.is_dir():
                    check_utf8(self.spec, path)
                    names[split].append(entry.name)
                else:
                    self.left_out.add("files outside the class folders left out", path)
        if not names["train"] or names["train"] != names["test"]:
            odd = sorted(set(names["train"]) ^ set(names["test"])) or ["none at all"]
            raise ValueError(
                f"dataset {self.spec}: train and test must hold the same classes; "
                f"only in one of them: {', '.join(f'`{readable(name)}`' for name in odd[:5])}"
            )
        return tuple(names["train"])

    def _list(self, split: str) -> None:
        keys: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = list(self._images(f"{split}/{name}"))
            if not found:
                what = self.left_out.line()
                raise ValueError(
                    f"dataset {self.spec}: no image in `{self.root / split / name}`"
                    + (f" ({what})" if what else "")
                )
            keys += found
            labels += [label] * len(found)
        self._labels[split] = np.array(labels, dtype=np.int64)
        self._keys[split] = tuple(keys)

    def _images(self, folder: str) -> Iterator[str]:
        """Paths of the images in a class folder and below it, relative to the root, in order."""
        known = _readable_extensions()
        # As torchvision: all folders sorted by their whole path, files sorted within each.
        for path, names in sorted(self._walk(folder)):
            for name in sorted(names):
                file = f"{path}/{name}"
                extension = os.path.splitext(name)[1].lower()
                if name.startswith("."):
                    self._leave_out_hidden(file, is_folder=False)
                elif extension in ("", "."):
                    self.left_out.add("files without an extension left out", file)
                elif extension not in known:
                    kind = f"{readable(extension)} files left out (Pillow has no reader)"
                    self.left_out.add(kind, file)
                elif not stat.S_ISREG(os.stat(self.root / file).st_mode):
                    self.left_out.add("pipes, sockets and devices left out", file)
                else:
                    check_utf8(self.spec, file)
                    yield file

    def _walk(self, folder: str) -> Iterator[tuple[str, list[str]]]:
        """(path relative to the root, names of files) of a folder and all below it."""

        def fail(error: OSError) -> None:
            raise error

        top = str(self.root)
        for path, folders, names in os.walk(f"{top}/{folder}", onerror=fail, followlinks=True):
            relative = path[len(top) + 1 :]
            real = os.path.realpath(path)
            entered: list[str] = []
            for name in folders:
                inside = os.path.realpath(f"{path}/{name}")
                if name.startswith("."):
                    self._leave_out_hidden(f"{relative}/{name}", is_folder=True)
                elif real == inside or real.startswith(f"{inside}/"):
                    # Entering it would list the same files again and again.
                    self.left_out.add("links to a folder around them", f"{relative}/{name}")
                else:
                    entered.append(name)
            folders[:] = entered
            yield relative, names

    def _leave_out_hidden(self, path: str, is_folder: bool) -> None:
        self.left_out.add(f"hidden {'folders' if is_folder else 'files'} left out", path)

    def _encoded(self, split: str, index_B: np.ndarray) -> list[tuple[bytes, str]]:
        files = [str(self.root / self._keys[split][i]) for i in index_B]
        return [(storage.read(file), file) for file in files]


def _readable_extensions() -> set[str]:
    """Extensions of the formats that Pillow can read; it also registers some it only writes."""
    from PIL import Image

    return {
        extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN
    }
