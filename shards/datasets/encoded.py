"""Data sets of encoded images of any size: how they are decoded and brought to one size."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from shards.datasets.base import SPLITS, Block, have_names
from shards.datasets.decoder import (
    DECODER_VERSION,
    MAX_PIXELS,
    decode,
    no_bomb_warnings,
    upright_size,
)
from shards.datasets.left_out import LeftOut


class PictureDataset:
    """A `Dataset` of encoded images; a subclass finds the keys, the labels and the encoded bytes.

    A subclass sets `spec`, `classes`, `identity`, `left_out`, `_keys` and `_labels`, implements
    `_encoded`, and calls `_settle` after it has set all but `identity`. Images keep their size
    where all are square and of one size; otherwise `image_size` is required, and each image is
    brought to that square (shorter side to it with Pillow's bicubic filter, then centre crop).
    """

    decoder: int | None = DECODER_VERSION
    spec: str
    classes: tuple[str, ...]
    image_size: int
    identity: str
    left_out: LeftOut
    _keys: dict[str, tuple[str, ...]]
    _labels: dict[str, np.ndarray]
    _fit: bool

    def _encoded(self, split: str, index_B: np.ndarray) -> list[tuple[bytes, str]]:
        """(bytes, path or description for error messages) of each sample's encoded image."""
        raise NotImplementedError

    def _settle(self, image_size: int | None) -> None:
        """Report what is left out, and fix the side of the images.

        The side is `image_size`, or else that of the first image of every class.
        """
        for split in SPLITS:
            missing = sorted(set(range(len(self.classes))) - set(self._labels[split].tolist()))
            if missing:
                kind = f"classes without a {split} image"
                self.left_out.add(kind, self.classes[missing[0]], len(missing))
        again = [name for name, count in Counter(self.classes).items() if count > 1]
        if again:
            kind = "names that several classes have, whose text prompts are the same"
            self.left_out.add(kind, again[0], len(again))
        if not have_names(self.classes):
            kind = "classes without names, so without text prompts and zero-shot figures"
            self.left_out.add(kind, self.classes[0], len(self.classes))
        self.left_out.report(self.spec)
        self._fit = image_size is not None
        self.image_size = image_size or self._common_size()

    def _common_size(self) -> int:
        sizes: dict[tuple[int, int], str] = {}
        for split in SPLITS:
            firsts = np.unique(self._labels[split], return_index=True)[1]
            with no_bomb_warnings():
                for data, path in self._encoded(split, firsts):
                    sizes.setdefault(upright_size(data, path), path)
        (width, height), path = list(sizes.items())[-1]
        if len(sizes) > 1 or width != height:
            raise self._unequal(path, width, height)
        return width

    def _unequal(self, path: str, width: int, height: int) -> ValueError:
        return ValueError(
            f"dataset {self.spec}: images differ in size or are not square ({path} is "
            f"{width}x{height}); choose a size with --image-size S"
        )

    def count(self, split: str) -> int:
        return len(self._keys[split])

    def keys(self, split: str) -> tuple[str, ...]:
        return self._keys[split]

    def labels(self, split: str) -> np.ndarray:
        return self._labels[split]

    def read(self, split: str, start: int, stop: int) -> Block:
        return self.take(split, np.arange(start, min(stop, self.count(split))))

    def take(self, split: str, index_B: np.ndarray) -> Block:
        """Images, labels and keys by index; one thread a core decodes."""
        encoded = self._encoded(split, index_B)
        with no_bomb_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(self._decode, encoded))
        keys = tuple(self._keys[split][i] for i in index_B)
        return Block(np.stack(images), self._labels[split][index_B], keys)

    def _decode(self, encoded: tuple[bytes, str]) -> np.ndarray:
        data, path = encoded
        rgb = decode(data, path)
        side = self.image_size
        if not self._fit and rgb.size != (side, side):
            raise self._unequal(path, rgb.width, rgb.height)
        return np.asarray(fit(rgb, side, path))


def fit(rgb: Image.Image, side: int, path: str) -> Image.Image:
    """Shorter side to `side` with the bicubic filter, then the centre `side` x `side`.

    Raises: ValueError naming `path` where the resized image would have over MAX_PIXELS: a narrow
        strip of a few bytes would need gigabytes.
    """
    if rgb.size == (side, side):
        return rgb
    scale = side / min(rgb.size)
    wide, high = max(side, round(rgb.width * scale)), max(side, round(rgb.height * scale))
    if wide * high > MAX_PIXELS:
        raise ValueError(
            f"{path}: {rgb.width}x{rgb.height} pixels, which a shorter side of {side} makes "
            f"{wide}x{high}, more than {MAX_PIXELS:,}; crop it, or choose a smaller image size"
        )
    left, top = (wide - side) // 2, (high - side) // 2
    rgb = rgb.resize((wide, high), Image.Resampling.BICUBIC)
    return rgb.crop((left, top, left + side, top + side))
