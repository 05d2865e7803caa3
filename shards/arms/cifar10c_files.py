"""Arms that replace CIFAR-10's clean test images by the published images of CIFAR-10-C.

`DISTIL_DATA/CIFAR-10-C/NAME.npy` is uint8 (50000, 32, 32, 3): the 10,000 test images in CIFAR-10's
order at severity 1, then at severities 2 to 5; `labels.npy` has their labels. Nothing is unpickled.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from shards.arms.base import Arm
from shards.arms.ops import Op
from shards.datasets import data_root
from shards.support.registry import Table

COUNT = 10_000  # test images of CIFAR-10
SHAPE = (5 * COUNT, 32, 32, 3)
KEY = re.compile(r"test/(\d{6})")
NAMES = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur"),
    *("motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast"),
    *("elastic_transform", "pixelate", "jpeg_compression"),
)
# Published beside the 15 of the benchmark, and not part of its mean accuracy.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
STORED: Table[str] = Table(
    "stored corruption", {name: f"{name}.npy" for name in NAMES + EXTRA}, closed=True
)


def _path_of(file: str) -> Path:
    return data_root() / "CIFAR-10-C" / file


@functools.lru_cache(maxsize=32)
def _open(path: Path, shape: tuple[int, ...], modified_ns: int) -> np.ndarray:
    """A memory-mapped array, after checking its type and shape.

    `modified_ns`, the file's modification time, is part of the cache's key: a file that was
    replaced is opened again.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a broken header makes NumPy's parser raise nearly anything
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{path}: not a readable .npy array ({reason})") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.shape != shape:
        found = f"{getattr(array, 'dtype', type(array))} of shape {getattr(array, 'shape', '?')}"
        raise ValueError(f"{path}: {found}; CIFAR-10-C's is uint8 of shape {shape}")
    return array


def _array(file: str, shape: tuple[int, ...]) -> np.ndarray:
    """Raises: ValueError where the file does not exist or is not CIFAR-10-C's."""
    path = _path_of(file)
    try:
        modified_ns = path.stat().st_mtime_ns
    except OSError:
        raise ValueError(
            f"{path}: no such file; put CIFAR-10-C's files (zenodo.org/records/2535967) in "
            f"{path.parent}, or set DISTIL_DATA to the folder that contains CIFAR-10-C"
        ) from None
    return _open(path, shape, modified_ns)


def rows_of(keys: tuple[str, ...], spec: str) -> np.ndarray:
    """The index in CIFAR-10's test split of the image that each key names, int64 (N,).

    Raises: ValueError for a key of another split or data set.
    """
    found = [KEY.fullmatch(key) for key in keys]
    for key, match in zip(keys, found, strict=True):
        if match is None or int(match[1]) >= COUNT:
            raise ValueError(
                f"arm `{spec}`: sample `{key}` is not a test image of cifar10, and CIFAR-10-C has "
                "no other images"
            )
    return np.array([int(match[1]) for match in found if match], dtype=np.int64)


def check_dataset(specs: Iterable[str], dataset: str) -> None:
    """Raises: ValueError where `specs` has a stored arm and the data set is not cifar10."""
    for spec in specs:
        if spec.startswith("stored:") and dataset != "cifar10":
            raise ValueError(
                f"arm `{spec}`: CIFAR-10-C has the test images of cifar10, not those of {dataset}"
            )


def check_stored(spec: str, keys: tuple[str, ...], labels_N: np.ndarray) -> None:
    """Check that the arm's file exists and that its labels are those of the samples.

    `labels_N`: integers (N,), of the samples that `keys` names. The labels show whether the file
    has the images in CIFAR-10's order.
    Raises: ValueError where a file is missing or damaged, or a label differs.
    """
    op = StoredImages(*_parts(spec))
    _ = op.images
    labels = _array("labels.npy", SHAPE[:1])
    start = (op.severity - 1) * COUNT
    bad_N = labels[start + rows_of(keys, spec)] != labels_N
    if bad_N.any():
        key = keys[int(np.argmax(bad_N))]
        raise ValueError(
            f"{_path_of('labels.npy')}: its label of sample `{key}` is not the data set's; these "
            "files are not CIFAR-10-C, or the data set is not cifar10"
        )


def is_extra(spec: str) -> bool:
    """Whether an arm is a corruption beyond the 15 that benchmark means are taken over."""
    return spec.startswith("stored:") and _parts(spec)[0] in EXTRA


def _parts(spec: str) -> tuple[str, int]:
    _, name, severity = spec.split(":")
    return name, int(severity)


@dataclass(frozen=True)
class StoredImages(Op):
    """Replaces each image by the stored one of the same row, at one severity."""

    name: str = "fog"
    severity: int = 3
    columns: ClassVar[tuple[str, ...]] = ("row",)

    @property
    def images(self) -> np.ndarray:
        """The whole file, memory-mapped: uint8 (50000, 32, 32, 3).

        Raises: ValueError where it is missing or damaged.
        """
        return _array(STORED[self.name], SHAPE)

    def pixels(self, images_BCHW: torch.Tensor, params_BC: torch.Tensor) -> torch.Tensor:
        rows = params_BC[:, 0].cpu().numpy() + (self.severity - 1) * COUNT
        found_BHWC = torch.from_numpy(self.images[rows])
        return found_BHWC.permute(0, 3, 1, 2).contiguous().to(images_BCHW.device)


@dataclass(frozen=True)
class StoredArm(Arm):
    """An arm whose only parameter is the sample's row in the file, the same in every view."""

    @property
    def test_only(self) -> bool:
        return True

    @property
    def stochastic(self) -> bool:
        return False

    def draw(self, seed: int, keys: tuple[str, ...], views: int) -> np.ndarray:
        """Rows int64 (N, views, 1). Raises: ValueError for keys that CIFAR-10-C does not have."""
        return np.broadcast_to(rows_of(keys, self.spec)[:, None, None], (len(keys), views, 1))
