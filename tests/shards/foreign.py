"""WebDataset shards of others, made for tests."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from shards.datasets import open_dataset

PIXELS_NHWC = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)


def encoded(row: int, kind: str = "png", size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS_NHWC[row]).resize(size).save(buffer, kind)
    return buffer.getvalue()


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write_tar(file: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], **options) -> Path:
    """A tar as tarfile makes it; a TarInfo in place of a name sets more than name and size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **options) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return file


def samples(first: int, count: int, label=lambda row: row % 3) -> list:
    rows = range(first, first + count)
    parts = [[(f"{r:04d}.png", encoded(r)), (f"{r:04d}.cls", b"%d" % label(r))] for r in rows]
    return [member for part in parts for member in part]


def opened(folder: Path, image_size: int | None = None, pattern: str = "{split}-*.tar"):
    return open_dataset(f"wds:{folder}/{pattern}", image_size)
