"""CIFAR-10 and CIFAR-100 from the archives that torchvision downloads, read without pickle's risk.

The archives are Python pickles. Each file's md5 is compared with the one torchvision publishes
before it is opened, and the unpickler constructs NumPy arrays and no other object.
"""

from __future__ import annotations

import hashlib
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np


class ArrayUnpickler(pickle.Unpickler):
    """Reads built-in containers, strings, numbers and NumPy arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        multiarray = ("numpy.core.multiarray", "numpy._core.multiarray")
        if module in multiarray and name == "_reconstruct":
            return np.ndarray.__reduce__(np.zeros(0))[0]  # that function, under whichever name
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise ValueError(f"the pickle refers to {module}.{name}; only NumPy arrays are allowed")


def _check(file: Path, md5: str, name: str) -> None:
    found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(
            f"dataset {name}: {file} has md5 {found}, expected {md5}; delete it and build again"
        )


def _fetch(source: Any, root: Path, name: str) -> Path:
    """The folder with the extracted files, downloaded where it is missing."""
    folder = root / source.base_folder
    if folder.is_dir():
        return folder
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        download_and_extract_archive(
            source.url, str(root), filename=source.filename, md5=source.tgz_md5
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"dataset {name}: not in `{folder.resolve()}` and the download failed ({error}); "
            f"put {source.filename} into `{root.resolve()}` (or its extracted folder "
            f"`{source.base_folder}`), or set DISTIL_DATA to the folder that holds it"
        ) from None
    return folder


def _source(name: str) -> Any:
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]


def is_present(name: str, root: Path) -> bool:
    """Whether the data set can be read without a download."""
    source = _source(name)
    return (root / source.base_folder).is_dir() or (root / source.filename).is_file()


def load_cifar(
    name: str, root: Path
) -> tuple[tuple[str, ...], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Class names and {split: (images uint8 (N, 32, 32, 3), labels int64 (N,))}.

    Raises: ValueError where the files are missing and cannot be downloaded, or a checksum differs.
    """
    source = _source(name)
    folder = _fetch(source, root, name)

    def unpickle(filename: str, md5: str) -> dict[str, Any]:
        file = folder / filename
        if not file.is_file():
            raise ValueError(f"dataset {name}: {file} is missing; extract {source.filename} again")
        _check(file, md5, name)
        with file.open("rb") as stream:
            return ArrayUnpickler(stream, encoding="latin1").load()

    meta = unpickle(source.meta["filename"], source.meta["md5"])
    arrays = {}
    for split, listing in (("train", source.train_list), ("test", source.test_list)):
        parts = [unpickle(*entry) for entry in listing]
        flat_NP = np.concatenate([part["data"] for part in parts])
        labels = [y for part in parts for y in part.get("labels", part.get("fine_labels", ()))]
        images_NHWC = np.ascontiguousarray(flat_NP.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        arrays[split] = (images_NHWC, np.array(labels, dtype=np.int64))
    return tuple(meta[source.meta["key"]]), arrays
