"""`folder:DIR`: an ordinary image folder, any format Pillow reads."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shards.samples import SPLITS, Block

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 64 * 1024 * 1024  # a picture that claims more is refused before it is decoded


class FolderDataset:
    """`DIR/train/<class>/*` and `DIR/test/<class>/*`, any format Pillow reads.

    Order: by class name, then file name. Images keep their size when all are square and equal;
    otherwise `--image-size S` must say to which S x S they are brought (shorter side to S with
    Pillow's bicubic filter, then centre crop).
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
        self._labels: dict[str, np.ndarray] = {}
        for split in SPLITS:
            self._list(split)
        self._fit = image_size is not None
        self.image_size = image_size or self._common_size()
        self.identity = self._identity()

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

    def _common_size(self) -> int:
        """The one side all images share; probes the first of every class, read() checks all."""
        sizes: dict[tuple[int, int], Path] = {}
        for split in SPLITS:
            firsts = np.unique(self._labels[split], return_index=True)[1]
            for index in firsts:
                file = self._files[split][index]
                sizes.setdefault(open_image(file.read_bytes(), str(file)).size, file)
        (width, height), example = next(iter(sizes.items()))
        if len(sizes) > 1 or width != height:
            raise ValueError(
                f"dataset {self.spec}: images differ in size or are not square "
                f"({example.name} is {width}x{height}); say --image-size S"
            )
        return width

    def _identity(self) -> str:
        digest = hashlib.sha256(repr((self.classes, self.image_size)).encode())
        for split in SPLITS:
            for key, file in zip(self.keys(split), self._files[split], strict=True):
                digest.update(f"{split} {key} {file.stat().st_size}\n".encode())
        return digest.hexdigest()

    def count(self, split: str) -> int:
        return len(self._files[split])

    def keys(self, split: str) -> tuple[str, ...]:
        return tuple(f"{split}/{f.parent.name}/{f.name}" for f in self._files[split])

    def labels(self, split: str) -> np.ndarray:
        return self._labels[split]

    def read(self, split: str, start: int, stop: int) -> Block:
        files = self._files[split][start:stop]
        images = np.stack([self._decode(f) for f in files])
        return Block(images, self._labels[split][start:stop], self.keys(split)[start:stop])

    def _decode(self, file: Path) -> np.ndarray:
        rgb = decode_image(file.read_bytes(), str(file))
        side = self.image_size
        if not self._fit and rgb.size != (side, side):
            raise ValueError(
                f"dataset {self.spec}: images differ in size or are not square ({file} is "
                f"{rgb.width}x{rgb.height}, others {side}x{side}); say --image-size S"
            )
        return np.asarray(fit(rgb, side))


def open_image(data: bytes, place: str) -> Picture:
    """Read the header only. Refuses bombs and what is not an image."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
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
