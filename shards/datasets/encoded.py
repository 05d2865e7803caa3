"""Data sets of encoded images of any size: one way to decode, one rule for sizes."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from shards.datasets.base import SPLITS, Block

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 64 * 1024 * 1024  # a picture that claims more is refused before it is decoded


class PictureDataset:
    """Everything of `Dataset` but where keys, labels and encoded bytes come from.

    A subclass sets `spec`, `classes`, `identity`, `_keys` and `_labels`, gives `_encoded`, and
    calls `_settle` once these are there. Images keep their size when all are square and equal;
    otherwise `image_size` says to which square they are brought (shorter side to it with Pillow's
    bicubic filter, then centre crop).
    """

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
            with _no_bomb_warnings():
                for data, place in self._encoded(split, firsts):
                    sizes.setdefault(open_image(data, place).size, place)
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
        with _no_bomb_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(self._decode, encoded))
        keys = tuple(self._keys[split][i] for i in index_B)
        return Block(np.stack(images), self._labels[split][index_B], keys)

    def _decode(self, encoded: tuple[bytes, str]) -> np.ndarray:
        data, place = encoded
        rgb = decode_image(data, place)
        side = self.image_size
        if not self._fit and rgb.size != (side, side):
            raise self._unequal(place, rgb.width, rgb.height)
        return np.asarray(fit(rgb, side))


@contextlib.contextmanager
def _no_bomb_warnings() -> Iterator[None]:
    """Pillow warns of pictures that are refused here. Not thread-safe: enter before threads."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def open_image(data: bytes, place: str) -> Picture:
    """Read the header only. Refuses bombs and what is not an image."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{place}: {str(error).rstrip('.')}; refused") from None
    except Exception as error:  # each format's parser has errors of its own
        raise _unreadable(place, error) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{place}: claims {width}x{height} pixels, more than {MAX_PIXELS:,}; refused"
        )
    return image


def decode_image(data: bytes, place: str) -> Picture:
    """Encoded bytes -> RGB picture. Refuses bombs, cuts and what is not an image."""
    image = open_image(data, place)
    try:
        return image.convert("RGB")
    except Exception as error:  # each format's decoder has errors of its own
        raise _unreadable(place, error) from None


def _unreadable(place: str, error: Exception) -> ValueError:
    detail = str(error).split(" <_io")[0].split(" file <")[0]
    return ValueError(f"{place}: not a readable image ({detail}); expected e.g. PNG or JPEG")


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
