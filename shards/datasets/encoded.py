"""Data sets of encoded images of any size: one way to decode, one rule for sizes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from shards.datasets.base import SPLITS, Block
from shards.datasets.decoder import DECODER_VERSION, decode, no_bomb_warnings, upright_size

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


class PictureDataset:
    """Everything of `Dataset` but where keys, labels and encoded bytes come from.

    A subclass sets `spec`, `classes`, `identity`, `_keys` and `_labels`, gives `_encoded`, and
    calls `_settle` once these are there. Images keep their size when all are square and equal;
    otherwise `image_size` says to which square they are brought (shorter side to it with Pillow's
    bicubic filter, then centre crop).
    """

    decoder: int | None = DECODER_VERSION
    spec: str
    classes: tuple[str, ...]
    image_size: int
    identity: str
    _keys: dict[str, tuple[str, ...]]
    _labels: dict[str, np.ndarray]
    _fit: bool

    def _encoded(self, split: str, index_B: np.ndarray) -> list[tuple[bytes, str]]:
        """The encoded image of each sample and the place it came from."""
        raise NotImplementedError

    def _settle(self, image_size: int | None) -> None:
        """Fix the side: `image_size`, else what the first image of every class shares."""
        self._fit = image_size is not None
        self.image_size = image_size or self._common_size()

    def _common_size(self) -> int:
        sizes: dict[tuple[int, int], str] = {}
        for split in SPLITS:
            firsts = np.unique(self._labels[split], return_index=True)[1]
            with no_bomb_warnings():
                for data, place in self._encoded(split, firsts):
                    sizes.setdefault(upright_size(data, place), place)
        (width, height), place = list(sizes.items())[-1]
        if len(sizes) > 1 or width != height:
            raise self._unequal(place, width, height)
        return width

    def _unequal(self, place: str, width: int, height: int) -> ValueError:
        return ValueError(
            f"dataset {self.spec}: images differ in size or are not square ({place} is "
            f"{width}x{height}); say --image-size S"
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
        """Decoded by as many threads as there are cores."""
        encoded = self._encoded(split, index_B)
        with no_bomb_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(self._decode, encoded))
        keys = tuple(self._keys[split][i] for i in index_B)
        return Block(np.stack(images), self._labels[split][index_B], keys)

    def _decode(self, encoded: tuple[bytes, str]) -> np.ndarray:
        data, place = encoded
        rgb = decode(data, place)
        side = self.image_size
        if not self._fit and rgb.size != (side, side):
            raise self._unequal(place, rgb.width, rgb.height)
        return np.asarray(fit(rgb, side))


def fit(rgb: Picture, side: int) -> Picture:
    """Shorter side to `side` with the bicubic filter, then the centre `side` x `side`."""
    from PIL import Image

    if rgb.size == (side, side):
        return rgb
    scale = side / min(rgb.size)
    wide, high = max(side, round(rgb.width * scale)), max(side, round(rgb.height * scale))
    left, top = (wide - side) // 2, (high - side) // 2
    rgb = rgb.resize((wide, high), Image.Resampling.BICUBIC)
    return rgb.crop((left, top, left + side, top + side))
