"""From uint8 images to a network's input: the teacher's resizing, crop and normalisation.

Resizing is `shards.support.resample.resize`, which is bit-identical on every device.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from shards.support.resample import resize

CPU_BATCH = 16  # images per batch on one core: larger batches are no faster and use more memory
CPU_PIXELS = 224 * 224  # pixels normalised at a time: as float32 they fit in a core's cache


class Preprocess(BaseModel):
    """The evaluation transform of a teacher for square images, as data that a manifest can store.

    Resize to `resize` pixels a side (None: to `size`), crop the centre `size` x `size`, scale to
    [0, 1], then (x - mean) / std for each channel. For square images this equals the evaluation
    transforms of open_clip and timm in each of their resize and crop modes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=1)
    resize: int | None = Field(default=None, ge=1)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def native(self, image_size: int) -> Preprocess:
        """The same normalisation without resizing, for images of `image_size` pixels a side.

        Students see the images at their original resolution.
        """
        return self.model_copy(update={"size": image_size, "resize": None})

    def nyquist(self, image_size: int) -> float:
        """The highest frequency of images of `image_size` pixels, in cycles per input pixel.

        In (0, 0.5]: 0.5 where the images are not enlarged, less in proportion where they are.
        """
        return min(0.5, 0.5 * image_size / (self.resize or self.size))

    def pixels(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Resize and crop uint8 images (B, 3, H, W): uint8 (B, 3, size, size)."""
        wide = resize(images_BCHW, self.resize or self.size, self.interpolation)
        first = round((wide.shape[-1] - self.size) / 2.0)
        return wide[..., first : first + self.size, first : first + self.size]

    def __call__(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Resize, crop and normalise uint8 images (B, 3, H, W): float32 (B, 3, size, size).

        The result has the channels-last memory format, which convolutions are fastest in.
        """
        device, side, batch = images_BCHW.device, self.size, len(images_BCHW)
        scale, shift = _row(self.mean, self.std, side, device)
        if device.type == "cpu":
            # Small images in as large pieces as others: each piece costs some calls of torch.
            step = max(CPU_BATCH, CPU_BATCH * CPU_PIXELS // side**2)
            rows = max(1, CPU_PIXELS // side)
            # NumPy's allocator requests huge pages from the kernel and torch's does not, which
            # makes the first write to new memory three times as fast.
            out = torch.from_numpy(np.empty((batch, side, side * 3), dtype=np.float32))
        else:
            step, rows = max(1, batch), max(1, batch * side)
            out = torch.empty(batch, side, side * 3, device=device)
        # One multiply-add into the output per cache-sized piece, instead of four passes over all
        # of it (convert, divide by 255, subtract the mean, divide by the standard deviation).
        for images, floats in zip(images_BCHW.split(step), out.split(step), strict=True):
            levels = self.pixels(images).permute(0, 2, 3, 1).reshape(-1, side * 3)
            parts = zip(levels.split(rows), floats.view(-1, side * 3).split(rows), strict=True)
            for some, part in parts:
                torch.addcmul(shift, part.copy_(some), scale, out=part)
        return out.view(batch, side, side, 3).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _row(
    mean: tuple[float, ...], std: tuple[float, ...], side: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of one row of `side` RGB pixels, each (3 side,): x -> scale * x + shift."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.repeat(side), shift.repeat(side)
